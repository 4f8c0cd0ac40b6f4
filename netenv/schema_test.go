package netenv

import (
	"bufio"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// schema is what the documentation of the azurerm provider lists, taken from
// website/docs/r of its tags v4.81.0 and v5.2.0: testdata/azurerm-schema.txt has
// a line "resource block name versions" for each argument and attribute, with
// the innermost block's name, or - outside of blocks.
type schema map[string]string // "resource block name" → "4", "5" or "45"

func readSchema(t *testing.T) schema {
	t.Helper()
	f, err := os.Open("testdata/azurerm-schema.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := schema{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		parts := strings.Fields(lines.Text())
		if len(parts) == 4 && parts[0] != "#" {
			s[strings.Join(parts[:3], " ")] = parts[3]
		}
	}
	if len(s) < 1000 {
		t.Fatalf("only %d attributes", len(s))
	}
	return s
}

// unknownNames are the attributes of a document that a version does not have.
func (s schema) unknownNames(typ, version, block string, m map[string]any) []string {
	var out []string
	for k, v := range m {
		versions := s[typ+" "+block+" "+k]
		if !strings.Contains(versions, version) && !undocumented[typ+" "+block+" "+k] {
			out = append(out, block+" "+k)
			continue
		}
		list, _ := v.([]any)
		for _, e := range list {
			if inner, ok := e.(map[string]any); ok {
				out = append(out, s.unknownNames(typ, version, k, inner)...)
			}
		}
	}
	slices.Sort(out)
	return out
}

// undocumented are attributes that the provider has and its pages leave out of
// their lists.
var undocumented = map[string]bool{}

// What `env plan` writes must be what provider 5 takes.
func TestPlansUseTheProvidersAttributes(t *testing.T) {
	s := readSchema(t)
	for _, p := range Profiles {
		for _, b := range intent(t, p, "highBusinessImpact: true\n").blocks() {
			typ := b.labels[1]
			if !strings.HasPrefix(typ, "azurerm_") {
				continue
			}
			for _, bad := range b.missingIn(s, typ, "-") {
				t.Errorf("%s.%s: no %s", typ, b.labels[2], bad)
			}
		}
	}
}

// metaArguments are Terraform's own.
var metaArguments = map[string]bool{"depends_on": true, "count": true, "for_each": true, "lifecycle": true, "provider": true}

func (b block) missingIn(s schema, typ, in string) []string {
	var out []string
	for _, a := range b.attrs {
		if !metaArguments[a.name] && !strings.Contains(s[typ+" "+in+" "+a.name], "5") {
			out = append(out, in+" "+a.name)
		}
	}
	for _, n := range b.blocks {
		if !strings.Contains(s[typ+" "+in+" "+n.labels[0]], "5") {
			out = append(out, in+" "+n.labels[0])
		}
		out = append(out, n.missingIn(s, typ, n.labels[0])...)
	}
	return out
}

// Every attribute name that the reader of plans spells is one of the provider's,
// and every resource type that it reads is documented.
func TestTheReaderUsesTheProvidersAttributes(t *testing.T) {
	s := readSchema(t)
	names, types := map[string]bool{}, map[string]bool{}
	for k := range s {
		parts := strings.Fields(k)
		types[parts[0]], names[parts[1]], names[parts[2]] = true, true, true
	}
	for typ := range terraformTypes() {
		if strings.HasPrefix(typ, "azurerm_") && !types[typ] {
			t.Errorf("no page documents %s", typ)
		}
	}
	// Names of other providers, of data sources, and of provider 3.
	other := map[string]bool{"parent_id": true, "enable_auto_scaling": true, "network_security_group_id": true, "storage_account_name": true}
	attribute := regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)+$`)
	for _, file := range []string{"terraform_types.go", "terraform_network.go", "terraform_services.go"} {
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		ast.Inspect(tree, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil || !attribute.MatchString(text) || strings.HasPrefix(text, "azurerm_") || strings.HasPrefix(text, "azapi_") {
				return true
			}
			seen++
			if !names[text] && !other[text] {
				t.Errorf("%s: no page of the provider lists %s", file, text)
			}
			return true
		})
		if seen < 3 {
			t.Errorf("%s: only %d attributes", file, seen)
		}
	}
}

var (
	openResource = regexp.MustCompile(`^resource "([a-z0-9_]+)" "[a-z0-9_]+" \{$`)
	openBlock    = regexp.MustCompile(`^\s+([a-z0-9_]+) \{$`)
	argument     = regexp.MustCompile(`^\s+"?([a-zA-Z0-9_.]+)"?\s+= (.*)$`)
)

// unknownInHCL are the names in a Terraform text of ours that the provider does
// not have. Our texts have one argument or one brace a line.
func (s schema) unknownInHCL(text string) []string {
	var out []string
	typ, blocks, values := "", []string{"-"}, 0
	for _, line := range strings.Split(text, "\n") {
		switch {
		case openResource.MatchString(line):
			typ, blocks = openResource.FindStringSubmatch(line)[1], []string{"-"}
		case strings.TrimSpace(line) == "}":
			if values > 0 {
				values--
			} else if len(blocks) > 1 {
				blocks = blocks[:len(blocks)-1]
			}
		case !strings.HasPrefix(typ, "azurerm_"):
		case openBlock.MatchString(line):
			name := openBlock.FindStringSubmatch(line)[1]
			if !strings.Contains(s[typ+" "+blocks[len(blocks)-1]+" "+name], "5") {
				out = append(out, typ+" "+blocks[len(blocks)-1]+" "+name)
			}
			blocks = append(blocks, name)
		case argument.MatchString(line):
			m := argument.FindStringSubmatch(line)
			if values == 0 && !metaArguments[m[1]] && !strings.Contains(s[typ+" "+blocks[len(blocks)-1]+" "+m[1]], "5") {
				out = append(out, typ+" "+blocks[len(blocks)-1]+" "+m[1])
			}
			if strings.HasSuffix(m[2], "{") {
				values++
			}
		}
	}
	return out
}

// Every fix that a failure offers names resources, blocks and arguments that
// provider 5 has; so does what `env fix` writes.
func TestFixesUseTheProvidersAttributes(t *testing.T) {
	s := readSchema(t)
	if bad := s.unknownInHCL("resource \"azurerm_subnet\" \"a\" {\n  colour = 1\n  delegation {\n    name = \"x\"\n  }\n}"); len(bad) != 1 {
		t.Fatalf("the reader of this test sees %v", bad)
	}
	seen := map[string]bool{}
	for _, tc := range ruleCases() {
		if tc.want != Fail {
			continue
		}
		w := load(t, "private")
		bases[tc.base](w)
		if tc.change != nil {
			tc.change(w)
		}
		r := w.check(Private)
		for _, text := range append([]string{r.FixTerraform()}, terraformOfFixes(r)...) {
			for _, bad := range s.unknownInHCL(text) {
				if !seen[bad] {
					seen[bad] = true
					t.Errorf("%s: no %s in\n%s", tc.code, bad, text)
				}
			}
		}
	}
}

func terraformOfFixes(r *Report) []string {
	var out []string
	for _, f := range r.Findings {
		if f.Fix.Terraform != "" {
			out = append(out, f.Fix.Terraform)
		}
	}
	return out
}
