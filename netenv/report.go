package netenv

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// Formats of a report.
var Formats = []string{"table", "json", "sarif", "junit", "markdown", "html"}

// Write a report in one of Formats.
func (r *Report) Write(w io.Writer, format string) error {
	switch format {
	case "table":
		return r.writeTable(w)
	case "json":
		return r.writeJSON(w)
	case "sarif":
		return r.writeSARIF(w)
	case "junit":
		return r.writeJUnit(w)
	case "markdown":
		return r.writeMarkdown(w)
	case "html":
		return r.writeHTML(w)
	}
	return fmt.Errorf("no format %q: use %s", format, strings.Join(Formats, ", "))
}

func (r *Report) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(struct {
		*Report
		Line string `json:"line"`
		OK   bool   `json:"proven"`
	}{r, r.Line(), r.Proven(false)})
}

// shown are the findings that a person reads: failures and unknowns that are
// neither hidden nor skipped.
func (r *Report) shown(v Verdict) []*Finding {
	var out []*Finding
	for i := range r.Findings {
		if f := &r.Findings[i]; f.Verdict == v && f.Follows == "" && f.Skipped == "" {
			out = append(out, f)
		}
	}
	return out
}

// hidden counts the findings behind a cause.
func (r *Report) hidden(cause string) (codes []string) {
	for i := range r.Findings {
		if f := &r.Findings[i]; f.Follows == cause && !slices.Contains(codes, f.Code) {
			codes = append(codes, f.Code)
		}
	}
	return codes
}

// Path is the evidence in one line, the broken step in brackets.
func (f *Finding) Path() string {
	var steps []string
	for _, s := range f.Evidence {
		steps = append(steps, cond(s.Broken, "["+s.Text+"]", s.Text))
	}
	return strings.Join(steps, " → ")
}

