package netenv

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MaxFile is the largest input file in bytes. A decoded file takes some ten
// times its size in memory.
const MaxFile = 256 << 20

// maxProblems per file: a foreign file says its piece and stops.
const maxProblems = 20

// cutAt is Resource Graph's page size: a result of exactly this many rows was
// cut unless it says otherwise.
const cutAt = 1000

// Export describes how a file came about, when a manifest says it.
type Export struct {
	// File relative to the manifest.
	File string `json:"file"`
	// Type of the listed resources and the scope that the listing covers
	// whole; empty for files that mix types.
	Type  string    `json:"type,omitempty"`
	Scope string    `json:"scope,omitempty"`
	Time  time.Time `json:"time,omitzero"`
	// Rows that the command answered.
	Rows    *int   `json:"rows,omitempty"`
	Command string `json:"command,omitempty"`
	// Error of the command: the listing proves nothing.
	Error string `json:"error,omitempty"`
	// Partial says that the documents show some of their resources' values:
	// what they lack is unknown, not absent.
	Partial bool `json:"partial,omitempty"`
}

// Manifest says what a folder of exports holds. Collection writes it.
type Manifest struct {
	Kind  string    `json:"kind"` // ManifestKind
	Scope string    `json:"scope,omitempty"`
	Time  time.Time `json:"time,omitzero"`
	Files []Export  `json:"files"`
}

// ManifestKind marks a manifest; ManifestFile is its name in a folder.
const (
	ManifestKind = "sallyport.dev/environment-manifest"
	ManifestFile = "manifest.json"
)

// Reader gathers facts from files of any mix of forms. What cannot be read
// becomes a Problem with file, place and reason; the rest is still read.
type Reader struct {
	g        *Graph
	problems int // of the current file
}

// NewReader begins an empty graph.
func NewReader() *Reader { return &Reader{g: newGraph()} }

// Read gathers facts from files and folders. The error is about the paths
// themselves; see Graph.Problems for what their contents lack.
func Read(paths ...string) (*Graph, error) {
	r := NewReader()
	for _, p := range paths {
		if err := r.AddPath(p); err != nil {
			return nil, err
		}
	}
	return r.Graph(), nil
}

// Graph of everything added so far.
func (r *Reader) Graph() *Graph {
	r.g.index()
	return r.g
}

// AddPath reads a file, or a folder: by its manifest and then every other .json
// file in it.
func (r *Reader) AddPath(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("read facts: %w", err)
	}
	if !info.IsDir() {
		return r.addFile(path, Export{})
	}
	exports := map[string]Export{}
	if data, err := readFile(filepath.Join(path, ManifestFile)); err == nil {
		var m Manifest
		if err := json.Unmarshal(data, &m); err != nil || m.Kind != ManifestKind {
			r.problem(filepath.Join(path, ManifestFile), "", "no manifest of kind "+ManifestKind+": completeness is taken from the files alone")
		} else {
			for _, e := range m.Files {
				if e.Time.IsZero() {
					e.Time = m.Time
				}
				exports[filepath.Clean(e.File)] = e
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	found := map[string]bool{}
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(p) != ".json" {
			return err
		}
		rel, err := filepath.Rel(path, p)
		if err != nil || rel == ManifestFile {
			return err
		}
		found[rel] = true
		return r.addFile(p, exports[rel])
	})
	if err != nil {
		return fmt.Errorf("read facts: %w", err)
	}
	missing := make([]string, 0, len(exports))
	for name, e := range exports {
		if e.Error == "" && !found[name] {
			missing = append(missing, name)
		}
	}
	slices.Sort(missing)
	for _, name := range missing {
		r.problem(filepath.Join(path, name), "", "listed in the manifest and not there")
	}
	return nil
}

func (r *Reader) addFile(path string, e Export) error {
	data, err := readFile(path)
	if err != nil {
		return fmt.Errorf("read facts: %w", err)
	}
	r.Add(path, data, e)
	return nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err == nil && len(data) > MaxFile {
		err = fmt.Errorf("%s is larger than %d MiB: split it", path, MaxFile>>20)
	}
	return data, err
}

func (r *Reader) problem(file, place, reason string) {
	r.problems++
	if r.problems == maxProblems {
		reason = "and more problems of this kind in this file"
	}
	if r.problems <= maxProblems {
		r.g.Problems = append(r.g.Problems, Problem{File: file, Place: place, Reason: reason})
	}
}

