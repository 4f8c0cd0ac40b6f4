package netenv

import (
	"strconv"
	"strings"
	"testing"
)

// behindFirewall sends the cluster's traffic through a firewall.
func behindFirewall(w *world, rules string) {
	w.set("clusters.json prod networkProfile.outboundType", "userDefinedRouting")
	table := testGroup + "/providers/Microsoft.Network/routeTables/out"
	w.set("vnets.json net-aks subnets.0.routeTable", map[string]any{"id": table})
	w.files["routes.json"] = []any{}
	w.add("routes.json", `{"id":"`+table+`","name":"out","routes":[{"name":"default","addressPrefix":"0.0.0.0/0","nextHopType":"VirtualAppliance","nextHopIpAddress":"10.20.3.4"}]}`)
	policy := testGroup + "/providers/Microsoft.Network/firewallPolicies/fw"
	w.add("firewalls.json", `{"id":"`+testGroup+`/providers/Microsoft.Network/azureFirewalls/fw","name":"fw","ipConfigurations":[{"privateIPAddress":"10.20.3.4"}],"firewallPolicy":{"id":"`+policy+`"},"networkRuleCollections":[],"applicationRuleCollections":[]}`)
	if rules != "" {
		w.add("policy.json", `{"id":"`+policy+`/ruleCollectionGroups/g","name":"g","ruleCollections":[{"action":{"type":"Allow"},"rules":[`+rules+`]}]}`)
	}
}

func TestOutboundThroughAFirewall(t *testing.T) {
	names := `{"name":"aks","ruleType":"ApplicationRule","fqdnTags":["AzureKubernetesService"],"targetFqdns":[]}`
	tags := `{"name":"ml","ruleType":"NetworkRule","destinationAddresses":["AzureActiveDirectory","AzureMachineLearning","AzureResourceManager","MicrosoftContainerRegistry","AzureFrontDoor.FirstParty","AzureMonitor"],"destinationPorts":["443"]}`
	wildcards := `{"name":"wild","ruleType":"ApplicationRule","targetFqdns":["*.azureml.ms","*.experiments.azureml.net","login.microsoftonline.com","management.azure.com","mcr.microsoft.com","*.data.mcr.microsoft.com","*.kusto.windows.net"]}`
	wrongPort := strings.ReplaceAll(tags, `"443"`, `"80"`)
	for _, tc := range []struct {
		name, rules string
		want        Verdict
	}{
		{"tags", tags, Pass}, {"names", wildcards, Pass}, {"the AKS tag lacks Azure ML", names, Fail}, {"another port", wrongPort, Fail},
		{"rules not exported", "", Undecided},
		{"a rule for somebody else", strings.Replace(tags, `"ruleType"`, `"sourceAddresses":["10.99.0.0/16"],"ruleType"`, 1), Fail},
		{"a rule for a part of the subnet", strings.Replace(tags, `"ruleType"`, `"sourceAddresses":["10.10.0.0/24"],"ruleType"`, 1), Undecided},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := load(t, "private")
			behindFirewall(w, tc.rules)
			r := w.check(Private)
			if v := verdicts(r)["EG-01"]; v != tc.want {
				t.Errorf("%s, want %s: %s", v, tc.want, reasons(r, "EG-01"))
			}
		})
	}
	w := load(t, "private")
	w.set("clusters.json prod networkProfile.outboundType", "userDefinedRouting")
	if v := verdicts(w.check(Private))["EG-01"]; v != Fail {
		t.Errorf("user-defined routing without a route table: %s", v)
	}
}

func TestADenyingCollectionComesFirst(t *testing.T) {
	w := load(t, "private")
	behindFirewall(w, "")
	policy := testGroup + "/providers/Microsoft.Network/firewallPolicies/fw"
	w.add("policy.json", `{"id":"`+policy+`/ruleCollectionGroups/g","name":"g","priority":200,"ruleCollections":[
		{"priority":300,"action":{"type":"Allow"},"rules":[{"name":"all","destinationAddresses":["*"],"destinationPorts":["443"],"ipProtocols":["TCP"]}]},
		{"priority":100,"action":{"type":"Deny"},"rules":[{"name":"no-ml","destinationFqdns":["*.azureml.ms"],"destinationPorts":["443"],"ipProtocols":["TCP"]}]}]}`)
	r := w.check(Private)
	if v := verdicts(r)["EG-01"]; v != Fail || !strings.Contains(reasons(r, "EG-01"), "no-ml") {
		t.Errorf("%s: %s", v, reasons(r, "EG-01"))
	}
}

