package netenv

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Verdict of a rule on one subject.
type Verdict string

// The verdicts. Unknown is an answer: the input does not prove either side.
const (
	Pass          Verdict = "pass"
	Fail          Verdict = "fail"
	Undecided     Verdict = "unknown"
	NotApplicable Verdict = "not applicable"
)

// Severity of a rule in a profile. Off: the profile does not ask it.
type Severity string

// Severities, the gravest first.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Info    Severity = "info"
	Off     Severity = ""
)

// Step is one edge or fact on the path that led to a verdict.
type Step struct {
	Text     string `json:"text"`
	Resource string `json:"resource,omitempty"`
	Source
	// Broken marks the step at which the path ends.
	Broken bool `json:"broken,omitempty"`
}

// Fix is how to mend a failure, once for each tool. Both may hold several lines.
type Fix struct {
	Az        string `json:"az,omitempty"`
	Terraform string `json:"terraform,omitempty"`
}

// Ask names facts that would answer an unknown: every resource of a type in a
// scope.
type Ask struct {
	Type  string `json:"type"`
	Scope string `json:"scope,omitempty"`
}

// Finding is a rule's verdict on one subject.
type Finding struct {
	Code      string   `json:"code"`
	Title     string   `json:"title"`
	Severity  Severity `json:"severity"`
	Verdict   Verdict  `json:"verdict"`
	Resources []string `json:"resources"`
	Evidence  []Step   `json:"evidence"`
	Reason    string   `json:"reason"`
	Why       string   `json:"why,omitempty"`
	Fix       Fix      `json:"fix,omitzero"`
	// Asks are what would answer an unknown verdict.
	Asks []Ask `json:"asks,omitempty"`
	// Follows is the code of the failure that this one only repeats; such a
	// finding is hidden behind its cause and not counted.
	Follows string `json:"follows,omitempty"`
	// Skipped is the reason somebody gave for living with it.
	Skipped string `json:"skipped,omitempty"`
}

// Key identifies a finding across runs, for baselines and skips.
func (f *Finding) Key() string {
	rs := make([]string, len(f.Resources))
	for i, r := range f.Resources {
		rs[i] = foldID(r)
	}
	return f.Code + " " + strings.Join(rs, " ")
}

// check is what a rule's function works with: the facts, and where its findings
// go.
type check struct {
	*env
	rule *Rule
	out  []Finding
}

// draft is a finding while its evidence is gathered. Exactly one of pass, fail,
// unknown and none ends it.
type draft struct {
	c *check
	f Finding
}

// about begins a finding. nil resources are left out.
func (c *check) about(rs ...*Resource) *draft {
	d := &draft{c: c, f: Finding{Code: c.rule.Code, Title: c.rule.Title, Why: c.rule.Why, Severity: c.rule.Severity[c.profile.index()]}}
	for _, r := range rs {
		if r != nil {
			d.f.Resources = append(d.f.Resources, r.ID)
		}
	}
	return d
}

// also names a resource that is known by id only.
func (d *draft) also(id string) *draft {
	d.f.Resources = append(d.f.Resources, id)
	return d
}

// grave overrides the rule's severity for this subject, never above it.
func (d *draft) grave(s Severity) *draft {
	if d.f.Severity == Error || d.f.Severity == Warning && s == Info {
		d.f.Severity = s
	}
	return d
}

// see adds a fact to the path.
func (d *draft) see(text string, v Value) *draft {
	d.f.Evidence = append(d.f.Evidence, Step{Text: text, Source: v.Source()})
	return d
}

// found adds a resource to the path.
func (d *draft) found(r *Resource) *draft {
	if r != nil {
		d.f.Evidence = append(d.f.Evidence, Step{Text: r.Label(), Resource: r.ID, Source: r.self().Source()})
	}
	return d
}

func (d *draft) follow(steps []Step) *draft {
	d.f.Evidence = append(d.f.Evidence, steps...)
	return d
}

// ends the path with the step at which it breaks.
func (d *draft) ends(text string, v Value) *draft {
	d.f.Evidence = append(d.f.Evidence, Step{Text: text, Source: v.Source(), Broken: true})
	return d
}

func (d *draft) fix(az, terraform string) *draft {
	d.f.Fix = Fix{Az: az, Terraform: terraform}
	return d
}

