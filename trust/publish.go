package trust

import (
	"fmt"
	"slices"
	"strings"
)

// Limits of a published role, far above the largest of the built-in ones.
const (
	maxRules      = 100
	maxRuleFields = 200
	maxFieldBytes = 253
)

// ValidateRole says whether a role may be published. Refused are roles that
// hold a right which would let the holder exceed any role: impersonate,
// escalate, bind, approve, sign, or create on serviceaccounts/token, wildcards
// that contain them included.
func ValidateRole(r Role) error {
	if err := validName(r); err != nil {
		return err
	}
	if len(r.Rules) == 0 {
		return Errorf(Invalid, "role %s has no rules", r.FullName())
	}
	if len(r.Rules) > maxRules {
		return Errorf(Invalid, "role %s has %d rules, the limit is %d", r.FullName(), len(r.Rules), maxRules)
	}
	for i, rule := range r.Rules {
		if err := validRule(rule); err != nil {
			return Errorf(Invalid, "role %s, rule %d: %s", r.FullName(), i+1, err)
		}
		if why := exceedsAnyRole(rule); why != "" {
			return Errorf(Forbidden, "role %s, rule %d: %s cannot be published, since its holder could exceed every role", r.FullName(), i+1, why)
		}
	}
	return nil
}

func validName(r Role) error {
	ns, typ, ok := strings.Cut(r.SourceType, "/")
	if !ok || ns == "" || typ == "" {
		return Errorf(Invalid, "%q is not a source resource type: it must read <Namespace>/<type>, for example Contoso.Scanner/scanners", r.SourceType)
	}
	for _, part := range append(strings.Split(r.SourceType, "/"), r.Name) {
		if !nameChars(part) {
			return Errorf(Invalid, "role name %q may hold ASCII letters, digits, '.', '-' and '_' only, 1 to 64 of them in each part", r.FullName())
		}
	}
	return nil
}

func nameChars(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '-', c == '_':
		default:
			return false
		}
	}
	return s != "." && s != ".."
}

// validRule applies the API server's own validation of a ClusterRole's rules,
// so that what can be published can also be accepted.
func validRule(r Rule) error {
	for _, list := range [][]string{r.Verbs, r.APIGroups, r.Resources, r.ResourceNames, r.NonResourceURLs} {
		if len(list) > maxRuleFields {
			return fmt.Errorf("a list has %d entries, the limit is %d", len(list), maxRuleFields)
		}
		for _, s := range list {
			if len(s) > maxFieldBytes || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' }) {
				return fmt.Errorf("%.40q is too long or not printable ASCII", s)
			}
		}
	}
	if len(r.Verbs) == 0 || slices.Contains(r.Verbs, "") {
		return fmt.Errorf("verbs must be named")
	}
	if len(r.NonResourceURLs) > 0 {
		if len(r.APIGroups)+len(r.Resources)+len(r.ResourceNames) > 0 {
			return fmt.Errorf("nonResourceURLs cannot stand beside resources")
		}
		for _, u := range r.NonResourceURLs {
			if u != "*" && !strings.HasPrefix(u, "/") {
				return fmt.Errorf("nonResourceURL %q must begin with / or be *", u)
			}
		}
		return nil
	}
	if len(r.APIGroups) == 0 || len(r.Resources) == 0 || slices.Contains(r.Resources, "") {
		return fmt.Errorf(`resources need apiGroups and resources ("" in apiGroups is the core group)`)
	}
	return nil
}

// exceedsAnyRole names the right in the rule that no published role may hold,
// or "".
func exceedsAnyRole(r Rule) string {
	if len(r.NonResourceURLs) > 0 {
		return ""
	}
	for _, v := range r.Verbs {
		switch {
		case v == "*":
			return `verb "*" (it contains impersonate, escalate and bind)`
		case v == "impersonate", v == "escalate", v == "bind", v == "approve", v == "sign", v == "attest",
			strings.HasPrefix(v, "impersonate:"), strings.HasPrefix(v, "impersonate-on:"):
			return fmt.Sprintf("verb %q", v)
		}
	}
	if grants(r, "create", "", "serviceaccounts", "token") {
		return "create on serviceaccounts/token"
	}
	return ""
}

// grants reports whether the rule covers verb on group, resource and
// subresource for some object name.
func grants(r Rule, verb, group, resource, subresource string) bool {
	r.ResourceNames = nil
	return ruleCovers(&r, &Attributes{Verb: verb, APIGroup: group, Resource: resource, Subresource: subresource, ResourceRequest: true})
}

// OutlivesRevocation lists, in words, what in the rules can leave access behind
// that deleting the binding does not take away: new workloads, credentials,
// RBAC, webhooks, certificates, or Secrets that were read. Empty means nothing
// known does.
func OutlivesRevocation(rules []Rule) []string {
	var why []string
	for _, t := range lasting {
		for _, r := range rules {
			if i := slices.IndexFunc(t.verbs, func(v string) bool { return grants(r, v, t.group, t.resource, t.subresource) }); i >= 0 {
				name := t.resource
				if t.subresource != "" {
					name += "/" + t.subresource
				}
				why = append(why, t.verbs[i]+" "+name+": "+t.leaves)
				break
			}
		}
	}
	return why
}

type lastingRight struct {
	verbs                        []string
	group, resource, subresource string
	leaves                       string
}

var (
	write = []string{"create", "update", "patch"}
	read  = []string{"get", "list", "watch"}
)

// lasting is what design section 1 calls rights that outlive revocation.
var lasting = []lastingRight{
	{read, "", "secrets", "", "credentials that were read stay known"},
	{write, "", "secrets", "", "a token Secret can be made for any ServiceAccount"},
	{write, "", "pods", "", "workloads go on running"},
	{[]string{"create", "get"}, "", "pods", "exec", "a shell can start processes and read mounted tokens"},
	{[]string{"create", "get"}, "", "pods", "attach", "a shell can start processes and read mounted tokens"},
	{[]string{"update", "patch"}, "", "pods", "ephemeralcontainers", "workloads go on running"},
	{[]string{"create", "get"}, "", "nodes", "proxy", "the kubelet runs commands in any pod"},
	{write, "", "replicationcontrollers", "", "workloads go on running"},
	{write, "apps", "deployments", "", "workloads go on running"},
	{write, "apps", "daemonsets", "", "workloads go on running"},
	{write, "apps", "statefulsets", "", "workloads go on running"},
	{write, "apps", "replicasets", "", "workloads go on running"},
	{write, "batch", "jobs", "", "workloads go on running"},
	{write, "batch", "cronjobs", "", "workloads go on running"},
	{write, "rbac.authorization.k8s.io", "roles", "", "RBAC stays"},
	{write, "rbac.authorization.k8s.io", "rolebindings", "", "RBAC stays"},
	{write, "rbac.authorization.k8s.io", "clusterroles", "", "RBAC stays"},
	{write, "rbac.authorization.k8s.io", "clusterrolebindings", "", "RBAC stays"},
	{write, "admissionregistration.k8s.io", "mutatingwebhookconfigurations", "", "a webhook sees and changes later requests"},
	{write, "admissionregistration.k8s.io", "validatingwebhookconfigurations", "", "a webhook sees later requests"},
	{write, "admissionregistration.k8s.io", "mutatingadmissionpolicies", "", "a policy changes later requests"},
	{write, "certificates.k8s.io", "certificatesigningrequests", "", "a client certificate stays valid"},
	{write, "apiregistration.k8s.io", "apiservices", "", "an API server of the holder's own sees later requests"},
	{write, "apiextensions.k8s.io", "customresourcedefinitions", "", "a conversion webhook sees later requests"},
}
