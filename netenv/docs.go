package netenv

import (
	"fmt"
	"strings"
)

// What a source answers of a rule: "judged", "partly" with what it lacks, or
// "no" with the reason. A rule that is not listed is judged.
type answers map[string]string

func (a answers) of(code string) string { return cond(a[code] == "", "judged", a[code]) }

const (
	inherited  = "partly: not the roles that are inherited or assigned elsewhere"
	noState    = "no: the state that Azure gives it"
	noPeering  = "partly: not across peerings, whose state is Azure's"
	needsProbe = "no: needs a live probe"
	ownServers = "no for servers of your own: needs a live probe"
	deployed   = "no: principals are made by the deployment"
	needsWho   = "with --deployer"
)

var (
	fromExports = answers{"DN-05": "with a live probe", "VN-07": "with a live probe where servers are your own", "RB-02": needsWho, "AK-04": "with the service tag file, where no binding covers it",
		"AK-12": "with the service tag file", "EG-01": "with the service tag file, where rules name ranges"}
	fromTerraform = answers{
		"AK-09": "partly: not whether it was restarted", "DN-03": "no: Azure writes the records", "DN-05": needsProbe,
		"VN-05": "partly: the state of peerings that exist already is not in a plan", "PE-01": "partly: approvals of endpoints that exist already are not in a plan",
		"TA-03": "partly: the state of bindings that exist already is not in a plan", "DN-02": "partly: the state of links that exist already is not in a plan",
		"VN-07": ownServers, "RB-02": "partly: assignments of the plan only", "RB-01": inherited, "CR-05": inherited, "AK-11": inherited, "WS-05": inherited,
		"EG-01": "partly: not the address of a firewall that is made with it", "WS-10": "partly: not what stands in networks that others make", "ST-05": "partly: not the datastores that a workspace makes itself",
	}
	fromState = answers{
		"VN-05": noState, "AK-09": noState, "PE-01": noState, "DN-02": noState, "TA-03": noState, "DN-03": "no: Azure writes the records", "DN-05": needsProbe, "VN-07": ownServers,
		"WS-02": noPeering, "ST-01": noPeering, "ST-05": noPeering, "KV-01": noPeering, "CR-03": noPeering, "PE-03": noPeering, "RB-02": needsWho,
		"RB-01": inherited, "CR-05": inherited, "AK-11": inherited, "WS-05": inherited, "EG-01": "partly: not security groups and route tables of others", "WS-10": "partly: not what others make",
	}
	fromTemplate = answers{
		"VN-05": noState, "AK-09": noState, "PE-01": noState, "DN-02": noState, "TA-03": noState, "DN-03": "no: Azure gives the addresses", "DN-05": needsProbe, "VN-07": ownServers,
		"WS-02": noPeering, "ST-01": noPeering, "ST-05": noPeering, "KV-01": noPeering, "CR-03": noPeering, "PE-03": noPeering, "RB-02": needsWho,
		"RB-01": deployed, "CR-05": deployed, "AK-11": deployed, "WS-05": deployed, "WS-08": "partly: not the resource group's name",
	}
	// The server knows clusters, bindings, roles and workspaces, and what live
	// probes saw.
	fromServer = answers{"AK-03": "judged", "AK-07": "judged", "AK-09": "partly: not whether it was restarted", "TA-01": "judged", "TA-02": "judged", "TA-03": "judged", "TA-04": "judged",
		"WS-04": "judged", "WS-08": "judged", "DN-05": "partly: brings the live probe", "VN-07": "partly: brings the live probe", "AK-01": "partly: ranges of people", "AK-04": "partly: ranges of people",
		"AK-12": "partly: ranges of people", "AK-13": "partly: ranges of people", "AK-02": "no", "AK-06": "partly: regions"}
)

// ofServer is what Sallyport's own server answers; unlisted rules are beyond it.
func ofServer(code string) string { return cond(fromServer[code] == "", "no", fromServer[code]) }

// graphTable is the Resource Graph table that documents a type; the types that
// none does, such as zone groups and role bindings, need listings of their own.
var graphTable = map[string]string{
	fold(typeCluster): "resources", fold(typeWorkspace): "resources", fold(typeStorage): "resources", fold(typeVault): "resources", fold(typeRegistry): "resources",
	fold(typeVNet): "resources", fold(typeSubnet): "resources", fold(typePeering): "resources", fold(typePool): "resources", fold(typeEndpoint): "resources",
	fold(typeZone): "resources", fold(typeLink): "resources", fold(typeA): "dnsresources", fold(typeNSG): "resources", fold(typeNSGRule): "resources",
	fold(typeRoutes): "resources", fold(typeRoute): "resources", fold(typeFirewall): "resources", fold(typePolicy): "resources", fold(typePolicySet): "networkresources",
	fold(typeBastion): "resources", fold(typeGateway): "resources", fold(typeVM): "resources", fold(typeAssignment): "authorizationresources",
	fold(typeExtension): "kubernetesconfigurationresources",
}

