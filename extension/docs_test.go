package extension

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the tables of docs/extensions.md")

// table is a type's settings as the documentation lists them.
func table(t *Type) string {
	var b strings.Builder
	b.WriteString("| setting | takes | here |\n|---|---|---|\n")
	for i := range t.Settings {
		s := &t.Settings[i]
		takes := map[Kind]string{Text: "text", Bool: "True, False", Seconds: "seconds", Choice: strings.Join(s.Choices, ", "), DNSName: "a name", PEM: "PEM, or that in base64",
			ProxyURL: "an http URL"}[s.Kind]
		if s.Default != "" {
			takes += "; default " + s.Default
		}
		if s.Protected {
			takes += "; protected"
		}
		here := map[Effect]string{Honoured: "honoured", NoEffect: "accepted without effect: " + s.Why, RefusedOn: "refused when True: " + s.Why, Refused: "refused: " + s.Why}[s.Effect]
		if s.Filled {
			takes, here = "text", "filled in by the server"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.Key, takes, here)
	}
	return b.String()
}

// The documentation says of each setting what the code does with it.
func TestTheDocumentedSettings(t *testing.T) {
	const file = "../docs/extensions.md"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for _, typ := range Types() {
		begin, end := "<!-- settings of "+typ.Name+" -->\n", "<!-- end -->\n"
		_, rest, ok := strings.Cut(text, begin)
		have, _, ended := strings.Cut(rest, end)
		if !ok || !ended {
			t.Fatalf("%s has no table of %s", file, typ.Name)
		}
		want := table(&typ)
		if *update {
			text = strings.Replace(text, begin+have+end, begin+want+end, 1)
		} else if have != want {
			t.Errorf("the table of %s is not what the code does; write it anew: go test ./extension -run Documented -update", typ.Name)
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
