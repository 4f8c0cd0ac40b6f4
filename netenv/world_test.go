package netenv

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// world is an environment in a collected folder's form that a test may change
// before it is read.
type world struct {
	t        *testing.T
	files    map[string]any
	manifest map[string]Export
}

func load(t *testing.T, folder string) *world {
	t.Helper()
	w := &world{t: t, files: map[string]any{}, manifest: map[string]Export{}}
	names, err := filepath.Glob(filepath.Join("testdata", folder, "*.json"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no fixture %s: %v", folder, err)
	}
	for _, n := range names {
		data, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(n) == ManifestFile {
			var m Manifest
			if err := json.Unmarshal(data, &m); err != nil {
				t.Fatal(err)
			}
			for _, e := range m.Files {
				e.Time, e.Rows = m.Time, nil // tests add and remove rows
				w.manifest[e.File] = e
			}
			continue
		}
		var v any
		if err := json.Unmarshal(data, &v); err != nil {
			t.Fatal(err)
		}
		w.files[filepath.Base(n)] = v
	}
	return w
}

// row finds a resource by name in a file; a file of one object is its row.
func (w *world) row(file, name string) map[string]any {
	w.t.Helper()
	if o, ok := w.files[file].(map[string]any); ok {
		return o
	}
	rows, _ := w.files[file].([]any)
	for _, r := range rows {
		if o, _ := r.(map[string]any); o["name"] == name {
			return o
		}
	}
	w.t.Fatalf("no %s in %s", name, file)
	return nil
}

// at goes down a dotted path; a number is an index.
func (w *world) at(v any, path []string) any {
	w.t.Helper()
	for _, p := range path {
		switch x := v.(type) {
		case map[string]any:
			v = x[p]
		case []any:
			var i int
			if _, err := fmt.Sscan(p, &i); err != nil || i >= len(x) {
				w.t.Fatalf("no index %s", p)
			}
			v = x[i]
		default:
			w.t.Fatalf("nothing at %s", strings.Join(path, "."))
		}
	}
	return v
}

// set changes one value: "vnets.json net-aks addressSpace.addressPrefixes".
func (w *world) set(where string, value any) {
	w.t.Helper()
	f := strings.Fields(where)
	path := strings.Split(f[2], ".")
	parent := w.at(w.row(f[0], f[1]), path[:len(path)-1])
	last := path[len(path)-1]
	switch p := parent.(type) {
	case map[string]any:
		if value == nil {
			delete(p, last)
		} else {
			p[last] = value
		}
	case []any:
		var i int
		if _, err := fmt.Sscan(last, &i); err != nil {
			w.t.Fatal(err)
		}
		p[i] = value
	default:
		w.t.Fatalf("nothing at %s", where)
	}
}

// drop removes rows by name; the manifest still calls the file whole.
func (w *world) drop(file string, match func(row map[string]any) bool) {
	w.t.Helper()
	var keep []any
	rows := w.files[file].([]any)
	for _, r := range rows {
		if !match(r.(map[string]any)) {
			keep = append(keep, r)
		}
	}
	if len(keep) == len(rows) {
		w.t.Fatalf("nothing dropped from %s", file)
	}
	if keep == nil {
		keep = []any{}
	}
	w.files[file] = keep
}

func (w *world) add(file string, row string) {
	w.t.Helper()
	var v any
	if err := json.Unmarshal([]byte(row), &v); err != nil {
		w.t.Fatal(err)
	}
	rows, _ := w.files[file].([]any)
	w.files[file] = append(rows, v)
}

// forget removes a file and what the manifest says about it.
func (w *world) forget(files ...string) {
	w.t.Helper()
	for _, f := range files {
		if w.files[f] == nil {
			w.t.Fatalf("no file %s", f)
		}
		delete(w.files, f)
		delete(w.manifest, f)
	}
}

func named(names ...string) func(map[string]any) bool {
	return func(r map[string]any) bool {
		for _, n := range names {
			if r["name"] == n {
				return true
			}
		}
		return false
	}
}

func (w *world) graph() *Graph {
	w.t.Helper()
	r := NewReader()
	for name, v := range w.files {
		data, err := json.Marshal(v)
		if err != nil {
			w.t.Fatal(err)
		}
		r.Add(name, data, w.manifest[name])
	}
	g := r.Graph()
	for _, p := range g.Problems {
		w.t.Fatalf("problem: %+v", p)
	}
	return g
}

var testNow = time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)

const deployer = "a0000000-0000-4000-8000-000000000009"

func (w *world) check(p Profile) *Report {
	w.t.Helper()
	return Check(w.graph(), Options{Profile: p, Now: testNow, Deployer: deployer})
}

// verdicts are the worst verdict by code, hidden findings under "code<cause".
func verdicts(r *Report) map[string]Verdict {
	out := map[string]Verdict{}
	for i := len(r.Findings) - 1; i >= 0; i-- { // sorted worst first
		f := r.Findings[i]
		out[f.Code] = f.Verdict
	}
	return out
}

// replace a text in every file.
func (w *world) replace(old, with string) {
	w.t.Helper()
	for name, v := range w.files {
		data, err := json.Marshal(v)
		if err != nil {
			w.t.Fatal(err)
		}
		var again any
		if err := json.Unmarshal([]byte(strings.ReplaceAll(string(data), old, with)), &again); err != nil {
			w.t.Fatal(err)
		}
		w.files[name] = again
	}
	for name, e := range w.manifest {
		e.Scope = strings.ReplaceAll(e.Scope, old, with)
		w.manifest[name] = e
	}
}
