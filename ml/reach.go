package ml

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Codes of what can stand between a workspace and its extension; Azure's where
// it has them.
const (
	codeNoBinding      = "TrustedAccessRoleBindingNotFound"
	codeNotInForce     = "TrustedAccessRoleBindingNotInForce"
	codeNoCluster      = "ClusterNotFound"
	codeStopped        = "ClusterStopped"
	codeNotReachable   = "ClusterNotReachable"
	codeUnauthorized   = "ClusterUnauthorized"
	codeNoExtension    = "ExtensionNotInstalled"
	codeNoService      = "ClusterServiceNotFound"
	codeExtensionSick  = "ExtensionUnhealthy"
	codeIdentity       = "WorkspaceIdentityNotUsable"
	codeExtensionTrust = "ExtensionRefusesWorkspace"
)

// withoutAccess tells whether an error means that the workspace may not reach
// the cluster now: nothing that trying again would mend.
func withoutAccess(err error) bool {
	var e *trust.Error
	return errors.As(err, &e) && slices.Contains([]string{codeNoBinding, codeNotInForce, codeNoCluster, codeStopped, codeIdentity}, e.Code)
}

func thumbprint(key *ecdsa.PrivateKey) (string, error) {
	sum, err := (&jose.JSONWebKey{Key: key.Public()}).Thumbprint(crypto.SHA256)
	return base64.RawURLEncoding.EncodeToString(sum), err
}

// extension is a cluster's, as one workspace reaches it.
type extension struct {
	*ML
	cluster    string // name, for messages
	uid        string
	credential *client.AuthorityCredential
}

// reach finds the way to a cluster's extension: the binding must be there and in
// force. Whether the cluster answers is seen when it is called.
func (m *ML) reach(ctx context.Context, w *store.Item[store.Source], clusterID string) (*extension, error) {
	cluster, err := m.bound(ctx, &w.Value, clusterID)
	if err != nil {
		return nil, err
	}
	identity := w.Value.Identity
	m.mu.Lock()
	defer m.mu.Unlock()
	credential := m.credentials[identity.ClientID]
	if credential == nil {
		if len(m.credentials) > 10_000 { // tokens are had again
			clear(m.credentials)
		}
		credential = &client.AuthorityCredential{Authority: m.Base, Trust: m.Trust, Tenant: m.Tenant, ClientID: identity.ClientID,
			Secret: client.Secret{Assertion: m.assertion(identity.PrincipalID)}, Now: m.Now}
		m.credentials[identity.ClientID] = credential
	}
	id, err := arm.ParseID(cluster.ID)
	if err != nil {
		return nil, err
	}
	return &extension{ML: m, cluster: id.Name(), uid: string(cluster.UID), credential: credential}, nil
}

// bound is the first thing that is asked: the cluster is there and started, and
// a binding lets this very identity through.
func (m *ML) bound(ctx context.Context, w *store.Source, clusterID string) (*store.Cluster, error) {
	cluster, err := store.Get[store.Cluster](ctx, m.Store, store.ResourceKey(clusterID))
	if trust.KindOf(err) == trust.NotFound {
		return nil, arm.Errorf(trust.Conflict, codeNoCluster, "The cluster %s does not exist any more.", clusterID)
	}
	if err != nil {
		return nil, err
	}
	if w.Identity == nil {
		return nil, arm.Errorf(trust.Conflict, codeIdentity, "The workspace %s has no system-assigned identity any more.", w.ID)
	}
	id, err := arm.ParseID(clusterID)
	if err != nil {
		return nil, err
	}
	bindings, _, err := store.List[store.Binding](ctx, m.Store, store.ResourceKey(clusterID)+"/")
	if err != nil {
		return nil, err
	}
	var why error
	for i := range bindings {
		b := &bindings[i].Value
		if !arm.SameID(b.SourceID, w.ID) {
			continue
		}
		if why = inForce(b, w); why == nil {
			break
		}
	}
	if why == nil && !slices.ContainsFunc(bindings, func(b store.Item[store.Binding]) bool { return arm.SameID(b.Value.SourceID, w.ID) }) {
		e := arm.Errorf(trust.Conflict, codeNoBinding, "The workspace has no trusted access role binding on the cluster '%s', so it may not reach it.", id.Name())
		e.Hint = fmt.Sprintf("sallyport aks trustedaccess rolebinding create -g %s --cluster-name %s -n ml-binding --source-resource-id %s --roles %s", id.Group, id.Name(), w.ID, role)
		why = e
	}
	switch {
	case why != nil:
		return nil, why
	case cluster.Value.Stopped || cluster.Value.Deleting:
		e := arm.Errorf(trust.Conflict, codeStopped, "The cluster '%s' is stopped: nobody is let through.", id.Name())
		e.Hint = fmt.Sprintf("sallyport aks start -g %s -n %s", id.Group, id.Name())
		return nil, e
	}
	return &cluster.Value, nil
}