func (d *draft) end(v Verdict, format string, args []any) {
	d.f.Verdict, d.f.Reason = v, fmt.Sprintf(format, args...)
	if n := len(d.f.Evidence); v == Fail && n > 0 && !slices.ContainsFunc(d.f.Evidence, func(s Step) bool { return s.Broken }) {
		d.f.Evidence[n-1].Broken = true // the path ends where its last step is
	}
	if v != Fail {
		d.f.Fix = Fix{}
	}
	if v != Undecided {
		d.f.Asks = nil
	}
	if d.f.Resources == nil { // lists, also where they are empty
		d.f.Resources = []string{}
	}
	if d.f.Evidence == nil {
		d.f.Evidence = []Step{}
	}
	d.c.out = append(d.c.out, d.f)
}

func (d *draft) pass(format string, args ...any) { d.end(Pass, format, args) }
func (d *draft) fail(format string, args ...any) { d.end(Fail, format, args) }
func (d *draft) none(format string, args ...any) { d.end(NotApplicable, format, args) }
func (d *draft) unknown(asks []Ask, format string, args ...any) {
	d.f.Asks = asks
	d.end(Undecided, format, args)
}

// unclear ends a finding on a value that the source cannot tell.
func (d *draft) unclear(v Value, what string, r *Resource) {
	d.see(what+" is not known here", v)
	var asks []Ask
	if r != nil {
		asks = []Ask{{Type: r.Type, Scope: r.ID}}
	}
	d.unknown(asks, "%s is not known from this input (set after apply, an expression, or not exported)", what)
}

// Report is the outcome of one check.
type Report struct {
	Profile Profile `json:"profile"`
	// Chosen says why this profile: demanded, or the facts it was detected by.
	Chosen   string    `json:"chosen"`
	Time     time.Time `json:"time,omitzero"`
	Findings []Finding `json:"findings"`
	Problems []Problem `json:"problems,omitempty"`
	// Commands answer the unknown verdicts, the most useful first.
	Commands []Command `json:"commands,omitempty"`

	graph *Graph
}

// Command is a read-only command that would answer unknown verdicts.
type Command struct {
	Line    string   `json:"line"`
	Answers []string `json:"answers"` // codes, sorted, each once
}

// Count of the findings that are neither hidden, skipped nor switched off.
func (r *Report) Count(v Verdict) int {
	n := 0
	for i := range r.Findings {
		if f := &r.Findings[i]; f.Verdict == v && f.Follows == "" && f.Skipped == "" {
			n++
		}
	}
	return n
}

// Proven says whether nothing above information failed, nothing of error severity
// is unknown, and everything that was given could be read; allowUnknown lets the
// latter two be.
func (r *Report) Proven(allowUnknown bool) bool {
	if len(r.Problems) > 0 && !allowUnknown {
		return false
	}
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.Skipped != "" || f.Follows != "" {
			continue
		}
		if f.Verdict == Fail && f.Severity != Info || f.Verdict == Undecided && f.Severity == Error && !allowUnknown {
			return false
		}
	}
	return true
}

// Line is the verdict in one line.
func (r *Report) Line() string {
	unknown := r.Count(Undecided)
	s := fmt.Sprintf("%s: %d pass, %d fail, %d unknown", r.Profile, r.Count(Pass), r.Count(Fail), unknown)
	if n := r.answerable(); n > 0 {
		s += fmt.Sprintf(" (%d answered by %s)", n, cond(len(r.Commands) == 1, "this command", fmt.Sprintf("these %d commands", len(r.Commands))))
	}
	if n := len(r.Problems); n > 0 {
		s += fmt.Sprintf(", %d not read", n)
	}
	if r.Proven(false) {
		return s + ": proven"
	}
	return s + ": not proven"
}

func (r *Report) answerable() int {
	n := 0
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.Verdict == Undecided && f.Follows == "" && f.Skipped == "" && slices.ContainsFunc(f.Asks, func(a Ask) bool { return commandFor(a) != "" }) {
			n++
		}
	}
	return n
}

func (r *Report) commands() []Command {
	by := map[string]map[string]bool{}
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.Verdict != Undecided || f.Follows != "" || f.Skipped != "" {
			continue
		}
		for _, a := range f.Asks {
			if line := commandFor(a); line != "" {
				if by[line] == nil {
					by[line] = map[string]bool{}
				}
				by[line][f.Code] = true
			}
		}
	}
	out := make([]Command, 0, len(by))
	for line, codes := range by {
		c := Command{Line: line}
		for code := range codes {
			c.Answers = append(c.Answers, code)
		}
		slices.Sort(c.Answers)
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Command) int {
		return cmp.Or(cmp.Compare(len(b.Answers), len(a.Answers)), cmp.Compare(a.Line, b.Line))
	})
	return out
}
