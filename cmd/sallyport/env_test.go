package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const facts = "../../netenv/testdata/private"

func env(t *testing.T, args ...string) (code int, out, problem string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), append([]string{"env"}, args...), streams{in: strings.NewReader(""), out: &stdout, err: &stderr})
	return code, stdout.String(), stderr.String()
}

func TestEnvCheckTellsByItsExitCode(t *testing.T) {
	if code, out, problem := env(t, "check", facts); code != exitOK || !strings.Contains(out, ": proven") {
		t.Errorf("clean: %d\n%s%s", code, out, problem)
	}
	code, out, _ := env(t, "check", facts+"/clusters.json", "-o", "json", "--profile", "private")
	var r struct {
		Profile  string
		Findings []struct{ Code, Severity, Verdict string }
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	if code != exitError || r.Profile != "private" || len(r.Findings) == 0 {
		t.Errorf("one file: %d %+v", code, r)
	}
	for _, f := range r.Findings {
		if f.Verdict == "fail" {
			t.Errorf("%s fails for what is not in the input", f.Code)
		}
	}
	if code, _, _ := env(t, "check", facts+"/clusters.json", "--allow-unknown"); code != exitOK {
		t.Errorf("unknown allowed: %d", code)
	}
	for _, wrong := range [][]string{{"check"}, {"check", facts, "-o", "pdf"}, {"check", facts, "--profile", "secret"}, {"explain", "XX-01"}, {"size", "--nodes", "0"}} {
		if code, _, problem := env(t, wrong...); code != exitUsage || problem == "" {
			t.Errorf("%v: %d %s", wrong, code, problem)
		}
	}
	if code, _, _ := env(t, "check", filepath.Join(t.TempDir(), "absent")); code == exitOK {
		t.Error("an absent folder is proven")
	}
}

func TestEnvPlanWritesWhatTheIntentSays(t *testing.T) {
	file := filepath.Join(t.TempDir(), "intent.yaml")
	if err := os.WriteFile(file, []byte("name: fraud\nregion: westeurope\nprofile: private\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, problem := env(t, "plan", file); code != exitOK || !strings.Contains(out, `resource "azurerm_private_endpoint" "workspace"`) {
		t.Errorf("%d %s", code, problem)
	}
	if err := os.WriteFile(file, []byte("name: fraud\nregion: westeurope\ncolour: red\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, problem := env(t, "plan", file); code != exitUsage || !strings.Contains(problem, "colour") {
		t.Errorf("an unknown key: %d %s", code, problem)
	}
}

func TestEnvCollectPrintsReadOnlyCommands(t *testing.T) {
	code, out, _ := env(t, "collect", "--subscription", "6f2d1c3a-0b57-4e0e-9d2b-5a1f0c7e8b11", "--folder", filepath.Join(t.TempDir(), "facts"))
	if code != exitOK {
		t.Fatalf("exit %d", code)
	}
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		if !strings.HasPrefix(line, "az ") || !strings.Contains(line, " list ") && !strings.Contains(line, "az rest --method get ") {
			t.Errorf("not a read-only command: %s", line)
		}
	}
}