// inForce tells why a binding of the workspace does not let it through.
func inForce(b *store.Binding, w *store.Source) error {
	id, err := arm.ParseID(b.ID)
	if err != nil {
		return err
	}
	not := func(format string, args ...any) error {
		e := arm.Errorf(trust.Conflict, codeNotInForce, "The trusted access role binding '%s' "+format, append([]any{id.Name()}, args...)...)
		e.Hint = fmt.Sprintf("sallyport aks trustedaccess rolebinding show -g %s --cluster-name %s -n %s", id.Group, id.Parent().Name(), id.Name())
		return e
	}
	if b.Source.Object != w.Identity.PrincipalID {
		return not("was made for an earlier identity of the workspace. Make it again to consent to the one there is now.")
	}
	for _, g := range b.Grants {
		if !trust.SameFold(string(g.Role), role) {
			continue
		}
		if len(g.Namespaces) > 0 && !slices.Contains(g.Namespaces, wire.Namespace) {
			return not("was accepted for %v only; the extension lives in namespace %s.", g.Namespaces, wire.Namespace)
		}
		return nil
	}
	if b.State == arm.Updating {
		return not("is not in force yet: %s", b.Reason)
	}
	if b.Problem != nil {
		return not("lets nobody through: %s", b.Problem.Message)
	}
	return not("does not give the role %s.", role)
}

// maxAnswer of the extension, in bytes.
const maxAnswer = 4 << 20

// call asks the extension, with the workspace's two tokens. The errors say where
// on the way it ended: binding, cluster, extension, or what the extension says.
func (e *extension) call(ctx context.Context, method, path string, in, out any) error {
	err := e.once(ctx, method, path, in, out)
	var refused *trust.Error
	if errors.As(err, &refused) && refused.Code == wire.Unauthenticated {
		// It may not have the key that the token is signed with yet.
		if renewed, again := e.handOver(ctx, true); again != nil {
			return again
		} else if renewed {
			err = e.once(ctx, method, path, in, out)
		}
	}
	if errors.As(err, &refused) && refused.Code == wire.Unauthenticated {
		why := arm.Errorf(trust.Conflict, codeExtensionTrust, "The ML extension of the cluster '%s' does not accept the workspace: %s.", e.cluster, refused.Message)
		why.Hint = "have the cluster's owner apply it again: sallyport ml extension manifest | kubectl apply -f -"
		return why
	}
	return err
}

