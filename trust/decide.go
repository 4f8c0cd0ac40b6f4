package trust

import "strings"

// Attributes is what a Kubernetes API server authorizes: the fields of its
// authorizer.Attributes that RBAC looks at.
type Attributes struct {
	Verb            string // "get", "list", "create", …; the lower-case method for non-resource requests
	APIGroup        string // "" is the core group
	APIVersion      string
	Namespace       string // "" for cluster-scoped requests
	Resource        string
	Subresource     string
	Name            string
	Path            string // the cleaned path; what decides for non-resource requests
	ResourceRequest bool
}

// Grant is one role in one revision, as a cluster accepted it.
type Grant struct {
	Role       RoleName
	Revision   Revision
	Namespaces []string // where it was accepted; empty means the whole cluster
	Rules      []Rule
}

// Decision is the answer to one request.
type Decision struct {
	Allowed bool
	Role    RoleName // the role that allowed it; "" when the base set did, or when refused
}

// Policy is what bindings allow, compiled once per revision: grants indexed by
// verb, so that deciding looks at few rules. It is immutable and safe for
// concurrent use.
type Policy struct {
	byVerb map[string][]compiledRule
	any    []compiledRule // rules with verb "*"
}

type compiledRule struct {
	rule       *Rule
	role       RoleName
	namespaces map[string]struct{} // nil means the whole cluster
}

// Compile prepares grants for Decide.
func Compile(grants []Grant) *Policy {
	p := &Policy{byVerb: map[string][]compiledRule{}}
	for _, g := range grants {
		var namespaces map[string]struct{}
		if len(g.Namespaces) > 0 {
			namespaces = make(map[string]struct{}, len(g.Namespaces))
			for _, n := range g.Namespaces {
				namespaces[n] = struct{}{}
			}
		}
		for i := range g.Rules {
			c := compiledRule{rule: &g.Rules[i], role: g.Role, namespaces: namespaces}
			seen := map[string]struct{}{}
			for _, v := range g.Rules[i].Verbs {
				if _, twice := seen[v]; twice {
					continue
				}
				seen[v] = struct{}{}
				if v == "*" {
					p.any = append(p.any, c)
				} else {
					p.byVerb[v] = append(p.byVerb[v], c)
				}
			}
		}
	}
	return p
}

// Decide says whether the grants, or the base set that every bound source has,
// cover the request. It agrees with Kubernetes' RBAC authorizer for the same
// rules bound by ClusterRoleBindings (no Namespaces) or RoleBindings.
func (p *Policy) Decide(a *Attributes) Decision {
	if inBaseSet(a) {
		return Decision{Allowed: true}
	}
	if p == nil {
		return Decision{}
	}
	for _, rules := range [][]compiledRule{p.byVerb[a.Verb], p.any} {
		for i := range rules {
			c := &rules[i]
			if c.namespaces != nil {
				if _, ok := c.namespaces[a.Namespace]; !ok || a.Namespace == "" || !a.ResourceRequest {
					continue
				}
			}
			if targetCovered(c.rule, a) {
				return Decision{Allowed: true, Role: c.role}
			}
		}
	}
	return Decision{}
}

// ruleCovers is RBAC's RuleAllows for one rule.
func ruleCovers(r *Rule, a *Attributes) bool {
	for _, v := range r.Verbs {
		if v == "*" || v == a.Verb {
			return targetCovered(r, a)
		}
	}
	return false
}

// targetCovered is RuleAllows without the verb.
func targetCovered(r *Rule, a *Attributes) bool {
	if !a.ResourceRequest {
		return pathCovered(r.NonResourceURLs, a.Path)
	}
	return has(r.APIGroups, a.APIGroup) && resourceCovered(r.Resources, a) && nameCovered(r.ResourceNames, a.Name)
}

func has(list []string, s string) bool {
	for _, x := range list {
		if x == "*" || x == s {
			return true
		}
	}
	return false
}

func resourceCovered(list []string, a *Attributes) bool {
	for _, x := range list {
		if x == "*" {
			return true
		}
		if a.Subresource == "" {
			if x == a.Resource {
				return true
			}
			continue
		}
		res, sub, ok := strings.Cut(x, "/")
		// "*/scale" is every resource's scale; "pods/*" is no wildcard in RBAC.
		if ok && sub == a.Subresource && (res == a.Resource || res == "*") {
			return true
		}
	}
	return false
}

func nameCovered(list []string, name string) bool {
	if len(list) == 0 {
		return true
	}
	for _, x := range list {
		if x == name {
			return true
		}
	}
	return false
}

func pathCovered(list []string, path string) bool {
	for _, x := range list {
		if x == "*" || x == path {
			return true
		}
		if strings.HasSuffix(x, "*") && strings.HasPrefix(path, strings.TrimRight(x, "*")) {
			return true
		}
	}
	return false
}

// BaseSet is what every bound source may do on the cluster besides its roles:
// discovery, version, OpenAPI, health, and asking what it may do. It is a part
// of what the API server grants every authenticated identity
// (system:discovery, system:public-info-viewer, system:basic-user).
func BaseSet() []Rule {
	return []Rule{
		{Verbs: []string{"get"}, NonResourceURLs: []string{
			"/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*",
			"/version", "/version/", "/healthz", "/livez", "/readyz",
		}},
		{Verbs: []string{"create"}, APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"selfsubjectaccessreviews", "selfsubjectrulesreviews"}},
		{Verbs: []string{"create"}, APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"selfsubjectreviews"}},
	}
}

var baseSet = BaseSet()

func inBaseSet(a *Attributes) bool {
	for i := range baseSet {
		if ruleCovers(&baseSet[i], a) {
			return true
		}
	}
	return false
}
