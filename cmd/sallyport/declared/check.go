package declared

import (
	"encoding/json"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/trust"
)

// exchangeAudience is what federated credentials have unless they say another.
const exchangeAudience = "api://AzureADTokenExchange"

func (g *Group) check(d *document) {
	if !arm.ValidGroupName(g.Name) {
		d.problem("name", "%q is not a resource group's name", g.Name)
		return
	}
	if g.Location == "" {
		d.problem("location", "\"location\" is missing: where the group is kept")
		return
	}
	g.Location = arm.NormalLocation(g.Location)
	d.tags(g.Tags)
	d.add(KindGroup, groupID(d.subscription, g.Name), d.node.Line, g)
}

func (r *Role) check(d *document) {
	full := trust.RoleName(r.Name)
	if strings.Count(r.Name, "/") < 2 {
		d.problem("name", "%q is not a role's full name: it must read <source type>/<role>, such as Contoso.Scanner/scanners/reader", r.Name)
		return
	}
	if err := trust.ValidateRole(trust.Role{SourceType: full.SourceType(), Name: full.Short(), Rules: r.TrustRules()}); err != nil {
		d.problem("rules", "%v", err)
		return
	}
	d.add(KindRole, client.OwnRoleID(d.subscription, r.Name), d.node.Line, r)
}

// TrustRules are the rules as package trust has them.
func (r *Role) TrustRules() []trust.Rule {
	var out []trust.Rule
	for _, rule := range r.Rules {
		out = append(out, trust.Rule{Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames, NonResourceURLs: rule.NonResourceURLs})
	}
	return out
}

// resourceID reads the id at a key. The second result is false if it is none.
func (d *document) resourceID(key string, value *string) (arm.ID, bool) {
	*value = inSubscription(*value, d.subscription)
	id, err := arm.ParseID(*value)
	if err != nil || len(id.Chain) != 1 {
		d.problem(key, "%q is not a resource id such as /subscriptions/{subscriptionId}/resourceGroups/GROUP/providers/Contoso.Scanner/scanners/NAME", *value)
		return id, false
	}
	return id, true
}

func (s *Source) check(d *document) {
	id, ok := d.resourceID("id", &s.ID)
	if !ok {
		return
	}
	if !arm.SameID(id.Subscription, d.subscription) {
		d.problem("id", "%s is not in the subscription in use, %s", s.ID, d.subscription)
		return
	}
	for _, other := range []string{"Microsoft.ContainerService/managedClusters", "Sallyport.Access/trustedAccessRoles"} {
		if arm.SameID(id.Type(), other) {
			d.problem("id", "%s is no source: declare it by its own kind", other)
			return
		}
	}
	switch s.Identity {
	case "", "SystemAssigned":
		s.Identity = ""
	default:
		d.problem("identity", "identity %q cannot be declared; it may be SystemAssigned", s.Identity)
	}
	s.Location = arm.NormalLocation(s.Location)
	d.tags(s.Tags)
	var needs []string
	if id.Group != "" {
		needs = append(needs, groupID(id.Subscription, id.Group))
	}
	if p := id.Parent(); p.IsResource() {
		needs = append(needs, p.String())
	}
	d.add(KindSource, s.ID, d.node.Line, s, needs...)
	for i := range s.FederatedCredentials {
		f := &s.FederatedCredentials[i]
		line := d.find("federatedCredentials").Content[i].Line
		if f.check(d, line) {
			d.add(KindFederated, client.FederatedPath(s.ID)+"/"+f.Name, line, f, s.ID)
		}
	}
}