func (e *extension) once(ctx context.Context, method, path string, in, out any) error {
	own, err := e.credential.Token(ctx, wire.Audience(e.Base, e.uid)+"/.default", false)
	if err != nil {
		return e.noToken(err)
	}
	var body []byte
	if in != nil {
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	return e.send(ctx, method, path, body, out, own)
}

// send is one exchange through the gateway; own is the token for the extension.
func (e *extension) send(ctx context.Context, method, path string, body []byte, out any, own string) error {
	place := "/clusters/" + e.uid
	at := e.Gateway + place
	token, err := e.credential.Token(ctx, e.Base+place+"/.default", false)
	if err != nil {
		return e.noToken(err)
	}
	req, err := http.NewRequestWithContext(ctx, method, at+wire.ProxyPath+wire.Prefix+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "sallyport-ml")
	if own != "" {
		req.Header.Set(wire.TokenHeader, own)
	}
	res, err := e.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return e.away("the gateway does not answer").Because(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return e.away("the answer was cut off").Because(err)
	}
	if res.StatusCode >= 300 {
		return e.failure(res.StatusCode, data)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return trust.Errorf(trust.Internal, "the extension's answer cannot be read").Because(err)
	}
	return nil
}

func (e *extension) away(format string, args ...any) *trust.Error {
	return arm.Errorf(trust.Unavailable, codeNotReachable, "The cluster '%s' is not reachable: %s.", e.cluster, strings.TrimSuffix(fmt.Sprintf(format, args...), "."))
}

func (e *extension) noToken(err error) error {
	var refused *client.Error
	if errors.As(err, &refused) && refused.Status == http.StatusUnauthorized {
		why := arm.Errorf(trust.Conflict, codeIdentity, "The workspace's identity cannot be used: its federated credential %s is gone or was changed.", credentialName)
		why.Hint = "update the workspace, which makes it again: sallyport ml workspace update -g GROUP -n NAME"
		return why.Because(err)
	}
	return arm.Errorf(trust.Unavailable, arm.ServiceUnavailable, "The authority gives no token now.").Because(err)
}

// failure reads an error: of the extension, or, as a Kubernetes Status, of the
// gateway or the API server.
func (e *extension) failure(status int, data []byte) error {
	var s struct {
		Kind, Message, Reason string
		Code                  json.RawMessage
		Details               struct{ Kind, Name string }
	}
	if json.Unmarshal(data, &s) != nil {
		return e.away("something in between answered %d", status)
	}
	var code string
	if s.Kind != "Status" && json.Unmarshal(s.Code, &code) == nil && code != "" {
		kind := map[int]trust.Kind{http.StatusBadRequest: trust.Invalid, http.StatusNotFound: trust.NotFound, http.StatusConflict: trust.Conflict,
			http.StatusForbidden: trust.Conflict, http.StatusUnauthorized: trust.Conflict}[status]
		if kind == trust.Internal {
			kind = trust.Unavailable
		}
		return arm.Errorf(kind, code, "%s", s.Message)
	}
	switch {
	case status == http.StatusForbidden:
		// A binding that was taken away is seen in the store the next time.
		return arm.Errorf(trust.Unavailable, codeUnauthorized, "The cluster '%s' does not let the workspace through: %s", e.cluster, s.Message)
	case status == http.StatusUnauthorized:
		return arm.Errorf(trust.Unavailable, codeUnauthorized, "The workspace's token is not taken: %s", s.Message)
	case status == http.StatusNotFound && s.Details.Kind == "services", status == http.StatusNotFound && s.Details.Kind == "namespaces":
		why := arm.Errorf(trust.Conflict, codeNoExtension, "The ML extension is not installed in the cluster '%s': it has no Service %s in namespace %s.", e.cluster, wire.Service, wire.Namespace)
		why.Hint = "have the cluster's owner apply it: sallyport ml extension manifest --namespace NAMESPACE | kubectl apply -f -"
		return why
	case status == http.StatusServiceUnavailable && strings.Contains(s.Message, "no endpoints available"):
		why := arm.Errorf(trust.Unavailable, codeNoService, "The ML extension of the cluster '%s' is installed and its gateway is not running.", e.cluster)
		why.Hint = "kubectl get pods -n " + wire.Namespace
		return why
	}
	return e.away("%s", s.Message)
}

// handOver gives the extension the authority's key set, signed with ml's key. It
// tells whether there was one that this process had not handed over.
func (e *extension) handOver(ctx context.Context, force bool) (bool, error) {
	set, err := e.keys(ctx)
	if err != nil {
		return false, err
	}
	audience := wire.Audience(e.Base, e.uid)
	e.mu.Lock()
	same := e.handed[audience] == string(set)
	e.mu.Unlock()
	if same && !force {
		return false, nil
	}
	signed, err := e.sign(wire.Keys{Audience: audience, Number: e.Now().Unix(), Keys: set})
	if err != nil {
		return false, err
	}
	if err := e.send(ctx, http.MethodPut, "/keys", []byte(signed), nil, ""); err != nil {
		return false, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.handed[audience] = string(set)
	return true, nil
}

// keys is the authority's key set, as anybody reads it.
func (m *ML) keys(ctx context.Context) (json.RawMessage, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.Base+"/"+m.Tenant+"/discovery/v2.0/keys", nil)
	if err != nil {
		return nil, err
	}
	unavailable := arm.Errorf(trust.Unavailable, arm.ServiceUnavailable, "The authority's keys cannot be read now.")
	res, err := m.http.Do(req)
	if err != nil {
		return nil, unavailable.Because(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil || res.StatusCode != http.StatusOK || !json.Valid(data) {
		return nil, unavailable.Because(err)
	}
	return data, nil
}
