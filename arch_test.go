package sallyport

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sallyport/sallyport"

// arrows says which rooms a room may import (docs/architecture.md). A folder
// below a room belongs to it unless it has a line of its own. internal/logs may
// be imported by cmd only: rooms take a *slog.Logger.
var arrows = map[string]string{
	"trust":           "",
	"arm":             "trust",
	"request":         "trust",
	"rbac":            "trust",
	"mandate":         "trust",
	"authn":           "trust",
	"audit":           "trust",
	"bucket":          "trust bucket/signed",
	"bucket/signed":   "",
	"store":           "trust",
	"operation":       "trust store arm",
	"tunnel":          "",
	"netenv":          "netenv/probe internal/spelling", // its tests read what a probe writes
	"netenv/probe":    "",
	"extension":       "trust internal/spelling",
	"web":             "",
	"authority":       "trust store authn internal/seal",
	"control":         "trust arm store operation mandate extension authn netenv/probe internal/pki internal/seal",
	"gateway":         "trust request authn tunnel store audit",
	"client":          "trust arm mandate internal/pki",
	"agent/proxy":     "trust request rbac mandate tunnel",
	"agent/reconcile": "trust rbac mandate",
	"deploy":          "trust rbac extension mlext mlext/wire",
	"ml":              "trust arm store operation client mlext/wire bucket internal/seal",
	"mlext":           "trust authn mlext/wire bucket/signed",
	"mlext/wire":      "",

	"examples":            "",
	"internal/pki":        "",
	"internal/seal":       "",
	"internal/logs":       "",
	"internal/spelling":   "",
	"internal/devcluster": "",
	"internal/agentflags": "trust mandate client internal/logs", // for commands only
}

// tests may use, besides what the room may use, a real cluster, a real store
// and the certificates to speak TLS.
const forTests = "bucket bucket/signed internal/devcluster internal/pki internal/seal internal/logs store tunnel trust"

type listed struct {
	ImportPath, Doc string
	Standard        bool
	Imports         []string
	TestImports     []string
	XTestImports    []string
}

func list(t *testing.T, args ...string) []listed {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Doc,Standard,Imports,TestImports,XTestImports"}, args...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v\n%s", args, err, &stderr)
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// room finds the line of arrows that a package belongs to: the longest prefix.
func room(pkg string) string {
	for p := pkg; p != "."; p = path.Dir(p) {
		if _, ok := arrows[p]; ok {
			return p
		}
	}
	return pkg
}

func TestArrows(t *testing.T) {
	for _, p := range list(t, "./...") {
		pkg, ours := strings.CutPrefix(p.ImportPath, module+"/")
		if !ours || strings.HasPrefix(pkg, "cmd/") || strings.HasPrefix(pkg, "e2e") {
			continue // the root, and where things meet
		}
		from := room(pkg)
		allowed, known := arrows[from]
		if !known {
			t.Errorf("package %s belongs to no room: add it to arrows and to docs/architecture.md", pkg)
			continue
		}
		check := func(imports []string, allowed, what string) {
			for _, i := range imports {
				to, ours := strings.CutPrefix(i, module+"/")
				if !ours || room(to) == from || slices.Contains(strings.Fields(allowed), room(to)) {
					continue
				}
				t.Errorf("%s %s imports %s: the arrows allow %q", pkg, what, to, allowed)
			}
		}
		check(p.Imports, allowed, "itself")
		check(append(p.TestImports, p.XTestImports...), allowed+" "+forTests, "in tests")
	}
}

func TestTheCoreImportsTheStandardLibraryOnly(t *testing.T) {
	pure := map[string][]string{
		"trust":  {"net", "net/http", "os", "time/tzdata", "log/slog", "encoding/json"},
		"tunnel": nil,
	}
	for pkg, banned := range pure {
		for _, p := range list(t, "-deps", "./"+pkg) {
			if !p.Standard && p.ImportPath != module+"/"+pkg && (pkg == "trust" || strings.Contains(p.ImportPath, "k8s.io")) {
				t.Errorf("%s depends on %s", pkg, p.ImportPath)
			}
			if p.ImportPath == module+"/"+pkg {
				for _, i := range p.Imports {
					if slices.Contains(banned, i) {
						t.Errorf("%s imports %s: it does no I/O and has no wire format", pkg, i)
					}
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItOwns(t *testing.T) {
	for _, p := range list(t, "./...") {
		if len(p.Doc) < 20 {
			t.Errorf("%s has no package comment: say what it owns and what it does not", p.ImportPath)
		}
		switch path.Base(p.ImportPath) {
		case "util", "utils", "common", "types", "helpers", "manager", "misc", "pkg":
			t.Errorf("%s: name the package after what it owns", p.ImportPath)
		}
	}
}

// The agent runs in other people's clusters: what it links is what they must
// trust.
func TestWhatTheAgentMayLink(t *testing.T) {
	banned := []string{"helm.sh/", "go.etcd.io/", "github.com/google/cel-go", "cel.dev/", "github.com/Azure/", "cloud.google.com/", "github.com/aws/", "google.golang.org/grpc", module + "/store", module + "/control", module + "/authority"}
	for _, p := range list(t, "-deps", "./cmd/sallyport-agent") {
		for _, b := range banned {
			if strings.HasPrefix(p.ImportPath, b) {
				t.Errorf("sallyport-agent links %s", p.ImportPath)
			}
		}
	}
}