// Add reads one document. name is what evidence calls the file.
func (r *Reader) Add(name string, data []byte, e Export) {
	r.problems = 0
	if e.Error != "" {
		r.problem(name, "", "the export failed: "+e.Error)
		r.g.cut[fold(e.Type)] = name
		return
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	var raw any
	if err := json.Unmarshal(data, &raw); err != nil {
		var syntax *json.SyntaxError
		place := ""
		if errors.As(err, &syntax) {
			place = lineColumn(data, syntax.Offset)
		}
		r.problem(name, place, "no JSON: "+err.Error())
		return
	}
	in := input{Reader: r, file: name, export: e}
	in.document(raw)
	if e.Rows != nil && *e.Rows != in.rows && e.Type != "" {
		r.problem(name, "", fmt.Sprintf("holds %d rows, the manifest says %d: the listing proves nothing", in.rows, *e.Rows))
		r.g.cut[fold(e.Type)] = name
		return
	}
	if e.Type != "" && !in.cut {
		r.g.prove(e.Type, e.Scope)
	}
}

func lineColumn(data []byte, offset int64) string {
	before := data[:min(int64(len(data)), offset)]
	line := bytes.Count(before, []byte("\n")) + 1
	return "line " + strconv.Itoa(line) + " column " + strconv.Itoa(len(before)-bytes.LastIndexByte(before, '\n')-1)
}

// input is one file while it is read.
type input struct {
	*Reader
	file   string
	export Export
	rows   int
	cut    bool
}

func (in *input) view(o object, at string) *view {
	return &view{root: o, file: in.file, base: at, time: in.export.Time, partial: in.export.Partial}
}

// document finds out which form a file has.
func (in *input) document(raw any) {
	if top, ok := raw.(map[string]any); ok {
		switch {
		case top["planned_values"] != nil || top["resource_changes"] != nil || top["terraform_version"] != nil:
			in.terraform(top)
			return
		case isTemplate(top):
			in.template(top)
			return
		}
	}
	raw = folded(raw)
	switch top := raw.(type) {
	case []any:
		in.list(top, "")
	case object:
		in.object(top)
	default:
		in.problem(in.file, "", "neither an object nor a list")
	}
}

func (in *input) object(top object) {
	if tags, ok := serviceTags(top); ok {
		in.g.Tags = tags
		return
	}
	if m, ok := top["data"]; ok && top["id"].val == nil {
		in.envelope(top, m)
		return
	}
	if list, ok := top["value"].val.([]any); ok && top["id"].val == nil {
		if next, _ := top["nextlink"].val.(string); next != "" {
			in.cutShort("the answer has a nextLink: further pages are missing")
		}
		in.list(list, "/"+top["value"].key)
		return
	}
	if k, _ := top["kind"].val.(string); k == ManifestKind {
		return
	}
	in.resource(top, "")
}

// envelope is Resource Graph's answer, as list of objects or as table.
func (in *input) envelope(top object, data member) {
	at := "/" + data.key
	count, _ := top["count"].val.(float64)
	total, _ := top["totalrecords"].val.(float64)
	skip, _ := top["skiptoken"].val.(string)
	var list []any
	switch d := data.val.(type) {
	case []any:
		list = d
	case object: // {columns, rows}
		list = table(d)
		at += "/rows"
	}
	n := float64(len(list))
	if skip != "" || total > n || total == 0 && (n == cutAt || count == cutAt) {
		in.cutShort(fmt.Sprintf("Resource Graph answered %d of %s rows: ask again with --skip-token, or in pages", len(list), cond(total > 0, strconv.Itoa(int(total)), "perhaps more")))
	}
	in.list(list, at)
}

func cond(b bool, yes, no string) string {
	if b {
		return yes
	}
	return no
}

func table(d object) []any {
	columns, _ := d["columns"].val.([]any)
	rows, _ := d["rows"].val.([]any)
	var out []any
	for _, row := range rows {
		cells, _ := row.([]any)
		o := object{}
		for i, cell := range cells {
			if i >= len(columns) {
				break
			}
			c, _ := columns[i].(object)
			if name, _ := c["name"].val.(string); name != "" {
				o[fold(name)] = member{key: strconv.Itoa(i), val: cell}
			}
		}
		out = append(out, o)
	}
	return out
}

// cutShort notes that a listing is not whole: no type in it is proven complete.
func (in *input) cutShort(reason string) {
	in.cut = true
	in.problem(in.file, "", reason)
}

func (in *input) list(list []any, at string) {
	if len(list) == cutAt && !in.cut && in.export.Rows == nil && at == "" && in.export.Type == "" {
		in.cutShort("holds exactly 1,000 rows, one page of Resource Graph: it may be cut")
	}
	for i, e := range list {
		here := at + "/" + strconv.Itoa(i)
		switch e := e.(type) {
		case object:
			in.resource(e, here)
		case []any:
			in.list(e, here)
		default:
			in.problem(in.file, here, "not a resource")
		}
	}
}

// resource takes one object as ARM, az, az ml or the agent's probe print it.
func (in *input) resource(o object, at string) {
	in.rows++
	id, _ := o["id"].val.(string)
	typ := idType(id)
	if typ == "" {
		if id, typ = in.unnamed(o); typ == "" {
			in.problem(in.file, cond(at == "", "/", at), cond(id == "", "no resource id", "no resource id: "+clip(id)))
			return
		}
	}
	if in.cut {
		in.g.cut[fold(typ)] = in.file
	}
	in.g.put(id, typ, in.view(o, at))
}

// unnamed gives the few documents that carry no ARM id one.
func (in *input) unnamed(o object) (id, typ string) {
	text := func(k string) string { s, _ := o[k].val.(string); return s }
	switch {
	case text("kind") == ProbeKind && text("cluster") != "":
		return text("cluster") + "/providers/" + typeProbe + "/live", typeProbe
	case text("sourceresourcetype") != "" && o["rules"].val != nil:
		region := idPart(in.export.Scope, "locations")
		return "/providers/Microsoft.ContainerService/locations/" + cond(region == "", "-", region) + "/trustedAccessRoles/" +
			strings.ReplaceAll(text("sourceresourcetype"), "/", ":") + ":" + text("name"), typeRole
	}
	return text("id"), ""
}

func clip(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}
