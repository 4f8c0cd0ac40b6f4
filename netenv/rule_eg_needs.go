package netenv

import (
	"strconv"
	"strings"
)

// virtualNetwork is the tag of the network itself and its peers: what private
// endpoints are reached by.
const virtualNetwork = "VirtualNetwork"

// need is traffic that Azure ML's list of required traffic names: a service tag,
// a port, and the names behind it for firewalls that go by names.
type need struct {
	tag       string
	udp       bool
	port      int
	names     []string
	inbound   bool
	telemetry bool // may be refused, at the price of support
}

func (n need) String() string {
	return n.tag + " " + cond(n.udp, "UDP ", "") + strconv.Itoa(n.port) + cond(n.inbound, " inbound", "")
}

// ofNodes are the needs of every cluster's subnet, {region} being its region.
var ofNodes = []need{
	{tag: "AzureActiveDirectory", port: 443, names: []string{"login.microsoftonline.com"}},
	{tag: "AzureResourceManager", port: 443, names: []string{"management.azure.com"}},
	{tag: "AzureMachineLearning", port: 443, names: []string{"{region}.api.azureml.ms", "{region}.experiments.azureml.net"}},
	{tag: "MicrosoftContainerRegistry", port: 443, names: []string{"mcr.microsoft.com", "{region}.data.mcr.microsoft.com"}},
	{tag: "AzureFrontDoor.FirstParty", port: 443, names: []string{"mcr.microsoft.com"}},
	{tag: "AzureMonitor", port: 443, names: []string{"x.kusto.windows.net"}, telemetry: true},
}

// ofManaged are the needs of every subnet with managed compute.
var ofManaged = []need{
	{tag: "AzureActiveDirectory", port: 80, names: []string{"login.microsoftonline.com"}},
	{tag: "AzureActiveDirectory", port: 443, names: []string{"login.microsoftonline.com"}},
	{tag: "AzureMachineLearning", port: 443, names: []string{"{region}.api.azureml.ms", "{region}.experiments.azureml.net"}},
	{tag: "AzureMachineLearning", port: 8787, names: []string{"x.instances.azureml.ms"}},
	{tag: "AzureMachineLearning", port: 18881, names: []string{"x.instances.azureml.ms"}},
	{tag: "AzureMachineLearning", port: 5831, udp: true},
	{tag: "BatchNodeManagement.{region}", port: 443, names: []string{"x.{region}.batch.azure.com"}},
	{tag: "AzureResourceManager", port: 443, names: []string{"management.azure.com"}},
	{tag: "AzureFrontDoor.FirstParty", port: 443, names: []string{"mcr.microsoft.com"}},
	{tag: "MicrosoftContainerRegistry", port: 443, names: []string{"mcr.microsoft.com", "{region}.data.mcr.microsoft.com"}},
	{tag: "AzureMonitor", port: 443, names: []string{"x.kusto.windows.net"}, telemetry: true},
}

// needsOfNodes are what a cluster's subnets need: the common list, its own API
// server, and what its workspaces use without a private endpoint.
func (e *env) needsOfNodes(cluster *Resource) []need {
	out := append([]need{}, ofNodes...)
	if private, known, _ := isPrivate(cluster); known && !private {
		out = append(out, need{tag: "AzureCloud.{region}", port: 443, names: []string{"x.hcp.{region}.azmk8s.io"}})
	}
	for _, p := range e.pairsOf(cluster) {
		out = append(out, e.needsOfWorkspace(p.workspace, false)...)
	}
	return once(out, region(cluster.Get("location")))
}

// needsOfManaged are what a managed compute's subnet needs.
func (e *env) needsOfManaged(x, ws *Resource) []need {
	out := append([]need{}, ofManaged...)
	if public, known := x.Get("enableNodePublicIp").Truth(true); public && known {
		out = append(out, need{tag: "AzureMachineLearning", port: 44224, inbound: true})
	}
	if ws != nil {
		out = append(out, e.needsOfWorkspace(ws, true)...)
	}
	return once(out, region(x.Get("location")))
}

// needsOfWorkspace are the services that a workspace's computes talk to: inside
// the network where there is a private endpoint, else by their tags. One that is
// closed to the internet is no need of the way there: its missing endpoint is
// what another rule says.
func (e *env) needsOfWorkspace(ws *Resource, files bool) []need {
	var out []need
	inside := len(e.endpointsFor(ws.ID, "amlworkspace")) > 0
	add := func(key, group string, n need) {
		id := ws.Get(key).Text()
		if id == "" {
			return
		}
		if len(e.endpointsFor(id, group)) > 0 {
			inside = true
			return
		}
		if r := e.g.Resource(id); r != nil && r.Get("publicNetworkAccess").Is("Disabled") {
			return
		}
		for i := range n.names {
			n.names[i] = strings.ReplaceAll(n.names[i], "{name}", strings.ToLower(idName(id)))
		}
		out = append(out, n)
	}
	add("storageAccount", "blob", need{tag: "Storage.{region}", port: 443, names: []string{"{name}.blob.core.windows.net"}})
	if files {
		add("storageAccount", "file", need{tag: "Storage.{region}", port: 445, names: []string{"{name}.file.core.windows.net"}})
	}
	add("containerRegistry", "registry", need{tag: "AzureContainerRegistry.{region}", port: 443, names: []string{"{name}.azurecr.io", "{name}.{region}.data.azurecr.io"}})
	if hbi, known, _ := isHBI(ws); hbi && known {
		add("keyVault", "vault", need{tag: "AzureKeyVault.{region}", port: 443, names: []string{"{name}.vault.azure.net"}})
	}
	if inside {
		out = append(out, need{tag: virtualNetwork, port: 443})
	}
	return out
}

// once fills in the region and drops repetitions.
func once(list []need, home string) []need {
	var out []need
	seen := map[string]bool{}
	for _, n := range list {
		n.tag = strings.ReplaceAll(n.tag, "{region}", home)
		names := make([]string, len(n.names))
		for i, name := range n.names {
			names[i] = strings.ReplaceAll(name, "{region}", home)
		}
		n.names = names
		if k := n.String() + strings.Join(names, " "); !seen[k] {
			seen[k] = true
			out = append(out, n)
		}
	}
	return out
}