// RulesDocument is docs/env-rules.md: every rule with its severities, what each
// source can answer, and which rule stands for which demand of the two guides.
func RulesDocument() string {
	var b strings.Builder
	b.WriteString("# Rules of `sallyport env`\n\nGenerated from package netenv (`go test ./netenv -run TestRulesDocument -update`); do not edit.\n\n")
	b.WriteString("A verdict is pass, fail, unknown or not applicable. Absence counts as failure only where the input proves that it would show the thing.\n\n## Rules\n\n")
	b.WriteString("| Code | Asks | public | public-workspace | private |\n|---|---|---|---|---|\n")
	for _, r := range Rules() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.Code, cell(r.Title), sev(r.Severity[0]), sev(r.Severity[1]), sev(r.Severity[2]))
	}
	b.WriteString("\n## What each source answers\n\nExports are what `az`, `az ml` and ARM print; Resource Graph has the types that its tables document. Any mix may be given: each adds what the others lack.\n\n")
	b.WriteString("| Code | Exports | Resource Graph alone | ARM template | Terraform plan | Terraform state | Sallyport's server |\n|---|---|---|---|---|---|---|\n")
	for _, r := range Rules() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", r.Code, fromExports.of(r.Code), graphAnswer(r), fromTemplate.of(r.Code), fromTerraform.of(r.Code), fromState.of(r.Code), ofServer(r.Code))
	}
	b.WriteString("\n## Why, and which command answers\n")
	for _, r := range Rules() {
		fmt.Fprintf(&b, "\n### %s %s\n\n%s\n", r.Code, r.Title, r.Why)
		if r.Note != "" {
			fmt.Fprintf(&b, "\n%s\n", r.Note)
		}
		b.WriteByte('\n')
		for _, line := range r.Answers() {
			fmt.Fprintf(&b, "- `%s`\n", line)
		}
		if len(r.After) > 0 {
			fmt.Fprintf(&b, "- hidden behind %s\n", strings.Join(r.After, ", "))
		}
	}
	b.WriteString("\n## Demands of the guides\n\n| Guide | Demand | Rules |\n|---|---|---|\n")
	for _, d := range demands {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", d[0], d[1], d[2])
	}
	return b.String()
}

func sev(s Severity) string { return cond(s == Off, "-", string(s)) }

func graphAnswer(r *Rule) string {
	if r.Code == "RB-02" {
		return needsWho
	}
	var lack []string
	for _, t := range append([]string{r.Subject}, r.Reads...) {
		if graphTable[fold(t)] == "" {
			lack = append(lack, noun(t)+"s")
		}
	}
	switch {
	case len(lack) == 0:
		return "judged"
	case graphTable[fold(r.Subject)] == "":
		return "unknown: lacks " + strings.Join(lack, ", ")
	}
	return "partly: lacks " + strings.Join(lack, ", ")
}

// demands are the requirements, limitations and special notes of Azure ML's two
// guides on this environment, each with the rules that check it.
var demands = [][3]string{
	{"AMLArc with private link", "inbound and outbound access to the required addresses", "EG-01, AK-04"},
	{"AMLArc with private link", "an address space that is large enough", "VN-01, VN-02"},
	{"AMLArc with private link", "128 addresses per node in the subnet", "VN-03 (computed; the figure stands beside it)"},
	{"AMLArc with private link", "the account may join VNet and subnet", "RB-02, AK-11"},
	{"AMLArc with private link", "AKS with Azure CNI", "AK-08"},
	{"AMLArc with private link", "a private API server", "AK-01"},
	{"AMLArc with private link", "install from a machine inside the VNet", "WS-10 (a way in exists)"},
	{"AMLArc with private link", "a private-link workspace", "WS-01, WS-02, WS-03"},
	{"AMLArc with private link", "studio: public access or studio in the VNet", "ST-04, WS-10"},
	{"AMLArc with private link", "storage by private or service endpoint", "ST-01, ST-06"},
	{"AMLArc with private link", "key vault by private endpoint", "KV-01, KV-02, KV-03"},
	{"AMLArc with private link", "registry by private endpoint", "CR-01, CR-03, CR-04"},
	{"AMLArc with private link", "a compute in the VNet that builds images", "WS-07"},
	{"Secure inferencing", "private or service endpoints in the same or a peered VNet", "WS-02, ST-01, ST-06, KV-01, CR-03, PE-03, VN-05, VN-06"},
	{"Secure inferencing", "cluster in the region of a private workspace", "AK-06"},
	{"Secure inferencing", "no public name on a private cluster", "AK-02"},
	{"Secure inferencing", "the three scenarios", "profiles public, public-workspace, private"},
	{"Secure inferencing", "the default cluster's VNet is in MC_…", "AK-08"},
	{"Secure inferencing", "further storage has private endpoint and DNS", "ST-05, DN-01"},
	{"Secure inferencing", "private DNS zone integration", "WS-03, DN-01, DN-02, DN-03, DN-04, DN-05"},
	{"Secure inferencing", "system-assigned identity of the workspace", "WS-04"},
	{"Secure inferencing", "HBI: system-assigned identity with both storage roles", "WS-06, RB-01"},
	{"Secure inferencing", "workspace's registry: Premium and trusted services", "CR-01, CR-02"},
	{"Secure inferencing", "connect securely to a workspace behind a VNet", "WS-10"},
	{"Secure inferencing", "trusted services on the storage account", "ST-02"},
	{"Secure inferencing", "after stop and start: recreate the endpoint, attach again", "AK-09"},
}
