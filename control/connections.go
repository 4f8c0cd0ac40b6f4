package control

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/netenv/probe"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// A cluster's connection is the resource
// {cluster}/providers/Sallyport.Access/connections/default. A PUT hands over
// what the cluster's agents prove themselves with, and answers with what they
// need; a GET shows the agents and what the cluster accepted; a DELETE takes
// the agents' right to enrol and to be told anything.
func (c *Control) connectionRoutes() []*route {
	const at = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.ContainerService/managedClusters/{cluster}/providers/Sallyport.Access/connections/default"
	r := func(method, action string, handle func(*call) (*answer, error)) *route {
		return &route{method: method, pattern: at, typ: connectionType, versions: arm.Sallyport,
			action: connectionType + "/" + action, need: needSubscription | needGroup | needCluster, handle: handle}
	}
	return []*route{
		r("GET", "read", (*call).getConnection),
		r("PUT", "write", (*call).putConnection),
		r("DELETE", "delete", (*call).removeConnection),
	}
}

type connectionBody struct {
	ID         string               `json:"id"`
	Name       string               `json:"name"`
	Type       string               `json:"type"`
	Properties connectionProperties `json:"properties"`
}

type connectionProperties struct {
	// What was handed over.
	ServiceAccountIssuer string          `json:"serviceAccountIssuer"`
	ServiceAccountKeys   json.RawMessage `json:"serviceAccountKeys"` // RFC 7517

	// What the agents need.
	ClusterUID        trust.ClusterUID `json:"clusterUid"`
	Server            string           `json:"server"`
	ServerCA          string           `json:"serverCA,omitempty"`
	GatewayURL        string           `json:"gatewayUrl"`
	EnrolmentAudience string           `json:"enrolmentAudience"`
	MandateKey        string           `json:"mandateKey"` // PEM

	// What was heard of them.
	State             string              `json:"state"` // NotConnected, Connected, Disconnected
	Agents            []agentBody         `json:"agents"`
	Tunnels           []string            `json:"tunnels"` // gateways that hold one
	KubernetesVersion string              `json:"kubernetesVersion,omitempty"`
	Nodes             int                 `json:"nodes"`
	AcceptedRoles     []acceptedBody      `json:"acceptedRoles"`
	Problem           string              `json:"problem,omitempty"` // why nothing is applied
	Leftovers         []string            `json:"leftovers"`         // objects that should be gone from the cluster
	RemovedBindings   []removedBindingRow `json:"removedBindings"`   // deleted here, not yet removed there
	Probe             *probe.Report       `json:"probe,omitempty"`   // what its proxy agent saw of the names that its owner allows it to look at
}

type agentBody struct {
	Name      string `json:"name"`
	Connected bool   `json:"connected"`
	LastSeen  string `json:"lastSeen,omitempty"`
	Version   string `json:"version,omitempty"`
	Instances int    `json:"instances"`
	Revision  int64  `json:"revision"`
	UpToDate  bool   `json:"upToDate"`
}

type acceptedBody struct {
	Role       trust.RoleName `json:"role"`
	Revision   trust.Revision `json:"revision"`
	Current    bool           `json:"current"` // it is the published revision
	Namespaces []string       `json:"namespaces,omitempty"`
	Unfenced   bool           `json:"unfenced,omitempty"`
	Rules      []ruleBody     `json:"rules"`
	// OutlivesRevocation says what access the rules can leave behind.
	OutlivesRevocation []string `json:"outlivesRevocation,omitempty"`
}

type removedBindingRow struct {
	ID  string           `json:"id"`
	UID trust.BindingUID `json:"uid"`
}

func (k *call) putConnection() (*answer, error) {
	var body struct {
		Properties struct {
			ServiceAccountIssuer string
			ServiceAccountKeys   json.RawMessage
		}
	}
	if _, err := k.decode(&body); err != nil {
		return nil, err
	}
	p := body.Properties
	if u, err := url.Parse(p.ServiceAccountIssuer); err != nil || u.Scheme == "" || len(p.ServiceAccountIssuer) > 600 {
		return nil, arm.BadParameter("properties.serviceAccountIssuer", "'%.200s' is not the issuer URL of a cluster's ServiceAccount tokens", p.ServiceAccountIssuer)
	}
	keys, err := publicKeys(p.ServiceAccountKeys)
	if err != nil {
		return nil, arm.BadParameter("properties.serviceAccountKeys", "it holds no JSON Web Key set with a usable key; kubectl get --raw /openid/v1/jwks prints the cluster's")
	}
	r := k.cluster.Value
	if r.Deleting {
		return nil, pending(arm.Deleting)
	}
	status := http.StatusOK
	if r.Enrolment == nil {
		status = http.StatusCreated
	}
	r.Enrolment, r.Stamp = &store.Enrolment{ServiceAccountIssuer: p.ServiceAccountIssuer, JWKS: keys}, k.stamp(r.Stamp, &k.caller)
	rev, err := k.commit(k.durable(), store.Update(r, k.cluster.Revision))
	if err != nil {
		return nil, err
	}
	k.cluster = store.Item[store.Cluster]{Value: r, Revision: rev}
	b, err := k.connection()
	return &answer{status: status, body: b}, err
}

