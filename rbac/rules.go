package rbac

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/component-helpers/auth/rbac/validation"

	"github.com/sallyport/sallyport/trust"
)

// PolicyRules writes rules the way Kubernetes does, field for field.
func PolicyRules(rules []trust.Rule) []rbacv1.PolicyRule {
	out := make([]rbacv1.PolicyRule, 0, len(rules))
	for _, r := range rules {
		out = append(out, rbacv1.PolicyRule{
			Verbs:           slices.Clone(r.Verbs),
			APIGroups:       slices.Clone(r.APIGroups),
			Resources:       slices.Clone(r.Resources),
			ResourceNames:   slices.Clone(r.ResourceNames),
			NonResourceURLs: slices.Clone(r.NonResourceURLs),
		})
	}
	return out
}

// Rules is the inverse of PolicyRules.
func Rules(rules []rbacv1.PolicyRule) []trust.Rule {
	out := make([]trust.Rule, 0, len(rules))
	for _, r := range rules {
		out = append(out, trust.Rule{
			Verbs:           slices.Clone(r.Verbs),
			APIGroups:       slices.Clone(r.APIGroups),
			Resources:       slices.Clone(r.Resources),
			ResourceNames:   slices.Clone(r.ResourceNames),
			NonResourceURLs: slices.Clone(r.NonResourceURLs),
		})
	}
	return out
}

// Uncovered returns what wanted allows and held does not, by Kubernetes' own
// comparison (component-helpers, validation.Covers), folded into few rules.
// Empty means held covers all of it.
func Uncovered(held, wanted []trust.Rule) []trust.Rule {
	_, missing := validation.Covers(PolicyRules(held), PolicyRules(wanted))
	return fold(missing)
}

// Change is the exact difference between two revisions of a role.
type Change struct {
	Added, Removed []trust.Rule
}

// Compare says what changes for a cluster that goes from the rules before to
// those after. Both empty means they allow the same.
func Compare(before, after []trust.Rule) Change {
	return Change{Added: Uncovered(before, after), Removed: Uncovered(after, before)}
}

// fold joins rules that differ only in their verbs, then rules that differ only
// in their resources, sorted. Covers returns one rule per verb and resource.
func fold(rules []rbacv1.PolicyRule) []trust.Rule {
	type target struct{ groups, resources, names, urls string }
	const sep = "\x00"
	verbs := map[target][]string{}
	for _, r := range rules {
		t := target{strings.Join(r.APIGroups, sep), strings.Join(r.Resources, sep), strings.Join(r.ResourceNames, sep), strings.Join(r.NonResourceURLs, sep)}
		verbs[t] = append(verbs[t], r.Verbs...)
	}
	type rest struct {
		groups, names, verbs string
		urls                 bool
	}
	targets := map[rest][]string{}
	for t, v := range verbs {
		slices.Sort(v)
		k := rest{t.groups, t.names, strings.Join(slices.Compact(v), sep), t.urls != ""}
		targets[k] = append(targets[k], t.resources+t.urls)
	}
	split := func(s string) []string {
		if s == "" {
			return nil
		}
		return strings.Split(s, sep)
	}
	out := make([]trust.Rule, 0, len(targets))
	for k, list := range targets {
		slices.Sort(list)
		r := trust.Rule{Verbs: split(k.verbs)}
		if k.urls {
			r.NonResourceURLs = list
		} else {
			r.APIGroups, r.Resources, r.ResourceNames = []string{k.groups}, list, split(k.names)
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b trust.Rule) int { return cmp.Compare(Describe(a), Describe(b)) })
	return out
}

// Describe says a rule in words: "get, list on pods, pods/log",
// "patch on deployments.apps named a, b", "get on /metrics".
func Describe(r trust.Rule) string {
	verbs := strings.Join(r.Verbs, ", ")
	if slices.Contains(r.Verbs, "*") {
		verbs = "everything"
	}
	var on []string
	on = append(on, r.NonResourceURLs...)
	for _, group := range r.APIGroups {
		for _, resource := range r.Resources {
			on = append(on, qualified(resource, group))
		}
	}
	s := verbs + " on " + strings.Join(on, ", ")
	if len(r.ResourceNames) > 0 {
		s += " named " + strings.Join(r.ResourceNames, ", ")
	}
	return s
}

// qualified writes a resource the way kubectl takes it: "deployments.apps",
// "deployments.apps/scale".
func qualified(resource, group string) string {
	if group == "" {
		return resource
	}
	if group == "*" {
		return resource + " of every API group"
	}
	name, sub, ok := strings.Cut(resource, "/")
	if ok {
		return fmt.Sprintf("%s.%s/%s", name, group, sub)
	}
	return name + "." + group
}
