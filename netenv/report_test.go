package netenv

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"strings"
	"testing"
)

// broken is the private environment with one peering gone and hostile names.
func broken(t *testing.T) *Report {
	w := load(t, "private")
	w.set("vnets.json net-hub virtualNetworkPeerings", []any{})
	w.replace("fraudlake-blob", `fraud<script>alert(1)`)
	w.forget("roles.json")
	return w.check(Private)
}

func TestReportsInEveryFormat(t *testing.T) {
	r := broken(t)
	for _, format := range Formats {
		t.Run(format, func(t *testing.T) {
			var b bytes.Buffer
			if err := r.Write(&b, format); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(b.String(), "VN-05") {
				t.Error("the failure is not named")
			}
			switch format {
			case "json", "sarif":
				var v map[string]any
				if err := json.Unmarshal(b.Bytes(), &v); err != nil {
					t.Fatal(err)
				}
				if format == "json" && (v["profile"] != "private" || v["findings"] == nil) {
					t.Errorf("no profile or findings: %v", v["profile"])
				}
			case "junit":
				for d := xml.NewDecoder(&b); ; {
					if _, err := d.Token(); err == io.EOF {
						break
					} else if err != nil {
						t.Fatal(err)
					}
				}
			case "html":
				if strings.Contains(b.String(), "<script>alert") {
					t.Error("a name of the input became markup")
				}
				for _, outside := range []string{"src=\"http", "href=\"http", "@import", "url(http"} {
					if strings.Contains(b.String(), outside) {
						t.Errorf("the page asks outside: %s", outside)
					}
				}
			}
		})
	}
}

func TestTheDrawings(t *testing.T) {
	r := broken(t)
	var term, svg bytes.Buffer
	if err := r.Draw(&term); err != nil {
		t.Fatal(err)
	}
	if err := r.DrawSVG(&svg); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"VNet net-aks", "cluster prod", "✗ VN-05", "─▶ workspace fraud (amlworkspace)", "resolves privatelink.azurecr.io"} {
		if !strings.Contains(term.String(), want) {
			t.Errorf("the terminal drawing lacks %q:\n%s", want, &term)
		}
	}
	for d := xml.NewDecoder(&svg); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("no XML: %v", err)
		}
	}
}

func TestTheVerdictLine(t *testing.T) {
	r := broken(t)
	if line := r.Line(); !strings.HasPrefix(line, "private: ") || !strings.Contains(line, " 1 fail, ") || !strings.Contains(line, "answered by this command") || !strings.HasSuffix(line, ": not proven") {
		t.Error(line)
	}
	if r.Proven(true) {
		t.Error("a failure was proven away")
	}
}
