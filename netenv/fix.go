package netenv

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// creating are the rules whose fix is a new resource, in the order in which
// Terraform's readers understand them; Terraform itself orders by reference.
var creating = []string{"VN-05", "DN-02", "WS-02", "ST-01", "ST-05", "KV-01", "CR-03", "AK-11", "WS-05", "CR-05", "RB-01", "RB-02", "AK-02", "AK-03", "AK-04", "TA-01"}

var zoneReference = regexp.MustCompile(`azurerm_private_dns_zone\.([a-z0-9_]+)\.id`)

// FixTerraform writes what is missing as Terraform: peerings, zones and their
// links, private endpoints, role assignments and bindings. What must change in
// place is listed as comments. Nothing is run.
func (r *Report) FixTerraform() string {
	failures := r.shown(Fail)
	seen := map[string]bool{}
	var made, zones, changes []string
	for _, code := range creating {
		for _, f := range failures {
			if f.Code != code {
				continue
			}
			text := createdPart(f.Fix.Terraform)
			if text == "" || seen[text] || strings.Contains(text, "<") {
				if text == "" || strings.Contains(text, "<") {
					changes = append(changes, comment(f))
				}
				continue
			}
			seen[text] = true
			text = r.withZones(text, &zones)
			made = append(made, fmt.Sprintf("# %s: %s\n%s\n", f.Code, oneLine(f.Reason), text))
		}
	}
	for _, f := range failures {
		if !slices.Contains(creating, f.Code) {
			changes = append(changes, comment(f))
		}
	}
	out := "# made by sallyport env fix; read it, then terraform plan\n\n" + strings.Join(append(zones, uniqueNames(made)...), "\n")
	if len(changes) > 0 {
		out += "\n# to change where it is defined:\n" + strings.Join(changes, "")
	}
	return out
}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", " ") }

// createdPart is a fix from its first resource on, if it creates one.
func createdPart(s string) string {
	if i := strings.Index(s, "resource \""); i >= 0 {
		return strings.TrimSpace(s[i:])
	}
	return ""
}

func comment(f *Finding) string {
	return "# " + f.Code + ": " + oneLine(f.Reason) + "\n#   " + strings.ReplaceAll(f.Fix.Terraform, "\n", "\n#   ") + "\n"
}

// withZones gives references to zones the ids of zones that exist, and makes
// the others with a link to each cluster's VNet.
func (r *Report) withZones(text string, zones *[]string) string {
	return zoneReference.ReplaceAllStringFunc(text, func(ref string) string {
		name := zoneReference.FindStringSubmatch(ref)[1]
		for _, z := range r.graph.list(typeZone) {
			if tfName(z.Name()) == name {
				return quote(z.ID)
			}
		}
		for group := range groupNames {
			for _, cloud := range []string{"", "china", "gov"} {
				for _, z := range zonesFor(group, cloud) {
					if tfName(z) == name {
						r.newZone(z, zones)
						return ref
					}
				}
			}
		}
		return ref
	})
}

var groupNames = map[string]bool{"amlworkspace": true, "blob": true, "file": true, "queue": true, "table": true, "dfs": true, "vault": true, "registry": true}

// newZone writes one zone, which serves every cluster of the environment.
func (r *Report) newZone(zone string, zones *[]string) {
	clusters := r.graph.list(typeCluster)
	if len(clusters) == 0 {
		return
	}
	c, e := clusters[0], &env{g: r.graph, vnets: map[*Resource]*homes{}}
	blocks := []block{resource("azurerm_private_dns_zone", tfName(zone), setting{"name", zone}, setting{"resource_group_name", idGroup(c.ID)})}
	for _, v := range e.clusterVNets(c) {
		blocks = append(blocks, resource("azurerm_private_dns_zone_virtual_network_link", tfName(zone+"-"+idName(v)), setting{"name", idName(v)},
			setting{"private_dns_zone_id", expr("azurerm_private_dns_zone." + tfName(zone) + ".id")}, setting{"virtual_network_id", v}, setting{"registration_enabled", false}))
	}
	if text := hcl(blocks); !slices.Contains(*zones, text) {
		*zones = append(*zones, text)
	}
}

var resourceHead = regexp.MustCompile(`(?m)^resource "([a-z0-9_]+)" "([a-z0-9_]+)"`)

// uniqueNames numbers resources that would share a name.
func uniqueNames(blocks []string) []string {
	seen := map[string]int{}
	for i, b := range blocks {
		blocks[i] = resourceHead.ReplaceAllStringFunc(b, func(head string) string {
			m := resourceHead.FindStringSubmatch(head)
			seen[m[1]+m[2]]++
			if n := seen[m[1]+m[2]]; n > 1 {
				return fmt.Sprintf("resource %q %q", m[1], fmt.Sprintf("%s_%d", m[2], n))
			}
			return head
		})
	}
	return blocks
}
