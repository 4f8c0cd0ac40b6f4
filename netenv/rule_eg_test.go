package netenv

import (
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
	tags := `{"name":"ml","ruleType":"NetworkRule","destinationAddresses":["AzureActiveDirectory","AzureMachineLearning","AzureResourceManager","MicrosoftContainerRegistry","AzureFrontDoor.FirstParty"],"destinationPorts":["443"]}`
	wildcards := `{"name":"wild","ruleType":"ApplicationRule","targetFqdns":["*.azureml.ms","*.experiments.azureml.net","login.microsoftonline.com","management.azure.com","mcr.microsoft.com","*.data.mcr.microsoft.com"]}`
	wrongPort := strings.ReplaceAll(tags, `"443"`, `"80"`)
	for _, tc := range []struct {
		name, rules string
		want        Verdict
	}{
		{"tags", tags, Pass}, {"names", wildcards, Pass}, {"the AKS tag lacks Azure ML", names, Fail}, {"another port", wrongPort, Fail},
		{"rules not exported", "", Undecided},
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
