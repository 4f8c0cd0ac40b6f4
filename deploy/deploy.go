// Package deploy renders what a cluster's owner applies to connect it: the
// agents' namespaces, rights, admission policies, accepted roles and
// Deployments, as one readable bundle whose comments say why each right is
// there.
//
// It is the one source of these objects for the command line and for charts.
// The RBAC objects and policies are package rbac's; this package adds what runs
// them, and the text. It applies nothing.
package deploy

import (
	"encoding/pem"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

// enrolAudience is the audience of the projected token that an agent enrols
// with. A token for one cluster is worthless for another.
func enrolAudience(cluster trust.ClusterUID) string { return "sallyport:enrol:" + string(cluster) }

// Options say what to render.
type Options struct {
	Cluster    trust.ClusterUID
	Server     string   // https URL of the control plane
	ServerCA   []byte   // PEM: the only CA that the server's certificate may come from; empty: the system's
	MandateKey []byte   // PEM (PKIX, Ed25519): the key that signs what agents are told
	Gateways   []string // host:port; empty: the control plane's
	Image      string   // of sallyport-agent
	NoAgents   bool     // leave the Deployments out: the agents run elsewhere, with the same rights

	Accept []rbac.RoleConsent
	Have   rbac.Installed // what the cluster holds of acceptances already, so that connecting again withdraws nothing

	InstallTimeout time.Duration // for what the installer installs to run; 0: its own default

	Probes []string // host:port that the proxy agent may look at and report on; empty: nothing

	HTTPSProxy  string // URL of a CONNECT proxy; empty: none
	NoProxy     string // more hosts that are not reached through it, comma-separated
	TrustBundle []byte // PEM: replaces the system's roots in the agents
}

// Connect is everything that the owner applies, in order: first what refuses,
// then what allows, last what runs.
func Connect(o Options) ([]rbac.Explained, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	return o.objects()
}

func (o Options) objects() ([]rbac.Explained, error) {
	plan, err := rbac.AcceptAll(o.Cluster, o.Accept, o.Have)
	if err != nil {
		return nil, err
	}
	all := slices.Concat(rbac.Namespaces(o.Cluster), rbac.Policies(o.Cluster), rbac.AgentRights(o.Cluster), o.bindLists(plan))
	for _, s := range plan {
		all = append(all, s.Explained)
	}
	all = append(all, o.config())
	if o.NoAgents {
		return all, nil
	}
	return append(all, o.deployment(reconciler), o.deployment(proxy)), nil
}

// bindLists are the empty bind list and its binding; the list itself only where
// neither the cluster nor an acceptance brings one.
func (o Options) bindLists(plan rbac.Plan) []rbac.Explained {
	there := slices.ContainsFunc(plan, func(s rbac.Step) bool { return s.Object.GetName() == rbac.BindListRole })
	for _, r := range o.Have.ClusterRoles {
		there = there || r.Name == rbac.BindListRole && r.Labels[rbac.ClusterLabel] == string(o.Cluster)
	}
	lists := rbac.BindList(o.Cluster)
	if there {
		return lists[1:]
	}
	return lists
}

func (o Options) check() error {
	bad := func(format string, args ...any) error { return trust.Errorf(trust.Invalid, format, args...) }
	if o.Cluster == "" {
		return bad("the cluster's uid is missing")
	}
	if u, err := url.Parse(o.Server); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return bad("server %q is not an https URL", o.Server)
	}
	for name, data := range map[string][]byte{"server CA": o.ServerCA, "trust bundle": o.TrustBundle} {
		if block, _ := pem.Decode(data); len(data) > 0 && (block == nil || block.Type != "CERTIFICATE") {
			return bad("the %s is not a PEM certificate", name)
		}
	}
	if block, _ := pem.Decode(o.MandateKey); block == nil || block.Type != "PUBLIC KEY" {
		return bad("the mandate key is not a PEM public key")
	}
	for _, g := range o.Gateways {
		if _, _, err := net.SplitHostPort(g); err != nil {
			return bad("gateway %q is not host:port", g)
		}
	}
	if o.Image == "" || strings.ContainsAny(o.Image, " \t\n") {
		return bad("image %q is not an image reference", o.Image)
	}
	if u, err := url.Parse(o.HTTPSProxy); o.HTTPSProxy != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		return bad("HTTPS_PROXY %q is not an http or https URL", o.HTTPSProxy)
	}
	return nil
}

// Cleanup is what removes everything again with kubectl alone, for an owner
// whose agents or control plane are gone: rights first, the fence last.
func Cleanup(cluster trust.ClusterUID) []string {
	label := rbac.ClusterLabel + "=" + string(cluster)
	return []string{
		"kubectl delete namespace " + rbac.BindingsNamespace,
		"kubectl delete clusterrolebindings -l " + label,
		"kubectl delete rolebindings,roles --all-namespaces -l " + label,
		"kubectl delete clusterroles -l " + label,
		"kubectl delete namespace " + rbac.SystemNamespace,
		fmt.Sprintf("kubectl delete validatingadmissionpolicybindings,validatingadmissionpolicies -l %s", label),
	}
}
