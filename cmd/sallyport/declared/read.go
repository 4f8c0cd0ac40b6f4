package declared

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport/sallyport/trust"
)

// maxFile is the largest file that is read, in bytes.
const maxFile = 4 << 20

// Read reads files, and folders with those below them, and returns what they
// declare in the order in which it is applied. Everything that is wrong with
// any of them is in one error, a line each: "FILE:LINE: what". "-" is stdin.
func Read(paths []string, stdin io.Reader, subscription string) ([]Object, error) {
	r := &reader{subscription: subscription, seen: map[string]Position{}}
	for _, path := range paths {
		if path == "-" {
			r.file("<stdin>", stdin)
			continue
		}
		files, err := yamlFiles(path)
		if err != nil {
			return nil, trust.Errorf(trust.Invalid, "%s cannot be read", path).Because(err)
		}
		for _, f := range files {
			if err := r.open(f); err != nil {
				return nil, trust.Errorf(trust.Invalid, "%s cannot be read", f).Because(err)
			}
		}
	}
	if len(r.problems) > 0 {
		return nil, trust.Errorf(trust.Invalid, "the files cannot be used; nothing was changed.\n%s", strings.Join(r.problems, "\n"))
	}
	if len(r.objects) == 0 {
		return nil, trust.Errorf(trust.Invalid, "there is no resource in %s; nothing was changed", strings.Join(paths, ", "))
	}
	slices.SortStableFunc(r.objects, func(a, b Object) int {
		if c := cmp.Compare(slices.Index(order, a.Kind), slices.Index(order, b.Kind)); c != 0 {
			return c
		}
		// What lies in another source comes after it.
		return cmp.Compare(strings.Count(a.ID, "/"), strings.Count(b.ID, "/"))
	})
	return r.objects, nil
}

// yamlFiles are a file, or the YAML files of a folder and those below it.
func yamlFiles(path string) ([]string, error) {
	st, err := os.Stat(path)
	if err != nil || !st.IsDir() {
		return []string{path}, err
	}
	var files []string
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case p != path && strings.HasPrefix(d.Name(), "."): // .git, .github
			if d.IsDir() {
				return fs.SkipDir
			}
		case !d.IsDir() && (filepath.Ext(p) == ".yaml" || filepath.Ext(p) == ".yml"):
			files = append(files, p)
		}
		return nil
	})
	return files, err
}

type reader struct {
	subscription string
	objects      []Object
	seen         map[string]Position // by folded id
	problems     []string
}

func (r *reader) problem(at Position, format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf("%s:%d: %s", at.File, at.Line, fmt.Sprintf(format, args...)))
}

func (r *reader) open(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r.file(path, f)
	return nil
}

// file reads all documents of one file.
func (r *reader) file(name string, in io.Reader) {
	data, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	switch {
	case err != nil:
		r.problem(Position{name, 1}, "it cannot be read: %v", err)
		return
	case len(data) > maxFile:
		r.problem(Position{name, 1}, "it is larger than %d MiB", maxFile>>20)
		return
	}
	for dec := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			r.yamlProblem(name, 1, err)
			return
		}
		if len(doc.Content) == 1 && doc.Content[0].Tag != "!!null" { // else between two "---" there is nothing
			r.document(name, doc.Content[0])
		}
	}
}

// lineOf finds the line in a message of package yaml, which has no other place
// for it.
var lineOf = regexp.MustCompile(`^(?:yaml: )?line (\d+): `)

func (r *reader) yamlProblem(file string, line int, err error) {
	messages := []string{err.Error()}
	var several *yaml.TypeError
	if errors.As(err, &several) {
		messages = several.Errors
	}
	for _, m := range messages {
		at := Position{file, line}
		if found := lineOf.FindStringSubmatch(m); found != nil {
			m = strings.TrimPrefix(m, found[0])
			at.Line, _ = strconv.Atoi(found[1]) // digits, by the expression
		}
		r.problem(at, "%s", strings.TrimPrefix(m, "yaml: "))
	}
}

// document reads one resource.
func (r *reader) document(file string, node *yaml.Node) {
	if node.Kind != yaml.MappingNode {
		r.problem(Position{file, node.Line}, "a document must be a mapping that begins with \"kind\"")
		return
	}
	d := &document{reader: r, file: file, node: node}
	kind := Kind(d.value("kind"))
	var spec interface{ check(*document) }
	switch kind {
	case KindGroup:
		spec = new(Group)
	case KindRole:
		spec = new(Role)
	case KindSource:
		spec = new(Source)
	case KindCluster:
		spec = new(Cluster)
	case KindBinding:
		spec = new(Binding)
	case "":
		d.problem("", "\"kind\" is missing; it may be %s", kinds())
		return
	default:
		d.problem("kind", "kind %q is not known; it may be %s", string(kind), kinds())
		return
	}
	before := len(r.problems)
	r.strict(file, node, reflect.TypeOf(spec))
	if err := node.Decode(spec); err != nil {
		r.yamlProblem(file, node.Line, err)
	}
	if len(r.problems) == before {
		spec.check(d)
	}
}

func kinds() string {
	var names []string
	for _, k := range order {
		if k != KindFederated {
			names = append(names, string(k))
		}
	}
	return strings.Join(names, ", ")
}

// strict reports keys that a type does not have: a misspelled one would
// otherwise be taken for one that is not there.
func (r *reader) strict(file string, node *yaml.Node, t reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	switch {
	case t.Kind() == reflect.Slice && node.Kind == yaml.SequenceNode:
		for _, n := range node.Content {
			r.strict(file, n, t.Elem())
		}
	case t.Kind() == reflect.Struct && node.Kind == yaml.MappingNode:
		fields := map[string]reflect.Type{}
		var names []string
		for f := range t.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			fields[name], names = f.Type, append(names, name)
		}
		for i := 0; i+1 < len(node.Content); i += 2 {
			key := node.Content[i]
			field, known := fields[key.Value]
			if !known {
				r.problem(Position{file, key.Line}, "unknown key %q; there are %s", key.Value, strings.Join(names, ", "))
				continue
			}
			r.strict(file, node.Content[i+1], field)
		}
	}
}

// document is one resource while it is checked.
type document struct {
	*reader
	file string
	node *yaml.Node
}

// find is the node of a key; nil if it is not there.
func (d *document) find(key string) *yaml.Node {
	for i := 0; i+1 < len(d.node.Content); i += 2 {
		if d.node.Content[i].Value == key {
			n := d.node.Content[i+1]
			for n.Kind == yaml.AliasNode {
				n = n.Alias
			}
			return n
		}
	}
	return nil
}

func (d *document) value(key string) string {
	if n := d.find(key); n != nil {
		return n.Value
	}
	return ""
}

// problem reports something at a key, or at the document's beginning.
func (d *document) problem(key, format string, args ...any) {
	at := Position{d.file, d.node.Line}
	if n := d.find(key); n != nil {
		at.Line = n.Line
	}
	d.reader.problem(at, format, args...)
}

// add takes an object over, unless it was declared before.
func (d *document) add(kind Kind, id string, line int, spec any, needs ...string) {
	at := Position{d.file, line}
	if first, again := d.seen[trust.Fold(id)]; again {
		d.reader.problem(at, "%s is declared already at %s:%d", id, first.File, first.Line)
		return
	}
	d.seen[trust.Fold(id)] = at
	d.objects = append(d.objects, Object{Position: at, Kind: kind, ID: id, Spec: spec, Needs: needs})
}
