package control

import (
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const groupSourceType = "Sallyport.Identity/groups"

// A group of people is a source: one group of one OIDC issuer. Bindings name it
// as they name a service, and role assignments by its principal id.
func (c *Control) groupSourceRoutes() []*route {
	const all = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Sallyport.Identity/groups"
	r := func(method, pattern, action string, drop int, handle func(*call) (*answer, error)) *route {
		return &route{method: method, pattern: pattern, typ: groupSourceType, versions: arm.Sallyport, drop: drop, action: groupSourceType + "/" + action,
			need: needSubscription | needGroup, handle: handle}
	}
	return []*route{
		r("GET", all, "read", 3, (*call).listPeopleGroups),
		r("GET", all+"/{name}", "read", 0, (*call).getSource),
		r("PUT", all+"/{name}", "write", 0, (*call).putPeopleGroup),
		r("PATCH", all+"/{name}", "write", 0, (*call).patchPeopleGroup),
		r("DELETE", all+"/{name}", "delete", 0, (*call).removeSource),
	}
}

// peopleGroup is what a group's resource says.
type peopleGroup struct {
	Issuer      string `json:"issuer"`   // as its tokens' iss says it; default: the built-in authority
	TenantID    string `json:"tenantId"` // of its tokens; default: this installation's
	Group       string `json:"group"`    // as the tokens' groups claim has it; default: the resource's name
	PrincipalID string `json:"principalId"`
}

func (g peopleGroup) principal() trust.Principal {
	return trust.Principal{Issuer: g.Issuer, Tenant: g.TenantID, Object: g.Group}
}

// isPeople tells whether a source is a group of people.
func isPeople(s *store.Source) bool { return is(s.Type, groupSourceType) }

func peopleGroupOf(s *store.Source) (peopleGroup, error) {
	var g peopleGroup
	if err := json.Unmarshal(s.Properties, &g); err != nil || g.Issuer == "" || g.TenantID == "" || g.Group == "" || g.PrincipalID == "" {
		return g, trust.Errorf(trust.Internal, "the stored group %s cannot be read", s.ID).Because(err)
	}
	return g, nil
}

// sourcePrincipal is whom a binding to a source lets in.
func (c *Control) sourcePrincipal(s *store.Source) (trust.Principal, error) {
	if isPeople(s) {
		g, err := peopleGroupOf(s)
		return g.principal(), err
	}
	return trust.Principal{Issuer: c.Issuer, Tenant: s.Identity.TenantID, Object: s.Identity.PrincipalID}, nil
}

func (k *call) listPeopleGroups() (*answer, error) {
	k.vars["namespace"], k.vars["type"] = "Sallyport.Identity", "groups"
	return k.listSources()
}

// putPeopleGroup registers a group. Which group it is cannot be changed: what is
// bound to it would pass to other people.
func (k *call) putPeopleGroup() (*answer, error) {
	if !federatedName.MatchString(k.vars["name"]) {
		return nil, badName("groupName", k.vars["name"], federatedName.String(), 120)
	}
	var body sourceRequest
	data, err := k.decode(&body)
	if err != nil {
		return nil, err
	}
	old, err := k.findSource()
	if err != nil {
		return nil, err
	}
	if err := k.conditions(old.Revision); err != nil {
		return nil, err
	}
	if err := groupOpen(&k.group.Value); err != nil {
		return nil, err
	}
	if err := checkTags(body.Tags); err != nil {
		return nil, err
	}
	p, err := parseBag(body.Properties)
	if err != nil {
		return nil, err
	}
	g, err := k.wantedGroup(p)
	if err != nil {
		return nil, err
	}
	s, write, status := old.Value, store.Create, http.StatusCreated
	if old.Revision == 0 {
		s = store.Source{ID: k.id.String(), Type: groupSourceType}
		g.PrincipalID = newUID()
	} else {
		write, status = updating(old.Revision), http.StatusOK
		was, err := peopleGroupOf(&s)
		if err != nil {
			return nil, err
		}
		if was.principal() != g.principal() {
			return nil, arm.BadParameter("properties.group", "which group the resource is cannot be changed: it is '%.200s' of issuer %s, tenant %s. Delete it and make another", was.Group, was.Issuer, was.TenantID)
		}
		g.PrincipalID = was.PrincipalID
	}
	if s.Other, err = others(data); err != nil {
		return nil, err
	}
	s.Properties = p.drop("provisioningState").set("issuer", g.Issuer).set("tenantId", g.TenantID).set("group", g.Group).set("principalId", g.PrincipalID).store()
	s.Tags, s.State, s.Stamp = body.Tags, arm.Succeeded, k.stamp(s.Stamp, &k.caller)
	if body.Location != "" {
		s.Location = arm.NormalLocation(body.Location)
	}
	ops := append(k.within(write(s)), store.Put(store.RegisteredGroup{PrincipalID: g.PrincipalID, Group: g.principal(), SourceID: s.ID}))
	if _, err := k.commit(k.durable(), ops...); err != nil {
		return nil, err
	}
	return &answer{status: status, body: bodyOfSource(&s)}, nil
}

// wantedGroup reads and checks what a PUT asks for.
func (k *call) wantedGroup(p bag) (peopleGroup, error) {
	g := peopleGroup{}
	for name, into := range map[string]*string{"issuer": &g.Issuer, "tenantId": &g.TenantID, "group": &g.Group} {
		if _, err := p.get(name, into); err != nil {
			return g, err
		}
	}
	if g.Issuer == "" {
		g.Issuer = k.Issuer
	}
	if g.TenantID == "" {
		g.TenantID = k.Tenant
	}
	if g.Group == "" {
		g.Group = k.vars["name"]
	}
	g.TenantID = trust.Fold(g.TenantID)
	// It is compared and never fetched from.
	u, err := url.Parse(g.Issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || len(g.Issuer) > 600 {
		return g, arm.BadParameter("properties.issuer", "'%.200s' is not an https URL without query and fragment", g.Issuer)
	}
	if len(g.TenantID) > 200 {
		return g, arm.BadParameter("properties.tenantId", "it has more than 200 characters")
	}
	if len(g.Group) > 256 {
		return g, arm.BadParameter("properties.group", "it has more than 256 characters")
	}
	return g, nil
}

// patchPeopleGroup changes tags.
func (k *call) patchPeopleGroup() (*answer, error) {
	var body struct{ Tags *map[string]string }
	if _, err := k.decode(&body); err != nil {
		return nil, err
	}
	old, err := k.findSource()
	if err != nil {
		return nil, err
	}
	if old.Revision == 0 {
		return nil, arm.NoResource(k.id)
	}
	if err := k.conditions(old.Revision); err != nil {
		return nil, err
	}
	s := old.Value
	if body.Tags != nil {
		if err := checkTags(*body.Tags); err != nil {
			return nil, err
		}
		s.Tags = *body.Tags
	}
	s.Stamp = k.stamp(s.Stamp, &k.caller)
	if _, err := k.commit(k.durable(), k.within(store.Update(s, old.Revision))...); err != nil {
		return nil, err
	}
	return ok(bodyOfSource(&s)), nil
}
