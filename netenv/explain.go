package netenv

import (
	"fmt"
	"strings"
)

// Explain says what a rule asks, why, how grave it is in each profile, and which
// commands answer it.
func (r *Rule) Explain() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s\n\n  %s\n", r.Code, r.Title, r.Why)
	if r.Note != "" {
		fmt.Fprintf(&b, "  %s\n", r.Note)
	}
	b.WriteByte('\n')
	for i, p := range Profiles {
		fmt.Fprintf(&b, "  %-17s %s\n", p, cond(r.Severity[i] == Off, "not asked", string(r.Severity[i])))
	}
	b.WriteString("\n  answered by\n")
	for _, line := range r.Answers() {
		fmt.Fprintf(&b, "    %s\n", line)
	}
	if len(r.After) > 0 {
		fmt.Fprintf(&b, "\n  hidden behind %s\n", strings.Join(r.After, ", "))
	}
	b.WriteByte('\n')
	return b.String()
}

// Answers are the commands whose output a rule is judged by, each once.
func (r *Rule) Answers() []string {
	var out []string
	for _, t := range append([]string{r.Subject}, r.Reads...) {
		line := listings[fold(t)]
		if sameType(t, typeProbe) {
			line = "a live probe from inside the cluster"
		}
		if line != "" && !contains(out, line) {
			out = append(out, line)
		}
	}
	return out
}