func (r *Report) writeTable(w io.Writer) error {
	var b strings.Builder
	for _, f := range r.shown(Fail) {
		fmt.Fprintf(&b, "%s  %s  %s\n    %s\n", f.Code, strings.ToUpper(string(f.Severity)), f.Title, f.Reason)
		if p := f.Path(); p != "" {
			fmt.Fprintf(&b, "    path   %s\n", p)
		}
		if s := f.where(); s != "" {
			fmt.Fprintf(&b, "    seen   %s\n", s)
		}
		for i, line := range strings.Split(f.Fix.Az, "\n") {
			fmt.Fprintf(&b, "    %s    %s\n", cond(i == 0, "fix", "   "), line)
		}
		if codes := r.hidden(f.Code); len(codes) > 0 {
			fmt.Fprintf(&b, "    behind %s\n", strings.Join(codes, " "))
		}
		b.WriteByte('\n')
	}
	if list := r.shown(Undecided); len(list) > 0 {
		t := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
		for _, same := range alike(list) {
			f := same[0]
			fmt.Fprintf(t, "%s\tunknown\t%s\t%s\t%s\n", f.Code, f.Severity, subject(f)+cond(len(same) > 1, fmt.Sprintf(" and %d more", len(same)-1), ""), f.Reason)
		}
		if err := t.Flush(); err != nil {
			return err
		}
		b.WriteByte('\n')
	}
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "not read: %s %s: %s\n", p.File, p.Place, p.Reason)
	}
	if n := r.skipped(); n > 0 {
		fmt.Fprintf(&b, "%d skipped, with reasons\n", n)
	}
	fmt.Fprintf(&b, "%s\n", r.Line())
	for _, c := range r.Commands {
		fmt.Fprintf(&b, "  %s\n      # %s\n", c.Line, strings.Join(c.Answers, " "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// alike groups findings of one rule with one reason, in their order.
func alike(list []*Finding) [][]*Finding {
	var out [][]*Finding
	at := map[string]int{}
	for _, f := range list {
		k := f.Code + " " + f.Reason
		if _, there := at[k]; !there {
			at[k] = len(out)
			out = append(out, nil)
		}
		out[at[k]] = append(out[at[k]], f)
	}
	return out
}

func (r *Report) skipped() int {
	n := 0
	for i := range r.Findings {
		if r.Findings[i].Skipped != "" {
			n++
		}
	}
	return n
}

// subject names what a finding is about, shortly.
func subject(f *Finding) string {
	if len(f.Resources) == 0 {
		return "-"
	}
	return label(f.Resources[len(f.Resources)-1])
}

// where the decisive fact was read.
func (f *Finding) where() string {
	var s Step
	for _, e := range f.Evidence {
		if e.File != "" && (s.File == "" || e.Broken) {
			s = e
		}
	}
	if s.File == "" {
		return ""
	}
	out := s.File + "#" + s.Pointer
	if !s.Time.IsZero() {
		out += " of " + s.Time.UTC().Format("2006-01-02 15:04")
	}
	return out
}

// sarif level of a finding.
func (f *Finding) level() string {
	switch {
	case f.Severity == Error && f.Verdict == Fail:
		return "error"
	case f.Severity == Info:
		return "note"
	}
	return "warning"
}

func (r *Report) writeSARIF(w io.Writer) error {
	type o = map[string]any
	var rules, results []o
	for _, rule := range Rules() {
		rules = append(rules, o{"id": rule.Code, "name": tfName(rule.Title), "shortDescription": o{"text": rule.Title}, "fullDescription": o{"text": rule.Why},
			"help": o{"text": rule.Why + cond(rule.Note != "", "\n"+rule.Note, "")}})
	}
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.Verdict == NotApplicable {
			continue
		}
		kind := map[Verdict]string{Pass: "pass", Fail: "fail", Undecided: "open"}[f.Verdict]
		level := cond(f.Verdict == Fail, f.level(), "none")
		res := o{"ruleId": f.Code, "kind": kind, "level": level, "message": o{"text": f.Reason + cond(f.Path() == "", "", "\n"+f.Path())},
			"partialFingerprints": o{"finding/v1": f.Key()}}
		var logical []o
		for _, id := range f.Resources {
			logical = append(logical, o{"fullyQualifiedName": id, "name": idName(id), "kind": "resource"})
		}
		loc := o{}
		if logical != nil {
			loc["logicalLocations"] = logical
		}
		for _, s := range f.Evidence {
			if s.File != "" && (s.Broken || loc["physicalLocation"] == nil) {
				loc["physicalLocation"] = o{"artifactLocation": o{"uri": uri(s.File)}}
				loc["message"] = o{"text": s.Pointer}
			}
		}
		if len(loc) > 0 {
			res["locations"] = []o{loc}
		}
		if why := cond(f.Skipped != "", f.Skipped, cond(f.Follows != "", "follows "+f.Follows, "")); why != "" {
			res["suppressions"] = []o{{"kind": "external", "justification": why}}
		}
		results = append(results, res)
	}
	if results == nil {
		results = []o{}
	}
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(o{"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": []o{{
		"tool":       o{"driver": o{"name": "sallyport env", "informationUri": "https://github.com/sallyport/sallyport", "rules": rules}},
		"results":    results,
		"properties": o{"profile": r.Profile, "line": r.Line()},
	}}})
}

// uri of a file for SARIF: slashes, and what a URI does not take escaped.
func uri(file string) string {
	if strings.HasPrefix(file, "https://") {
		return file // a list of a server
	}
	scheme := cond(strings.HasPrefix(file, "/"), "file://", "") // else relative to where it was checked
	return scheme + strings.NewReplacer("%", "%25", " ", "%20", "\\", "/", "#", "%23", "?", "%3F").Replace(file)
}

type junitSuite struct {
	XMLName  xml.Name    `xml:"testsuite"`
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Errors   int         `xml:"errors,attr"`
	Skipped  int         `xml:"skipped,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Class   string     `xml:"classname,attr"`
	Name    string     `xml:"name,attr"`
	Failure *junitText `xml:"failure"`
	Error   *junitText `xml:"error"`
	Skipped *junitText `xml:"skipped"`
}

type junitText struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr,omitempty"`
	Text    string `xml:",chardata"`
}

// writeJUnit: a failure is a failure, an unknown of error severity an error, the
// rest of what is not a pass is skipped.
func (r *Report) writeJUnit(w io.Writer) error {
	s := junitSuite{Name: "sallyport env " + string(r.Profile)}
	for i := range r.Findings {
		f := &r.Findings[i]
		c := junitCase{Class: f.Code, Name: f.Title + ": " + subject(f)}
		text := &junitText{Message: f.Reason, Type: string(f.Severity), Text: f.Path() + "\n" + f.Fix.Az}
		switch {
		case f.Verdict == Pass:
		case f.Verdict == Fail && f.Follows == "" && f.Skipped == "" && f.Severity != Info:
			c.Failure = text
			s.Failures++
		case f.Verdict == Undecided && f.Follows == "" && f.Skipped == "" && f.Severity == Error:
			c.Error = text
			s.Errors++
		default:
			c.Skipped = &junitText{Message: string(f.Verdict) + ": " + f.Reason}
			s.Skipped++
		}
		s.Cases = append(s.Cases, c)
	}
	s.Tests = len(s.Cases)
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", " ")
	if err := e.Encode(s); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// cell of a Markdown table.
func cell(s string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "<", "&lt;", "`", "'").Replace(s)
}

func (r *Report) writeMarkdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Environment check\n\n**%s**\n\nProfile %s\n\n", cell(r.Line()), cell(r.Chosen))
	for _, v := range []Verdict{Fail, Undecided} {
		list := r.shown(v)
		if len(list) == 0 {
			continue
		}
		fmt.Fprintf(&b, "## %s\n\n| Code | Severity | About | Reason | Path |\n|---|---|---|---|---|\n", cond(v == Fail, "Failed", "Unknown"))
		for _, f := range list {
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", f.Code, f.Severity, cell(subject(f)), cell(f.Reason), cell(f.Path()))
		}
		b.WriteByte('\n')
	}
	for _, f := range r.shown(Fail) {
		fmt.Fprintf(&b, "### %s %s\n\n%s\n\n```sh\n%s\n```\n\n```hcl\n%s\n```\n\n", f.Code, cell(f.Title), cell(f.Why), fence(f.Fix.Az), fence(f.Fix.Terraform))
	}
	if len(r.Commands) > 0 {
		b.WriteString("## Commands that answer the unknowns\n\n```sh\n")
		for _, c := range r.Commands {
			fmt.Fprintf(&b, "%s  # %s\n", fence(c.Line), strings.Join(c.Answers, " "))
		}
		b.WriteString("```\n\n")
	}
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "- not read: %s %s: %s\n", cell(p.File), cell(p.Place), cell(p.Reason))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// fence keeps a text from ending its code block.
func fence(s string) string { return strings.ReplaceAll(s, "```", "'''") }
