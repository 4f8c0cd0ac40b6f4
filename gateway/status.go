package gateway

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/sallyport/sallyport/request"
	"github.com/sallyport/sallyport/trust"
)

// unbound is the refusal of a caller without a binding on a cluster. It is the
// same for a cluster that does not exist, and names nothing that the caller did
// not bring along. A person is told the groups, and what would let one in.
func unbound(c *trust.Caller, cluster trust.ClusterUID) error {
	if !person(c) {
		return trust.Errorf(trust.Forbidden, "%s has no role binding on cluster %s", who(c), cluster)
	}
	if len(c.Groups) == 0 {
		err := trust.Errorf(trust.Forbidden, "%s is in no group, and people are let in by their groups: no role binding on cluster %s", who(c), cluster)
		err.Hint = "get into a group that the cluster's team has bound, then sign in again with sallyport login"
		return err
	}
	err := trust.Errorf(trust.Forbidden, "%s, in %s of %s, has no role binding on cluster %s", who(c), groupsOf(c), c.GroupIssuer, cluster)
	err.Hint = "the cluster's team grants it with sallyport ad group create -g GROUP -n NAME " + groupFlags(c) + "and sallyport aks trustedaccess rolebinding create -g GROUP --cluster-name CLUSTER -n NAME" +
		" --source-resource-id /subscriptions/SUBSCRIPTION/resourceGroups/GROUP/providers/Sallyport.Identity/groups/NAME --roles ROLE"
	return err
}

// person tells people from services and applications.
func person(c *trust.Caller) bool { return c.ResourceID == "" && (c.Name != "" || len(c.Groups) > 0) }

// groupsOf names a person's groups, the first few of many.
func groupsOf(c *trust.Caller) string {
	const most = 5
	var names []string
	for _, g := range c.Groups[:min(len(c.Groups), most)] {
		names = append(names, fmt.Sprintf("%.80q", g))
	}
	s := "groups "
	if len(c.Groups) == 1 {
		s = "group "
	}
	s += strings.Join(names, ", ")
	if n := len(c.Groups) - most; n > 0 {
		s += fmt.Sprintf(" and %d more", n)
	}
	return s
}

// groupFlags are what tells the caller's first group from all others.
func groupFlags(c *trust.Caller) string {
	if shellSafe(c.Groups[0]) && shellSafe(c.GroupIssuer) && shellSafe(c.Tenant) {
		return fmt.Sprintf("--group %s --issuer %s --tenant %s ", c.Groups[0], c.GroupIssuer, c.Tenant)
	}
	return ""
}

// shellSafe keeps what a token says from becoming a command when it is pasted.
func shellSafe(s string) bool {
	return s != "" && len(s) <= 300 && s[0] != '-' && !strings.ContainsFunc(s, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("-_./:@+=", c))
	})
}

// who names a caller.
func who(c *trust.Caller) string {
	switch {
	case c.ResourceID != "":
		return fmt.Sprintf("source %q", c.ResourceID)
	case c.Name != "":
		return fmt.Sprintf("user %q", c.Name)
	}
	return fmt.Sprintf("caller %q", c.Object)
}

// explain turns a refused decision into what a bound caller is told: who, what,
// what is bound, and which role would allow it.
func (g *Gateway) explain(why error, c *trust.Caller, found []*bound, r *request.Request) error {
	if !errors.Is(why, errUncovered) {
		return why
	}
	var roles, bindings []string
	for _, b := range found {
		bindings = append(bindings, lastSegment(b.ID))
		for _, grant := range b.Grants {
			roles = append(roles, string(grant.Role))
		}
	}
	slices.Sort(roles)
	roles = slices.Compact(roles)
	has := "its role binding " + strings.Join(bindings, ", ") + " here gives " + strings.Join(roles, ", ")
	if len(roles) == 0 {
		has = "its role binding " + strings.Join(bindings, ", ") + " here gives no role yet"
	}
	err := trust.Errorf(trust.Forbidden, "%s cannot %s; %s", who(c), what(&r.Attributes), has)
	would := g.table.roles.allowing(&r.Attributes, sourceType(found[0].SourceID))
	if len(would) == 0 {
		err.Hint = "no published role for its type would allow it"
		return err
	}
	err.Hint = "allowed by role " + strings.Join(would, " or ") + "; the cluster's team adds it with " + updateCommand(found[0].ID, append(roles, would[0]))
	return err
}

// what names a request as kubectl does.
func what(a *trust.Attributes) string {
	if !a.ResourceRequest {
		return fmt.Sprintf("%s path %q", a.Verb, a.Path)
	}
	res := a.Resource
	if a.Subresource != "" {
		res += "/" + a.Subresource
	}
	s := fmt.Sprintf("%s resource %q in API group %q", a.Verb, res, a.APIGroup)
	if a.Name != "" {
		s = fmt.Sprintf("%s resource %q named %q in API group %q", a.Verb, res, a.Name, a.APIGroup)
	}
	if a.Namespace != "" {
		return s + fmt.Sprintf(" in the namespace %q", a.Namespace)
	}
	return s + " at the cluster scope"
}

// updateCommand is what the cluster's team types to widen a binding.
func updateCommand(bindingID string, roles []string) string {
	parts := strings.Split(bindingID, "/")
	value := func(key string) string {
		for i := 0; i+1 < len(parts); i++ {
			if trust.Fold(parts[i]) == key {
				return parts[i+1]
			}
		}
		return ""
	}
	return fmt.Sprintf("sallyport aks trustedaccess rolebinding update -g %s --cluster-name %s -n %s --roles %s",
		value("resourcegroups"), value("managedclusters"), lastSegment(bindingID), strings.Join(roles, ","))
}

func lastSegment(id string) string { return id[strings.LastIndexByte(id, '/')+1:] }

// sourceType is the resource type of an id, "Namespace/type".
func sourceType(id string) string {
	i := strings.LastIndex(trust.Fold(id), "/providers/")
	if i < 0 {
		return ""
	}
	parts := strings.Split(id[i+len("/providers/"):], "/")
	t := parts[0]
	for n := 1; n < len(parts); n += 2 {
		t += "/" + parts[n]
	}
	return t
}

// roles are the published ones and those of this installation, compiled, to
// name in refusals. They decide nothing.
type roles struct {
	mu  sync.RWMutex // guards what follows
	own map[string]candidate
}

type candidate struct {
	name   trust.RoleName
	policy *trust.Policy
}

var builtIn = sync.OnceValue(func() []candidate {
	var all []candidate
	for _, r := range trust.Published() {
		all = append(all, compiled(r))
	}
	return all
})

func compiled(r trust.Role) candidate {
	return candidate{r.FullName(), trust.Compile([]trust.Grant{{Role: r.FullName(), Rules: r.Rules}})}
}

func (s *roles) put(key string, r trust.Role) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.own == nil {
		s.own = map[string]candidate{}
	}
	s.own[key] = compiled(r)
}

func (s *roles) drop(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.own, key)
}

func (s *roles) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own = nil
}

// allowing names the roles for a source type that would allow a request, at
// most three, in order.
func (s *roles) allowing(a *trust.Attributes, sourceType string) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var names []string
	check := func(c candidate) {
		if trust.Fold(c.name.SourceType()) == trust.Fold(sourceType) && c.policy.Decide(a).Allowed {
			names = append(names, string(c.name))
		}
	}
	for _, c := range builtIn() {
		check(c)
	}
	for _, c := range s.own {
		check(c)
	}
	slices.Sort(names)
	return names[:min(len(names), 3)]
}
