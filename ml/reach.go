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

// refusedAs tells whether an error has this code.
func refusedAs(err error, code string) bool {
	var e *trust.Error
	return errors.As(err, &e) && e.Code == code
}

func thumbprint(key *ecdsa.PrivateKey) (string, error) {
	sum, err := (&jose.JSONWebKey{Key: key.Public()}).Thumbprint(crypto.SHA256)
	return base64.RawURLEncoding.EncodeToString(sum), err
}

// extension is a cluster's, as one workspace reaches it.
type extension struct {
	*ML
	cluster    string // name, for messages
	group      string // of the cluster, for commands
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
	return &extension{ML: m, cluster: id.Name(), group: id.Group, uid: string(cluster.UID), credential: credential}, nil
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
const maxAnswer = 2 * wire.MaxTransfer

// call asks the extension, with the workspace's two tokens. The errors say where
// on the way it ended: binding, cluster, extension, or what the extension says.
func (e *extension) call(ctx context.Context, method, path string, in, out any) error {
	err := e.once(ctx, method, path, in, out, false)
	if refusedAs(err, wire.Unauthenticated) {
		// It may not have the key that the token is signed with yet, or the
		// token may be signed with one that was revoked.
		if _, again := e.handOver(ctx, true); again != nil {
			return again
		}
		err = e.once(ctx, method, path, in, out, true)
	}
	var refused *trust.Error
	if errors.As(err, &refused) && refused.Code == wire.Unauthenticated {
		why := arm.Errorf(trust.Conflict, codeExtensionTrust, "The ML extension of the cluster '%s' does not accept the workspace: %s.", e.cluster, refused.Message)
		why.Hint = "have the cluster's owner apply it again: sallyport ml extension manifest | kubectl apply -f -"
		return why
	}
	return err
}

// once is call without a second try; fresh: with a token that was not used yet.
func (e *extension) once(ctx context.Context, method, path string, in, out any, fresh bool) error {
	own, err := e.credential.Token(ctx, wire.Audience(e.Base, e.uid)+"/.default", fresh)
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
// A token that the gateway does not take is replaced once: its signing key may
// have been revoked before its time was over.
func (e *extension) send(ctx context.Context, method, path string, body []byte, out any, own string) error {
	status, data, err := e.exchange(ctx, method, path, body, own, false)
	if err == nil && status == http.StatusUnauthorized && fromKubernetes(data) {
		status, data, err = e.exchange(ctx, method, path, body, own, true)
	}
	if err != nil {
		return err
	}
	if status >= 300 {
		return e.failure(status, data)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return trust.Errorf(trust.Internal, "the extension's answer cannot be read").Because(err)
	}
	return nil
}

// exchange sends a request and reads its answer, whatever it is.
func (e *extension) exchange(ctx context.Context, method, path string, body []byte, own string, fresh bool) (int, []byte, error) {
	place := "/clusters/" + e.uid
	token, err := e.credential.Token(ctx, e.Base+place+"/.default", fresh)
	if err != nil {
		return 0, nil, e.noToken(err)
	}
	req, err := http.NewRequestWithContext(ctx, method, e.Gateway+place+wire.ProxyPath+wire.Prefix+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
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
			return 0, nil, ctx.Err()
		}
		return 0, nil, e.away("the gateway does not answer").Because(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		if ctx.Err() != nil {
			return 0, nil, ctx.Err()
		}
		return 0, nil, e.away("the answer was cut off").Because(err)
	}
	return res.StatusCode, data, nil
}

// said is an error that the extension itself answered with.
func (e *extension) said(status int, code, message string) error {
	kind := map[int]trust.Kind{http.StatusBadRequest: trust.Invalid, http.StatusNotFound: trust.NotFound, http.StatusConflict: trust.Conflict,
		http.StatusForbidden: trust.Conflict, http.StatusUnauthorized: trust.Conflict}[status]
	if kind == trust.Internal {
		kind = trust.Unavailable
	}
	why := arm.Errorf(kind, code, "%s", message)
	switch code {
	case wire.TrainingNotEnabled:
		why.Hint = fmt.Sprintf("have the cluster's owner enable it: sallyport k8s-extension update -g %s --cluster-name %s --cluster-type managedClusters -n NAME --configuration-settings enableTraining=True, or sallyport ml extension manifest without --no-training", e.group, e.cluster)
	case wire.OperatorSilent:
		why.Hint = "kubectl get pods -n " + wire.Namespace
	case wire.NamespaceNotFound:
		why.Hint = "have the cluster's owner make it again and apply the extension's manifest: kubectl create namespace NAMESPACE, sallyport ml extension manifest --namespace NAMESPACE … | kubectl apply -f -"
	}
	return why
}

// fromKubernetes tells a Status, of the gateway or the API server, from what the
// extension answers.
func fromKubernetes(data []byte) bool {
	var s struct{ Kind string }
	return json.Unmarshal(data, &s) == nil && s.Kind == "Status"
}

func (e *extension) away(format string, args ...any) *trust.Error {
	why := arm.Errorf(trust.Unavailable, codeNotReachable, "The cluster '%s' is not reachable: %s.", e.cluster, strings.TrimSuffix(fmt.Sprintf(format, args...), "."))
	why.Hint = fmt.Sprintf("sallyport cluster status -g %s -n %s", e.group, e.cluster)
	return why
}

// unauthorized is a refusal of the gateway or the API server. A binding that was
// taken away is seen in the store the next time.
func (e *extension) unauthorized(format string, args ...any) *trust.Error {
	why := arm.Errorf(trust.Unavailable, codeUnauthorized, format, args...)
	why.Hint = fmt.Sprintf("sallyport aks trustedaccess rolebinding list -g %s --cluster-name %s", e.group, e.cluster)
	return why
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
		return e.said(status, code, s.Message)
	}
	switch {
	case status == http.StatusForbidden:
		return e.unauthorized("The cluster '%s' does not let the workspace through: %s", e.cluster, s.Message)
	case status == http.StatusUnauthorized:
		return e.unauthorized("The cluster '%s' does not take the workspace's token: %s", e.cluster, s.Message)
	case status == http.StatusNotFound && s.Details.Kind == "services", status == http.StatusNotFound && s.Details.Kind == "namespaces":
		why := arm.Errorf(trust.Conflict, codeNoExtension, "The ML extension is not installed in the cluster '%s': it has no Service %s in namespace %s.", e.cluster, wire.Service, wire.Namespace)
		why.Hint = "have the cluster's owner apply it: sallyport ml extension manifest --namespace NAMESPACE | kubectl apply -f -"
		return why
	case status == http.StatusServiceUnavailable && (strings.Contains(s.Message, "no endpoints available") || strings.Contains(s.Message, "error trying to reach service")):
		why := arm.Errorf(trust.Unavailable, codeNoService, "The ML extension of the cluster '%s' is installed and its gateway does not answer.", e.cluster)
		why.Hint = "kubectl get pods -n " + wire.Namespace
		return why
	}
	return e.away("%s", s.Message)
}
