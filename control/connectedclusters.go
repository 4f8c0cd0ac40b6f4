package control

import (
	"strings"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Clusters as Azure Arc's clients read them, az k8s-extension for one: the same
// clusters as the managed ones, and read-only here.
func (c *Control) connectedRoutes() []*route {
	const in = "/subscriptions/{subscription}/resourceGroups/{group}/providers/" + connectedType
	r := func(method, pattern, action string, drop int, need need, handle func(*call) (*answer, error)) *route {
		return &route{method: method, pattern: pattern, typ: connectedType, versions: arm.Kubernetes, drop: drop,
			action: connectedType + "/" + action, need: need | needSubscription | needGroup, handle: handle}
	}
	return []*route{
		r("GET", "/subscriptions/{subscription}/providers/"+connectedType, "read", 3, 0, (*call).listConnected),
		r("GET", in, "read", 3, 0, (*call).listConnected),
		r("GET", in+"/{cluster}", "read", 0, needCluster, (*call).getConnected),
		r("PUT", in+"/{cluster}", "write", 0, 0, (*call).noConnected),
		r("PATCH", in+"/{cluster}", "write", 0, needCluster, (*call).noConnected),
		r("DELETE", in+"/{cluster}", "delete", 0, needCluster, (*call).noConnected),
	}
}

type connectedBody struct {
	ID         string              `json:"id"`
	Name       string              `json:"name"`
	Type       string              `json:"type"`
	Location   string              `json:"location"`
	Tags       map[string]string   `json:"tags,omitempty"`
	Identity   identityBody        `json:"identity"` // the agents have none of Azure's
	Properties connectedProperties `json:"properties"`
	SystemData *systemData         `json:"systemData,omitempty"`
}

type connectedProperties struct {
	State             string `json:"provisioningState"`
	Connectivity      string `json:"connectivityStatus"` // Connecting, Connected, Offline
	LastHeard         string `json:"lastConnectivityTime,omitempty"`
	AgentVersion      string `json:"agentVersion,omitempty"`
	KubernetesVersion string `json:"kubernetesVersion,omitempty"`
	Nodes             int    `json:"totalNodeCount"`
	Cores             int64  `json:"totalCoreCount"`
	// AgentKey is Arc's; our agents make theirs in memory.
	AgentKey string `json:"agentPublicKeyCertificate"`
}

func (k *call) connectedBody(item store.Item[store.Cluster]) (connectedBody, error) {
	r := &item.Value
	b := connectedBody{ID: strings.Replace(r.ID, "/providers/"+clusterType+"/", "/providers/"+connectedType+"/", 1), Name: nameOf(r.ID), Type: connectedType,
		Location: r.Location, Tags: r.Tags, Identity: identityBody{Type: "None"}, SystemData: systemDataOf(r.Stamp)}
	p := &b.Properties
	p.State = r.State
	here, last := true, time.Time{}
	for _, name := range []string{proxy, reconciler} {
		s, err := k.status(k.ctx, r.UID, name)
		if err != nil {
			return b, err
		}
		here = here && k.away(&s) == ""
		if s.Seen.After(last) {
			last, p.AgentVersion = s.Seen, s.Version
		}
	}
	switch p.LastHeard = arm.Time(last); {
	case here:
		p.Connectivity = "Connected"
	case last.IsZero():
		p.Connectivity = "Connecting"
	default:
		p.Connectivity = "Offline"
	}
	report, err := k.lastReport(k.ctx, r.UID)
	if err != nil {
		return b, err
	}
	p.KubernetesVersion, p.Nodes = strings.TrimPrefix(report.KubernetesVersion, "v"), report.Nodes
	var milli int64
	for i := range report.Pools {
		milli += report.Pools[i].MilliCPU
	}
	p.Cores = milli / 1000
	return b, nil
}

func (k *call) listConnected() (*answer, error) {
	return listClusters(k, k.connectedBody)
}

func (k *call) getConnected() (*answer, error) {
	b, err := k.connectedBody(k.cluster)
	return ok(b), err
}

// noConnected refuses what would change a cluster under its second name.
func (k *call) noConnected() (*answer, error) {
	e := arm.Errorf(trust.Invalid, arm.BadRequest, "Connected clusters are read-only here: a cluster is registered, changed and removed as %s.", clusterType)
	e.Hint = "sallyport cluster connect -g " + k.id.Group + " -n " + k.vars["cluster"]
	return nil, e
}