// Each need of the two lists, denied alone in the security group, is found and
// named; a regional tag's denial too.
func TestEveryNeedIsJudged(t *testing.T) {
	compute := `{"id":"` + testGroup + `/providers/Microsoft.MachineLearningServices/workspaces/fraud/computes/builders","name":"builders","location":"westeurope","properties":{"computeType":"AmlCompute","properties":{"enableNodePublicIp":true,"subnet":{"id":"` + testGroup + `/providers/Microsoft.Network/virtualNetworks/net-aks/subnets/nodes"}}}}`
	world := func(rules string) *world {
		w := load(t, "private")
		w.add("computes.json", compute)
		w.files["nsgs.json"] = []any{}
		w.add("nsgs.json", `{"id":"`+testGroup+`/providers/Microsoft.Network/networkSecurityGroups/aks","name":"aks","location":"westeurope","securityRules":[`+rules+`]}`)
		return w
	}
	const in = `{"name":"in","priority":100,"direction":"Inbound","access":"Allow","protocol":"Tcp","sourceAddressPrefix":"AzureMachineLearning","destinationAddressPrefix":"VirtualNetwork","destinationPortRange":"44224"}`
	if r := world(in).check(Private); verdicts(r)["EG-01"] != Pass {
		t.Fatalf("nothing denied: %s", reasons(r, "EG-01"))
	}
	if r := world("").check(Private); verdicts(r)["EG-01"] != Fail || !strings.Contains(reasons(r, "EG-01"), "AzureMachineLearning 44224 inbound") {
		t.Errorf("nothing let in: %s", reasons(r, "EG-01"))
	}
	for _, n := range once(append(append([]need{{tag: virtualNetwork, port: 443}}, ofNodes...), ofManaged...), "westeurope") {
		t.Run(n.String(), func(t *testing.T) {
			deny := `,{"name":"no","priority":200,"direction":"Outbound","access":"Deny","protocol":"` + cond(n.udp, "Udp", "Tcp") + `","destinationAddressPrefix":"` + n.tag + `","destinationPortRange":"` + strconv.Itoa(n.port) + `"}`
			r := world(in + deny).check(Private)
			said := reasons(r, "EG-01")
			if verdicts(r)["EG-01"] != Fail || !n.telemetry && !strings.Contains(said, n.String()) || n.telemetry != strings.Contains(said, "telemetry") {
				t.Errorf("%s", said)
			}
			if n.telemetry && !r.Proven(false) {
				t.Errorf("closed telemetry is more than information: %s", r.Line())
			}
		})
	}
}

func TestServicesWithoutPrivateEndpointsNeedTheirTags(t *testing.T) {
	w := load(t, "private")
	bases["service endpoints"](w)
	w.set("nsgs.json aks securityRules.7.access", "Deny") // Storage.WestEurope
	if r := w.check(Private); !strings.Contains(reasons(r, "EG-01"), "Storage.westeurope 443") {
		t.Errorf("%s", reasons(r, "EG-01"))
	}
	w = load(t, "private")
	w.set("clusters.json prod apiServerAccessProfile.enablePrivateCluster", false)
	w.set("nsgs.json aks securityRules.8.access", "Deny") // AzureCloud.WestEurope
	if r := w.check(Private); !strings.Contains(reasons(r, "EG-01"), "AzureCloud.westeurope 443") {
		t.Errorf("%s", reasons(r, "EG-01"))
	}
}

func TestRangesInSecurityGroupsNeedTheTagFile(t *testing.T) {
	w := load(t, "private")
	w.set("nsgs.json aks securityRules.1.destinationAddressPrefix", "20.190.128.0/18")
	w.set("nsgs.json aks securityRules.1.access", "Deny")
	if v := verdicts(w.check(Private))["EG-01"]; v != Undecided {
		t.Errorf("without tags: %s", v)
	}
	w.tags() // the range is a part of AzureActiveDirectory only
	if v := verdicts(w.check(Private))["EG-01"]; v != Undecided {
		t.Errorf("a part of a tag: %s", v)
	}
	w.set("nsgs.json aks securityRules.1.destinationAddressPrefixes", []any{"20.190.128.0/18", "40.126.0.0/18"})
	if v := verdicts(w.check(Private))["EG-01"]; v != Fail {
		t.Errorf("the whole tag: %s", v)
	}
}
