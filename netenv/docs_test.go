package netenv

import (
	"encoding/json"
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/env-rules.md anew")

func TestRulesDocument(t *testing.T) {
	const path = "../docs/env-rules.md"
	want := RulesDocument()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/env-rules.md differs from the rules: go test ./netenv -run TestRulesDocument -update")
	}
}

func TestEveryDemandNamesRulesThatExist(t *testing.T) {
	code := regexp.MustCompile(`[A-Z]{2}-\d\d`)
	for _, d := range demands {
		for _, c := range code.FindAllString(d[2], -1) {
			if RuleByCode(c) == nil {
				t.Errorf("%s: no rule %s", d[1], c)
			}
		}
	}
	if n := len(Rules()); n != 64 {
		t.Errorf("%d rules, want the 61 of the list and AK-12, AK-13, WS-10", n)
	}
	seen := map[string]bool{}
	for _, r := range Rules() {
		if seen[r.Code] || r.Title == "" || r.Why == "" || r.Subject == "" {
			t.Errorf("rule %q is double or incomplete", r.Code)
		}
		seen[r.Code] = true
	}
}

// What the document says of each source is what the source answers: the private
// environment in each form, rule by rule.
func TestTheDocumentSaysWhatEachSourceAnswers(t *testing.T) {
	base := load(t, "private")
	want := verdicts(base.check(Private))
	noProbe := load(t, "private")
	noProbe.forget("probe.json")
	graph := map[string][]byte{}
	for file, v := range base.files {
		rows, _ := v.([]any)
		var kept []any
		for _, r := range rows {
			if graphTable[fold(idType(r.(map[string]any)["id"].(string)))] != "" {
				kept = append(kept, nest(r.(map[string]any)))
			}
		}
		data, err := json.Marshal(map[string]any{"count": len(kept), "total_records": len(kept), "data": append([]any{}, kept...)})
		if err != nil {
			t.Fatal(err)
		}
		graph[file] = data
	}
	for _, source := range []struct {
		name  string
		graph *Graph
		says  func(*Rule) string
	}{
		{"exports", noProbe.graph(), func(r *Rule) string { return fromExports.of(r.Code) }},
		{"Resource Graph", readAll(graph), graphAnswer},
		{"template", readAll(templateOf(t, base)), func(r *Rule) string { return fromTemplate.of(r.Code) }},
		{"plan", readAll(map[string][]byte{"plan.json": terraformOf(t, base.graph(), true)}), func(r *Rule) string { return fromTerraform.of(r.Code) }},
		{"state", readAll(map[string][]byte{"state.json": terraformOf(t, base.graph(), false)}), func(r *Rule) string { return fromState.of(r.Code) }},
	} {
		t.Run(source.name, func(t *testing.T) {
			report := Check(source.graph, Options{Profile: Private, Now: testNow})
			got := verdicts(report)
			for _, r := range Rules() {
				says, v := source.says(r), got[r.Code]
				judged := v == want[r.Code]
				switch {
				case says == "judged" && !judged, strings.HasPrefix(says, "no:") && v != Undecided && v != NotApplicable, strings.HasPrefix(says, "unknown") && v != Undecided && v != NotApplicable,
					v == Fail, want[r.Code] == Fail:
					t.Errorf("%s: the document says %q, the verdict is %s, in full %s: %s", r.Code, says, v, want[r.Code], reasons(report, r.Code))
				}
			}
		})
	}
}
