package netenv

import (
	"flag"
	"os"
	"regexp"
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
