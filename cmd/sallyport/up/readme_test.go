package up

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
)

// What the README shows is what the demo prints: every line of its story stands
// in the demo's output, in order, where "…" stands for anything and figures may
// differ.
func TestTheReadmeShowsTheRealStory(t *testing.T) {
	binary := devclustertest.Binary(t)
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "holds this page to it:\n\n```\n")
	told, _, found := strings.Cut(rest, "\n```\n")
	if !found {
		t.Fatal("the README has no story")
	}

	var out bytes.Buffer
	err = Demo(t.Context(), Options{Dir: filepath.Join(t.TempDir(), "demo"), Source: root, Devcluster: binary, Nodes: 0, Out: &out})
	if err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	printed := strings.Split(out.String(), "\n")
	at := 0
	for line := range strings.Lines(told) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		want := pattern(line)
		for ; at < len(printed) && !want.MatchString(printed[at]); at++ {
		}
		if at == len(printed) {
			t.Fatalf("the demo does not print, at its place:\n%s\n\nit printed:\n%s", line, &out)
		}
	}
}

var figure = regexp.MustCompile(`\d+(\\\.\d+)? (ms|s)\b`)

func pattern(line string) *regexp.Regexp {
	quoted := strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*")
	return regexp.MustCompile(figure.ReplaceAllString(quoted, `\d+(\.\d+)? (ms|s)`) + "$")
}

func TestTheReadmesPatternsCanFail(t *testing.T) {
	for line, other := range map[string]string{
		"ok open (272 ms)":                          "ok closed (272 ms)",
		"the watch was cut 33 ms after (216 ms)":    "the watch was cut 33 minutes after (216 ms)",
		`source "…/vision" cannot list "ingresses"`: `source "/x/vision" can list "ingresses"`,
	} {
		if pattern(line).MatchString(other) {
			t.Errorf("%q matches %q", line, other)
		}
	}
	if !pattern("the watch was cut 33 ms after … (216 ms)").MatchString("    the watch was cut 1.2 s after the command (9 ms)") {
		t.Error("figures must be free")
	}
}
