package parity

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/trust"
)

// What rules and requests are made of: few words, so that they meet.
var (
	verbs      = []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "bind", "escalate"}
	groups     = []string{"", "apps", "batch", "rbac.authorization.k8s.io", "example.com"}
	resources  = []string{"pods", "services", "deployments", "secrets", "nodes", "namespaces", "clusterroles"}
	subs       = []string{"log", "exec", "proxy", "scale", "status", "token"}
	names      = []string{"a", "b", "c"}
	namespaces = []string{"blue", "green", "red"}
	urls       = []string{"/metrics", "/logs/kubelet", "/logs/", "/logs", "/api", "/api/v1", "/apis/apps", "/healthz", "/healthz/etcd", "/version", "/debug/pprof/heap", "/"}
	urlRules   = []string{"/metrics", "/logs/*", "/logs*", "/api/*", "*", "/healthz/*", "/version", "/debug/*", "/*", "/a*b*", "/logs/**"}
)

// dice makes everything here; the same seed makes the same.
type dice struct{ *rand.Rand }

func (d dice) one(list []string) string { return list[d.IntN(len(list))] }

func (d dice) chance(percent int) bool { return d.IntN(100) < percent }

// some are one to n different words of list, with wildcard put in now and then.
func (d dice) some(list []string, n, wildcard int) []string {
	var out []string
	for range 1 + d.IntN(n) {
		out = append(out, d.one(list))
	}
	if d.chance(wildcard) {
		out = append(out, "*")
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (d dice) resource() string {
	switch n := d.IntN(100); {
	case n < 50:
		return d.one(resources)
	case n < 75:
		return d.one(resources) + "/" + d.one(subs)
	case n < 88:
		return "*/" + d.one(subs)
	case n < 96:
		return "*"
	default:
		return d.one(resources) + "/*" // no wildcard in RBAC
	}
}

func (d dice) rule() trust.Rule {
	r := trust.Rule{Verbs: d.some(verbs, 4, 15)}
	if d.chance(25) {
		r.NonResourceURLs = d.some(urlRules, 2, 0)
		return r
	}
	r.APIGroups = d.some(groups, 2, 15)
	for range 1 + d.IntN(3) {
		r.Resources = append(r.Resources, d.resource())
	}
	if d.chance(25) {
		r.ResourceNames = d.some(names, 2, 0)
	}
	return r
}

func (d dice) rules(n int) []trust.Rule {
	var out []trust.Rule
	for range 1 + d.IntN(n) {
		out = append(out, d.rule())
	}
	return out
}

func (d dice) grant(i int) trust.Grant {
	g := trust.Grant{Role: trust.RoleName(fmt.Sprintf("T.T/t/Role%d", i)), Rules: d.rules(3)}
	g.Revision = trust.RevisionOf(g.Rules)
	if d.chance(40) {
		g.Namespaces = d.some(namespaces, 2, 0)
	}
	return g
}

// request is one that the grants might allow: a rule with its wildcards filled
// in, and often one thing changed.
func (d dice) request(grants []trust.Grant) trust.Attributes {
	g := grants[d.IntN(len(grants))]
	r := g.Rules[d.IntN(len(g.Rules))]
	fill := func(s string, list []string) string {
		if s == "*" && d.chance(95) {
			return d.one(list)
		}
		return s
	}
	a := trust.Attributes{Verb: fill(d.one(r.Verbs), verbs), APIVersion: "v1"}
	if len(r.NonResourceURLs) > 0 {
		a.Path = d.one(r.NonResourceURLs)
		if strings.HasSuffix(a.Path, "*") {
			a.Path = strings.TrimSuffix(a.Path, "*") + d.one([]string{"", "x", "x/y", "*"})
		}
		if d.chance(40) {
			a.Path = d.one(urls)
		}
		if a.Path == "" {
			a.Path = "/"
		}
	} else {
		a.ResourceRequest = true
		a.APIGroup = fill(d.one(r.APIGroups), groups)
		res, sub, _ := strings.Cut(d.one(r.Resources), "/")
		a.Resource, a.Subresource = fill(res, resources), fill(sub, subs)
		if res == "*" && sub == "" && d.chance(50) {
			a.Subresource = d.one(subs)
		}
		switch {
		case len(r.ResourceNames) > 0:
			a.Name = d.one(r.ResourceNames)
		case d.chance(60):
			a.Name = d.one(names)
		}
		if len(g.Namespaces) > 0 {
			a.Namespace = d.one(g.Namespaces)
		} else if d.chance(60) {
			a.Namespace = d.one(namespaces)
		}
	}
	if d.chance(45) {
		d.change(&a)
	}
	if !a.ResourceRequest {
		a.Namespace = "" // no request for a path has one: TestRequestsAreRead… shows it
	}
	return a
}

func (d dice) change(a *trust.Attributes) {
	switch d.IntN(8) {
	case 0:
		a.Verb = d.one(verbs)
	case 1:
		a.APIGroup = d.one(groups)
	case 2:
		a.Resource = d.one(resources)
	case 3:
		a.Subresource = d.one(append(subs, ""))
	case 4:
		a.Name = d.one(append(names, ""))
	case 5:
		a.Namespace = d.one(append(namespaces, ""))
	case 6:
		a.ResourceRequest = !a.ResourceRequest
	case 7:
		a.Path = d.one(urls)
	}
}
