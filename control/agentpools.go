package control

import (
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const poolType = clusterType + "/agentPools"

// Agent pools are what the cluster's reconciler last reported of its nodes.
// Nobody can change them here: Sallyport runs no nodes.
func (c *Control) poolRoutes() []*route {
	const one = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.ContainerService/managedClusters/{cluster}"
	r := func(method, pattern, typ, action string, drop int, handle func(*call) (*answer, error)) *route {
		return &route{method: method, pattern: one + pattern, typ: typ, versions: arm.ContainerService, drop: drop,
			action: action, need: needSubscription | needGroup | needCluster, handle: handle}
	}
	return []*route{
		r("GET", "/agentPools", poolType, poolType+"/read", 1, (*call).listPools),
		r("GET", "/agentPools/{pool}", poolType, poolType+"/read", 0, (*call).getPool),
		r("PUT", "/agentPools/{pool}", poolType, poolType+"/write", 0, (*call).noPools),
		r("DELETE", "/agentPools/{pool}", poolType, poolType+"/delete", 0, (*call).noPools),
		r("GET", "/upgradeProfiles/default", clusterType+"/upgradeProfiles", clusterType+"/upgradeProfiles/read", 0, (*call).upgradeProfile),
		r("GET", "/accessProfiles/{profile}", clusterType+"/accessProfiles", clusterType+"/accessProfiles/read", 0, (*call).accessProfile),
		r("POST", "/accessProfiles/{profile}/listCredential", clusterType+"/accessProfiles", clusterType+"/accessProfiles/listCredential/action", 1, (*call).accessProfile),
	}
}

type poolBody struct {
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	Type       string         `json:"type"`
	Properties poolProperties `json:"properties"`
}

// poolProperties are AKS's names, and below them what only Sallyport tells.
type poolProperties struct {
	Name           string            `json:"name,omitempty"` // in agentPoolProfiles
	Count          int               `json:"count"`
	VMSize         string            `json:"vmSize,omitempty"`
	OSType         string            `json:"osType"`
	Mode           string            `json:"mode"`
	Version        string            `json:"orchestratorVersion,omitempty"`
	CurrentVersion string            `json:"currentOrchestratorVersion,omitempty"`
	State          string            `json:"provisioningState"`
	Power          map[string]string `json:"powerState"`

	Ready        int      `json:"readyCount"`
	Versions     []string `json:"nodeVersions"`
	Architecture string   `json:"architecture,omitempty"`
	MilliCPU     int64    `json:"allocatableMilliCpu"`
	Memory       int64    `json:"allocatableMemoryBytes"`
}

func poolOf(p *mandate.NodePool) poolProperties {
	b := poolProperties{Count: p.Count, VMSize: p.InstanceType, OSType: "Linux", Mode: "User", State: arm.Succeeded, Power: map[string]string{"code": "Running"},
		Ready: p.Ready, Versions: p.Versions, Architecture: p.Architecture, MilliCPU: p.MilliCPU, Memory: p.Memory}
	if is(p.OS, "windows") {
		b.OSType = "Windows"
	}
	if p.ControlPlane {
		b.Mode = "System"
	}
	if n := len(p.Versions); n > 0 { // what is asked for is the newest, what runs may be older
		b.CurrentVersion = strings.TrimPrefix(p.Versions[0], "v")
		b.Version = strings.TrimPrefix(p.Versions[n-1], "v")
	}
	return b
}

// setNodes adds to a cluster's properties what its reconciler reported.
func setNodes(p bag, report *mandate.Report) {
	profiles := []poolProperties{}
	for i := range report.Pools {
		one := poolOf(&report.Pools[i])
		one.Name = report.Pools[i].Name
		profiles = append(profiles, one)
	}
	p.set("agentPoolProfiles", profiles)
	if v := strings.TrimPrefix(report.KubernetesVersion, "v"); v != "" {
		p.set("currentKubernetesVersion", v)
	}
	switch {
	case report.KubernetesVersion == "":
		p.set("nodeReport", "the cluster's reconciler agent has not reported: connect the cluster with sallyport cluster connect")
	case report.NodesUnseen != "":
		p.set("nodeReport", "the reconciler agent cannot see the nodes: "+report.NodesUnseen)
	}
}

func (k *call) pools() ([]poolBody, error) {
	report, err := k.lastReport(k.ctx, k.cluster.Value.UID)
	var all []poolBody
	for i := range report.Pools {
		p := &report.Pools[i]
		all = append(all, poolBody{ID: k.cluster.Value.ID + "/agentPools/" + p.Name, Name: p.Name, Type: poolType, Properties: poolOf(p)})
	}
	return all, err
}

func (k *call) listPools() (*answer, error) {
	all, err := k.pools()
	return ok(arm.NewList(all, "")), err
}

func (k *call) getPool() (*answer, error) {
	all, err := k.pools()
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		if is(p.Name, k.vars["pool"]) {
			return ok(p), nil
		}
	}
	return nil, arm.NoResource(k.id)
}

func (k *call) noPools() (*answer, error) {
	e := arm.Errorf(trust.Invalid, arm.BadRequest, "Agent pools are read-only here: Sallyport registers clusters that exist and runs no nodes.")
	e.Hint = "change the nodes with what made the cluster; the reconciler agent reports them"
	return nil, e
}

// upgradeProfile offers nothing: whoever runs the cluster upgrades it.
func (k *call) upgradeProfile() (*answer, error) {
	report, err := k.lastReport(k.ctx, k.cluster.Value.UID)
	if err != nil {
		return nil, err
	}
	pools := []map[string]any{}
	for i := range report.Pools {
		one := poolOf(&report.Pools[i])
		pools = append(pools, map[string]any{"name": report.Pools[i].Name, "kubernetesVersion": one.CurrentVersion, "osType": one.OSType, "upgrades": []any{}})
	}
	return ok(map[string]any{"id": k.cluster.Value.ID + "/upgradeProfiles/default", "name": "default", "type": clusterType + "/upgradeProfiles", "properties": map[string]any{
		"controlPlaneProfile": map[string]any{"kubernetesVersion": strings.TrimPrefix(report.KubernetesVersion, "v"), "osType": "Linux", "upgrades": []any{}},
		"agentPoolProfiles":   pools}}), nil
}

// accessProfile is the older form of a cluster's credentials.
func (k *call) accessProfile() (*answer, error) {
	switch {
	case is(k.vars["profile"], "clusterAdmin"):
		return k.adminCredential()
	case !is(k.vars["profile"], "clusterUser"):
		return nil, arm.NoResource(k.id)
	}
	value, err := k.kubeconfig(&k.cluster.Value)
	if err != nil {
		return nil, err
	}
	return ok(map[string]any{"id": k.cluster.Value.ID + "/accessProfiles/clusterUser", "name": "clusterUser", "type": clusterType + "/accessProfiles",
		"location": k.cluster.Value.Location, "properties": map[string]any{"kubeConfig": value}}), nil
}

// withNodes is a cluster's body with what was reported of its nodes.
func (k *call) withNodes(item store.Item[store.Cluster]) (clusterBody, error) {
	b := k.clusterBody(item)
	report, err := k.lastReport(k.ctx, item.Value.UID)
	setNodes(b.Properties, &report)
	return b, err
}
