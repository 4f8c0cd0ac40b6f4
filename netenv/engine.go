package netenv

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Profile is one of the three scenarios of a secure inferencing environment.
type Profile string

// The profiles: everything public; the workspace public and the rest in a
// virtual network; everything in a virtual network.
const (
	Public          Profile = "public"
	PublicWorkspace Profile = "public-workspace"
	Private         Profile = "private"
)

// Profiles in the order of Rule.Severity.
var Profiles = []Profile{Public, PublicWorkspace, Private}

func (p Profile) index() int {
	if i := slices.Index(Profiles, p); i >= 0 {
		return i
	}
	return len(Profiles) - 1 // the strictest
}

// ParseProfile reads a profile's name.
func ParseProfile(s string) (Profile, error) {
	if slices.Contains(Profiles, Profile(s)) {
		return Profile(s), nil
	}
	return "", fmt.Errorf("no profile %q: use public, public-workspace or private", s)
}

// Rule is one demand on the environment.
type Rule struct {
	// Code never changes its meaning.
	Code  string
	Title string
	// Why it matters: what breaks, or who gets in, when it fails.
	Why string
	// Severity by profile, in the order of Profiles.
	Severity [3]Severity
	// Subject is the type whose absence makes the rule not applicable.
	Subject string
	// Reads are the other types that a verdict may need.
	Reads []string
	// After are rules whose failure this one only repeats.
	After []string
	// Note names a conflict between sources and the stance taken.
	Note  string
	check func(*check)
}

// Skip is a decision to live with a finding.
type Skip struct {
	Code string `json:"code"`
	// Resource, when set, limits the skip to findings that involve this id.
	Resource string `json:"resource,omitempty"`
	Reason   string `json:"reason"`
	// Until, when set, is the day after which the skip no longer counts.
	Until time.Time `json:"until,omitzero"`
}

// Options of a check.
type Options struct {
	// Profile to judge by; empty means to detect it.
	Profile Profile
	Skips   []Skip
	// Baseline holds keys of findings (Finding.Key) that were there before.
	Baseline map[string]bool
	// Deployer is the object id of whoever makes the resources (RB-02); empty
	// when nobody said.
	Deployer string
	// Now, for the expiry of skips and the report's time.
	Now time.Time
}

// env is what the rules share: the graph, the profile, and which workspaces use
// which clusters.
type env struct {
	g       *Graph
	profile Profile
	pairs   []pair
	byEnd   map[*Resource][]pair // by cluster and by workspace
	// deployer as in Options.
	deployer string
	vnets    map[*Resource]*homes   // by cluster
	users    map[string][]*Resource // id of a workspace or what it uses → clusters
}

// pair is a workspace that uses a cluster.
type pair struct {
	cluster, workspace *Resource
	how                Step
}

// Check judges the facts. It never fails: what it cannot judge is unknown.
func Check(g *Graph, o Options) *Report {
	e := &env{g: g, deployer: o.Deployer, vnets: map[*Resource]*homes{}}
	e.pairs = findPairs(g)
	r := &Report{Profile: o.Profile, Chosen: "demanded", Time: o.Now, Problems: g.Problems, graph: g}
	if o.Profile == "" {
		r.Profile, r.Chosen = e.detect()
	}
	e.profile = r.Profile
	for _, rule := range Rules() {
		if rule.Severity[e.profile.index()] == Off {
			continue
		}
		c := &check{env: e, rule: rule}
		rule.check(c)
		if len(c.out) == 0 {
			c.nothing()
		}
		r.Findings = append(r.Findings, c.out...)
	}
	hideFollowers(r.Findings)
	for i := range r.Findings {
		r.Findings[i].skip(o)
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(verdictRank(a.Verdict), verdictRank(b.Verdict)), cmp.Compare(severityRank(a.Severity), severityRank(b.Severity)))
	})
	r.Commands = r.commands()
	return r
}

func verdictRank(v Verdict) int {
	return slices.Index([]Verdict{Fail, Undecided, Pass, NotApplicable}, v)
}
func severityRank(s Severity) int { return slices.Index([]Severity{Error, Warning, Info}, s) }

// nothing ends a rule that found no subject: absence must be proven, too.
func (c *check) nothing() {
	if len(c.g.list(c.rule.Subject)) == 0 && !c.g.completeThroughout(c.rule.Subject) {
		c.about().unknown([]Ask{{Type: c.rule.Subject}}, "the input shows no %s and does not prove that there is none", noun(c.rule.Subject))
		return
	}
	c.about().none("no %s that this is about", noun(c.rule.Subject))
}

// hideFollowers marks failures that only repeat a failure of a rule in After on
// a common resource.
func hideFollowers(fs []Finding) {
	after := map[string][]string{}
	for _, r := range Rules() {
		after[r.Code] = r.After
	}
	failed := map[string]map[string]bool{} // code → resources
	for i := range fs {
		f := &fs[i]
		if f.Verdict != Fail {
			continue
		}
		if failed[f.Code] == nil {
			failed[f.Code] = map[string]bool{}
		}
		for _, r := range f.core() {
			failed[f.Code][foldID(r)] = true
		}
	}
	for i := range fs {
		f := &fs[i]
		if f.Verdict != Fail && f.Verdict != Undecided {
			continue
		}
		for _, cause := range after[f.Code] {
			if slices.ContainsFunc(f.touches(), func(id string) bool { return failed[cause][foldID(id)] }) {
				f.Follows = cause
				break
			}
		}
	}
}

