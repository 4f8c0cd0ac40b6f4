package netenv

import "testing"

func TestTheCleanEnvironmentIsClean(t *testing.T) {
	r := load(t, "private").check("")
	if r.Profile != Private {
		t.Errorf("profile %s (%s)", r.Profile, r.Chosen)
	}
	for _, f := range r.Findings {
		if f.Verdict == Fail || f.Verdict == Undecided {
			t.Errorf("%s %s %s: %s %v", f.Code, f.Verdict, f.Resources, f.Reason, f.Asks)
		}
	}
	t.Log(r.Line())
}