func (k *call) getConnection() (*answer, error) {
	b, err := k.connection()
	return ok(b), err
}

func (k *call) removeConnection() (*answer, error) {
	r := k.cluster.Value
	if r.Enrolment == nil {
		return empty(http.StatusNoContent), nil
	}
	r.Enrolment, r.Stamp = nil, k.stamp(r.Stamp, &k.caller)
	if _, err := k.commit(k.durable(), store.Update(r, k.cluster.Revision), store.Put(mandateOf(&r))); err != nil {
		return nil, err
	}
	return empty(http.StatusOK), nil
}

// connection is everything that is known of the cluster's agents.
func (k *call) connection() (*connectionBody, error) {
	r := &k.cluster.Value
	key, err := mandateKeyPEM(k.MandateKey)
	if err != nil {
		return nil, err
	}
	p := connectionProperties{
		ClusterUID: r.UID, Server: k.BaseURL, ServerCA: string(k.ServerCA), GatewayURL: k.GatewayURL(r.UID),
		EnrolmentAudience: enrolAudience(r.UID), MandateKey: key, State: "NotConnected",
		Tunnels: []string{}, AcceptedRoles: []acceptedBody{}, Leftovers: []string{}, RemovedBindings: []removedBindingRow{},
	}
	if r.Enrolment != nil {
		p.ServiceAccountIssuer, p.ServiceAccountKeys = r.Enrolment.ServiceAccountIssuer, r.Enrolment.JWKS
	}
	if err := k.agents(&p, r.UID); err != nil {
		return nil, err
	}
	tunnels, _, err := store.List[store.Tunnel](k.ctx, k.Store, store.TunnelPrefix+string(r.UID)+"/")
	if err != nil {
		return nil, err
	}
	for _, t := range tunnels {
		p.Tunnels = append(p.Tunnels, t.Value.Replica)
	}
	gone, _, err := store.List[store.Departed](k.ctx, k.Store, store.DepartedPrefix+string(r.UID)+"/")
	if err != nil {
		return nil, err
	}
	for _, d := range gone {
		p.RemovedBindings = append(p.RemovedBindings, removedBindingRow{d.Value.Binding.ID, d.Value.Binding.UID})
	}
	if p.Probe, err = k.lastProbe(k.ctx, r); err != nil {
		return nil, err
	}
	return &connectionBody{ID: r.ID + "/providers/" + connectionType + "/default", Name: "default", Type: connectionType, Properties: p}, nil
}

// agents fills in what was heard of both agents.
func (k *call) agents(p *connectionProperties, uid trust.ClusterUID) error {
	epoch, err := k.epoch(k.ctx)
	if err != nil {
		return err
	}
	m, err := store.Get[store.Mandate](k.ctx, k.Store, store.Mandate{Cluster: uid}.Key())
	if err != nil {
		return err
	}
	floor := mandate.Floor{Epoch: epoch, Revision: m.Revision}
	here, ever := 0, false
	for _, name := range []string{proxy, reconciler} {
		s, err := k.status(k.ctx, uid, name)
		if err != nil {
			return err
		}
		ever = ever || !s.Seen.IsZero()
		b := agentBody{Name: name, Connected: k.away(&s) == "", LastSeen: arm.Time(s.Seen), Version: s.Version, Instances: len(s.Instances),
			Revision: s.Revision, UpToDate: !(mandate.Floor{Epoch: s.Epoch, Revision: s.Revision}).Before(floor)}
		if b.Connected {
			here++
		}
		p.Agents = append(p.Agents, b)
	}
	switch {
	case here == len(p.Agents):
		p.State = "Connected"
	case ever:
		p.State = "Disconnected"
	}
	return k.reported(p, uid)
}

// reported fills in what the reconciler found.
func (k *call) reported(p *connectionProperties, uid trust.ClusterUID) error {
	report, err := k.lastReport(k.ctx, uid)
	if err != nil {
		return err
	}
	roles, err := k.roles()
	if err != nil {
		return err
	}
	p.KubernetesVersion, p.Nodes, p.Problem = report.KubernetesVersion, report.Nodes, report.Fence
	p.Leftovers = append(p.Leftovers, report.Leftovers...)
	for _, a := range report.Accepted {
		b := acceptedBody{Role: a.Role, Revision: a.Revision, Namespaces: a.Namespaces, Unfenced: a.Unfenced,
			Rules: rulesBody(a.Rules), OutlivesRevocation: trust.OutlivesRevocation(a.Rules)}
		if i := slices.IndexFunc(roles, func(r trust.Role) bool { return r.FullName().Equal(a.Role) }); i >= 0 {
			b.Role, b.Current = roles[i].FullName(), roles[i].Revision() == a.Revision
		}
		p.AcceptedRoles = append(p.AcceptedRoles, b)
	}
	slices.SortFunc(p.AcceptedRoles, func(a, b acceptedBody) int { return strings.Compare(string(a.Role), string(b.Role)) })
	return nil
}

func mandateKeyPEM(key ed25519.PrivateKey) (string, error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return "", fmt.Errorf("mandate key has no Ed25519 public key")
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("encode mandate key: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}