// federatedName is Azure's.
var federatedName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{2,119}$`)

// serversOwn begins the names of credentials that the server makes, with which
// its own services act as a source: they are neither declared nor pruned.
const serversOwn = "sallyport-"

// Reserved tells whether the credential is the server's own.
func (f *Federated) Reserved() bool {
	return strings.HasPrefix(strings.ToLower(f.Name), serversOwn)
}

func (f *Federated) check(d *document, line int) bool {
	at := Position{d.file, line}
	switch {
	case !federatedName.MatchString(f.Name):
		d.reader.problem(at, "%q is not a federated credential's name: 3 to 120 letters, digits, '-' and '_'", f.Name)
	case f.Reserved():
		d.reader.problem(at, "federated credential %s: names that begin with %s are the server's own", f.Name, serversOwn)
	case !strings.HasPrefix(f.Issuer, "https://"):
		d.reader.problem(at, "federated credential %s: issuer %q is not an https URL", f.Name, f.Issuer)
	case f.Subject == "":
		d.reader.problem(at, "federated credential %s: \"subject\" is missing: the sub of its tokens", f.Name)
	case len(f.Audiences) > 1:
		d.reader.problem(at, "federated credential %s: exactly one audience is allowed", f.Name)
	default:
		if len(f.Audiences) == 0 {
			f.Audiences = []string{exchangeAudience}
		}
		if why := badKeys(f); why != "" {
			d.reader.problem(at, "federated credential %s: \"keys\" %s", f.Name, why)
			return false
		}
		return true
	}
	return false
}

// badKeys says what is wrong with a key set, "" if nothing is. A private key has
// no business in files that many read.
func badKeys(f *Federated) string {
	raw, err := f.KeySet()
	if err != nil {
		return "is not a JSON Web Key set"
	}
	if raw == nil {
		return ""
	}
	var set jose.JSONWebKeySet
	if json.Unmarshal(raw, &set) != nil || len(set.Keys) == 0 {
		return "is not a JSON Web Key set"
	}
	for _, k := range set.Keys {
		if !k.IsPublic() {
			return "holds a private or symmetric key; write the public one, and take the other out of use"
		}
	}
	return ""
}

// KeySet is Keys as JSON, nil if there are none.
func (f *Federated) KeySet() (json.RawMessage, error) {
	if f.Keys == nil {
		return nil, nil
	}
	return json.Marshal(f.Keys)
}

func (c *Cluster) check(d *document) {
	switch {
	case !arm.ValidGroupName(c.ResourceGroup):
		d.problem("resourceGroup", "%q is not a resource group's name", c.ResourceGroup)
		return
	case !arm.ValidClusterName(c.Name):
		d.problem("name", "%q is not a cluster's name: up to 63 letters, digits, '-' and '_'", c.Name)
		return
	}
	for _, r := range c.AuthorizedIPRanges {
		_, asPrefix := netip.ParsePrefix(r)
		if _, asAddress := netip.ParseAddr(r); asPrefix != nil && asAddress != nil {
			d.problem("authorizedIPRanges", "%q is neither an address nor a range like 198.51.100.0/24", r)
		}
	}
	c.Location = arm.NormalLocation(c.Location)
	d.tags(c.Tags)
	d.add(KindCluster, clusterID(d.subscription, c.ResourceGroup, c.Name), d.node.Line, c, groupID(d.subscription, c.ResourceGroup))
}

func (b *Binding) check(d *document) {
	switch {
	case !arm.ValidGroupName(b.ResourceGroup):
		d.problem("resourceGroup", "%q is not a resource group's name", b.ResourceGroup)
		return
	case !arm.ValidClusterName(b.ClusterName):
		d.problem("clusterName", "%q is not a cluster's name: up to 63 letters, digits, '-' and '_'", b.ClusterName)
		return
	case !arm.ValidBindingName(b.Name):
		d.problem("name", "%q is not a role binding's name: 1 to 24 letters, digits and '-'", b.Name)
		return
	case len(b.Roles) == 0:
		d.problem("roles", "\"roles\" is missing: a binding names at least one")
		return
	}
	id, ok := d.resourceID("sourceResourceId", &b.SourceResourceID)
	if !ok {
		return
	}
	cluster := clusterID(d.subscription, b.ResourceGroup, b.ClusterName)
	needs := []string{cluster, b.SourceResourceID}
	for i, r := range b.Roles {
		name := trust.RoleName(r)
		switch {
		case !arm.SameID(name.SourceType(), id.Type()):
			d.problem("roles", "role %q is not one of %s, which is what the source is", r, id.Type())
			return
		case slices.ContainsFunc(b.Roles[:i], func(o string) bool { return name.Equal(trust.RoleName(o)) }):
			d.problem("roles", "role %q is named twice", r)
			return
		}
		needs = append(needs, client.OwnRoleID(d.subscription, r))
	}
	d.add(KindBinding, client.BindingID(cluster, b.Name), d.node.Line, b, needs...)
}

// SetTag is the tag, and the property where there are no tags, that says which
// set of files a resource is kept in.
const SetTag = "sallyportSet"

func (d *document) tags(tags map[string]string) {
	for k := range tags {
		if strings.EqualFold(k, SetTag) {
			d.problem("tags", "the tag %s is the command's own: give --set", SetTag)
		}
	}
}
