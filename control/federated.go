package control

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const (
	maxFederated     = 20 // Azure's limit per identity
	exchangeAudience = "api://AzureADTokenExchange"
)

var federatedName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{2,119}$`)

// Federated credentials say which outside tokens a source's identity can be had
// for: Azure's federatedIdentityCredentials, under the source itself.
func (c *Control) federatedRoutes() []*route {
	return c.childRoutes("federatedIdentityCredentials", map[string]func(*call) (*answer, error){
		"GET": (*call).listFederated, "GET one": (*call).getFederated, "PUT one": (*call).putFederated, "DELETE one": (*call).removeFederated,
	})
}

// childRoutes are routes of something that every source has, in a group or not.
// The id of a request is the source's; "{name}" is the child's.
func (c *Control) childRoutes(child string, handle map[string]func(*call) (*answer, error)) []*route {
	var all []*route
	rights := map[string]string{"GET": "read", "PUT": "write", "POST": "write", "DELETE": "delete"}
	for _, in := range []string{"/subscriptions/{subscription}/resourceGroups/{group}/providers/", "/subscriptions/{subscription}/providers/"} {
		for _, what := range []string{"GET", "POST", "GET one", "PUT one", "DELETE one"} {
			h := handle[what]
			if h == nil {
				continue
			}
			method, pattern, drop := what, in+"{resource...}/"+child, 1
			if len(what) > 4 && what[len(what)-3:] == "one" {
				method, pattern, drop = what[:len(what)-4], pattern+"/{name}", 2
			}
			all = append(all, &route{method: method, pattern: pattern, drop: drop, action: "{type}/" + child + "/" + rights[method],
				need: needSubscription | needGroup | needSource, passesLocks: method == http.MethodDelete, handle: h})
		}
	}
	return all
}

// sourceOf is the source that a child's request is about.
func sourceOf(id arm.ID) arm.ID { return id }

func federatedPrefix(s *store.Source) string {
	return store.FederatedPrefix + trust.Fold(s.Identity.ClientID) + "/"
}

// identity is the source's, which must have one.
func (k *call) identity() (*store.SystemIdentity, error) {
	if i := k.source.Value.Identity; i != nil {
		return i, nil
	}
	return nil, arm.Errorf(trust.Invalid, arm.BadRequest, "The resource '%s' has no system-assigned identity. Set identity.type to SystemAssigned first.", k.source.Value.ID)
}

type federatedBody struct {
	ID         string              `json:"id"`
	Name       string              `json:"name"`
	Type       string              `json:"type"`
	Properties federatedProperties `json:"properties"`
	SystemData *systemData         `json:"systemData,omitempty"`
}

type federatedProperties struct {
	Issuer    string   `json:"issuer"`
	Subject   string   `json:"subject"`
	Audiences []string `json:"audiences"`
	// Keys are the issuer's, handed over because it cannot be reached
	// (RFC 7517). Azure has no such property.
	Keys json.RawMessage `json:"keys,omitempty"`
}

func (k *call) bodyOfFederated(f *store.Federated) federatedBody {
	s := &k.source.Value
	return federatedBody{
		ID: s.ID + "/federatedIdentityCredentials/" + f.Name, Name: f.Name, Type: s.Type + "/federatedIdentityCredentials",
		Properties: federatedProperties{f.Issuer, f.Subject, f.Audiences, f.JWKS}, SystemData: systemDataOf(f.Stamp),
	}
}

func (k *call) allFederated() ([]store.Item[store.Federated], int64, error) {
	if _, err := k.identity(); err != nil {
		return nil, 0, err
	}
	return store.List[store.Federated](k.ctx, k.Store, federatedPrefix(&k.source.Value))
}

func (k *call) listFederated() (*answer, error) {
	all, _, err := k.allFederated()
	if err != nil {
		return nil, err
	}
	var list []federatedBody
	for _, f := range all {
		list = append(list, k.bodyOfFederated(&f.Value))
	}
	return ok(arm.NewList(list, "")), nil
}

// federated finds the credential of the path; none is the zero item.
func (k *call) federated() (store.Item[store.Federated], error) {
	i, err := k.identity()
	if err != nil {
		return store.Item[store.Federated]{}, err
	}
	if !federatedName.MatchString(k.vars["name"]) {
		return store.Item[store.Federated]{}, badName("federatedIdentityCredentialResourceName", k.vars["name"], federatedName.String(), 120)
	}
	return store.Find[store.Federated](k.ctx, k.Store, store.Federated{ClientID: i.ClientID, Name: k.vars["name"]}.Key())
}

func (k *call) getFederated() (*answer, error) {
	f, err := k.federated()
	if err != nil {
		return nil, err
	}
	if f.Revision == 0 {
		return nil, arm.NoResource(k.id.Child("federatedIdentityCredentials", k.vars["name"]))
	}
	return ok(k.bodyOfFederated(&f.Value)), nil
}

func (k *call) putFederated() (*answer, error) {
	var body struct{ Properties federatedProperties }
	if _, err := k.decode(&body); err != nil {
		return nil, err
	}
	old, err := k.federated()
	if err != nil {
		return nil, err
	}
	p := body.Properties
	if err := checkFederated(&p); err != nil {
		return nil, err
	}
	all, rev, err := k.allFederated()
	if err != nil {
		return nil, err
	}
	if old.Revision == 0 && len(all) >= maxFederated {
		return nil, arm.Errorf(trust.Invalid, arm.QuotaExceeded, "The identity of '%s' has %d federated credentials already, which is the limit.", k.source.Value.ID, len(all))
	}
	for _, f := range all {
		if f.Value.Issuer == p.Issuer && f.Value.Subject == p.Subject && !is(f.Value.Name, k.vars["name"]) {
			return nil, arm.Errorf(trust.Conflict, arm.Conflict, "The federated credential '%s' has the same issuer and subject. They must be unique on one identity.", f.Value.Name)
		}
	}
	f, write, status := old.Value, store.Create, http.StatusCreated
	if old.Revision != 0 {
		write, status = updating(old.Revision), http.StatusOK
	} else {
		f.ClientID, f.Name = k.source.Value.Identity.ClientID, k.vars["name"]
	}
	f.Issuer, f.Subject, f.Audiences, f.JWKS, f.Stamp = p.Issuer, p.Subject, p.Audiences, p.Keys, k.stamp(f.Stamp, &k.caller)
	if _, err := k.commit(k.durable(), write(f), store.Guard(k.source.Value.Key(), k.source.Revision), store.Quiet(federatedPrefix(&k.source.Value), rev)); err != nil {
		return nil, err
	}
	return &answer{status: status, body: k.bodyOfFederated(&f)}, nil
}

// checkFederated checks what can be checked without reaching the issuer. Whether
// its address may be reached at all is asked when it is.
func checkFederated(p *federatedProperties) error {
	u, err := url.Parse(p.Issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || len(p.Issuer) > 600 {
		return arm.BadParameter("properties.issuer", "'%.200s' is not an https URL without query and fragment", p.Issuer)
	}
	if p.Subject == "" || len(p.Subject) > 600 {
		return arm.BadParameter("properties.subject", "it must have 1 to 600 characters")
	}
	switch len(p.Audiences) {
	case 0:
		p.Audiences = []string{exchangeAudience}
	case 1:
		if a := p.Audiences[0]; a == "" || len(a) > 600 {
			return arm.BadParameter("properties.audiences", "an audience must have 1 to 600 characters")
		}
	default:
		return arm.BadParameter("properties.audiences", "exactly one audience is allowed")
	}
	if string(p.Keys) == "null" {
		p.Keys = nil
	}
	if len(p.Keys) > 0 {
		if p.Keys, err = publicKeys(p.Keys); err != nil {
			return arm.BadParameter("properties.keys", "it holds no JSON Web Key set with a usable key")
		}
	}
	return nil
}

// publicKeys reads a key set and writes it again with nothing in it but the
// public keys that can be used: what else came along is not ours to keep.
func publicKeys(raw json.RawMessage) (json.RawMessage, error) {
	keys, err := authn.ParseKeys(raw)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, errors.New("no usable key")
	}
	var set jose.JSONWebKeySet
	for _, key := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public, KeyID: key.ID, Algorithm: key.Algorithm, Use: "sig"})
	}
	return json.Marshal(set)
}

func (k *call) removeFederated() (*answer, error) {
	f, err := k.federated()
	if err != nil {
		return nil, err
	}
	if f.Revision == 0 {
		return empty(http.StatusNoContent), nil
	}
	if _, err := k.commit(k.durable(), store.Delete(f.Value.Key(), f.Revision)); err != nil {
		return nil, err
	}
	return empty(http.StatusOK), nil
}