// core are the resources that a failure is really about: not the cluster and
// workspace that it concerns, unless there is nothing else.
func (f *Finding) core() []string {
	out := slices.DeleteFunc(slices.Clone(f.Resources), func(id string) bool {
		t := idType(id)
		return sameType(t, typeCluster) || sameType(t, typeWorkspace)
	})
	if len(out) == 0 {
		return f.Resources
	}
	return out
}

// touches are the resources of a finding and of its evidence.
func (f *Finding) touches() []string {
	all := slices.Clone(f.Resources)
	for _, s := range f.Evidence {
		if s.Resource != "" {
			all = append(all, s.Resource)
		}
	}
	return all
}

func (f *Finding) skip(o Options) {
	if f.Verdict != Fail && f.Verdict != Undecided {
		return
	}
	for _, s := range o.Skips {
		if s.Code != f.Code || s.Reason == "" || !s.Until.IsZero() && o.Now.After(s.Until) {
			continue
		}
		if s.Resource == "" || slices.ContainsFunc(f.Resources, func(id string) bool { return sameID(id, s.Resource) }) {
			f.Skipped = s.Reason
			return
		}
	}
	if o.Baseline[f.Key()] {
		f.Skipped = "in the baseline"
	}
}

// findPairs reads who uses which cluster from computes and role bindings. With
// neither, one workspace and one cluster belong together.
func findPairs(g *Graph) []pair {
	var out []pair
	seen := map[[2]*Resource]bool{}
	add := func(cluster, workspace *Resource, how Step) {
		if cluster != nil && workspace != nil && !seen[[2]*Resource{cluster, workspace}] {
			seen[[2]*Resource{cluster, workspace}] = true
			out = append(out, pair{cluster, workspace, how})
		}
	}
	for _, c := range g.list(typeCompute) {
		v := c.Get("resourceId")
		add(g.Resource(v.Text()), g.Resource(idParent(c.ID)), Step{Text: "compute " + c.Name() + " attaches the cluster", Resource: c.ID, Source: v.Source()})
	}
	for _, b := range g.list(typeBinding) {
		v := b.Get("sourceResourceId")
		add(g.Resource(idParent(b.ID)), g.Resource(v.Text()), Step{Text: "role binding " + b.Name() + " names the workspace", Resource: b.ID, Source: v.Source()})
	}
	cs, ws := g.list(typeCluster), g.list(typeWorkspace)
	if len(out) == 0 && len(cs) == 1 && len(ws) == 1 {
		add(cs[0], ws[0], Step{Text: "the only cluster and the only workspace in the input"})
	}
	return out
}

// detect chooses the strictest profile that the facts show an intent of.
func (e *env) detect() (Profile, string) {
	for _, w := range e.g.list(typeWorkspace) {
		if w.Get("publicNetworkAccess").Is("Disabled") {
			return Private, "detected: " + w.Label() + " has public access off"
		}
		for _, p := range e.g.endpointsOf[foldID(w.ID)] {
			return Private, "detected: " + w.Label() + " has " + p.Label()
		}
		if len(w.Get("privateEndpointConnections").Items()) > 0 {
			return Private, "detected: " + w.Label() + " has private endpoint connections"
		}
	}
	for _, c := range e.g.list(typeCluster) {
		if b, _ := c.Get("apiServerAccessProfile", "enablePrivateCluster").Truth(false); b {
			return PublicWorkspace, "detected: " + c.Label() + " is private"
		}
	}
	for _, t := range []string{typeStorage, typeVault, typeRegistry} {
		for _, r := range e.g.list(t) {
			if r.Get("publicNetworkAccess").Is("Disabled") || r.Get("networkAcls", "defaultAction").Is("Deny") || len(e.g.endpointsOf[foldID(r.ID)]) > 0 {
				return PublicWorkspace, "detected: " + r.Label() + " is closed or has a private endpoint"
			}
		}
	}
	return Public, "detected: nothing is closed"
}

// Rules in the order of their codes' groups. The slice is the caller's own.
func Rules() []*Rule {
	var out []*Rule
	for _, group := range [][]*Rule{rulesVN(), rulesAK(), rulesWS(), rulesST(), rulesKV(), rulesCR(), rulesPE(), rulesDN(), rulesRB(), rulesTA(), rulesEX(), rulesEG()} {
		out = append(out, group...)
	}
	return out
}

// RuleByCode finds a rule; nil when there is none.
func RuleByCode(code string) *Rule {
	for _, r := range Rules() {
		if strings.EqualFold(r.Code, code) {
			return r
		}
	}
	return nil
}

// levels are severities for public, public-workspace and private.
func levels(public, publicWorkspace, private Severity) [3]Severity {
	return [3]Severity{public, publicWorkspace, private}
}

// always is one severity for every profile.
func always(s Severity) [3]Severity { return levels(s, s, s) }
