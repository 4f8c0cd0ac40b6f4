// Package output writes a command's result as az does: JSON, YAML, a table,
// tab-separated values or nothing, after a JMESPath query.
//
// It owns the shapes of text. What a result holds is the command's business.
package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/jmespath/go-jmespath"
	"sigs.k8s.io/yaml"
)

// Formats are the values of --output.
var Formats = []string{"json", "jsonc", "yaml", "yamlc", "table", "tsv", "none"}

// Column is a column of a table: a heading and where its value comes from, a
// JMESPath expression on one row.
type Column struct{ Heading, Path string }

// Printer writes results.
type Printer struct {
	Format string // one of Formats
	Query  string // JMESPath, "" for none
	Color  bool   // jsonc and yamlc in colours
	Width  int    // of the terminal that a table must fit, in columns; 0: it may be as wide as it is
}

// Check refuses an unknown format and a query that cannot be read.
func (p Printer) Check() error {
	if !slices.Contains(Formats, p.Format) {
		return fmt.Errorf("argument --output/-o: invalid choice: '%s' (choose from %s)", p.Format, strings.Join(Formats, ", "))
	}
	if p.Query != "" {
		if _, err := jmespath.Compile(p.Query); err != nil {
			return fmt.Errorf("argument --query: invalid jmespath_type value: '%s': %w", p.Query, err)
		}
	}
	return nil
}

// Print writes a result: anything that encoding/json takes. columns shape a
// table of it, unless a query has changed what it is; nil means all plain
// members. A nil result prints nothing.
func (p Printer) Print(w io.Writer, result any, columns []Column) error {
	if result == nil {
		return nil
	}
	value, err := plain(result)
	if err != nil {
		return err
	}
	if p.Query != "" {
		columns = nil
		if value, err = jmespath.Search(p.Query, value); err != nil {
			return fmt.Errorf("query %s: %w", p.Query, err)
		}
	}
	switch p.Format {
	case "none":
		return nil
	case "table":
		return writeTable(w, value, columns, p.Width)
	case "tsv":
		return writeTSV(w, value)
	case "yaml", "yamlc":
		data, err := yaml.Marshal(value)
		if err != nil {
			return fmt.Errorf("write result: %w", err)
		}
		_, err = w.Write(data)
		return err
	}
	data, err := encode(value)
	if err != nil {
		return err
	}
	if p.Format == "jsonc" && p.Color {
		data = paint(data)
	}
	_, err = w.Write(data)
	return err
}

// plain turns a result into maps, slices and scalars.
func plain(result any) (any, error) {
	data, err := json.Marshal(result)
	if err != nil {
		return nil, fmt.Errorf("write result: %w", err)
	}
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, fmt.Errorf("write result: %w", err)
	}
	return v, nil
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("write result: %w", err)
	}
	return b.Bytes(), nil
}

// rows makes a list of what is not one.
func rows(v any) []any {
	if list, ok := v.([]any); ok {
		return list
	}
	if v == nil {
		return nil
	}
	return []any{v}
}

// writeTSV writes as az does: one line per entry, members in the order of their
// names, no headings; a list inside as its length, an object inside as nothing.
func writeTSV(w io.Writer, v any) error {
	for _, row := range rows(v) {
		var cells []string
		switch r := row.(type) {
		case map[string]any:
			for _, k := range keys(r) {
				cells = append(cells, cell(r[k]))
			}
		case []any:
			for _, c := range r {
				cells = append(cells, cell(c))
			}
		case bool:
			cells = []string{strconv.FormatBool(r)}
		default:
			cells = []string{cell(r)}
		}
		if _, err := fmt.Fprintln(w, strings.Join(cells, "\t")); err != nil {
			return err
		}
	}
	return nil
}

func cell(v any) string {
	switch c := v.(type) {
	case nil:
		return "None"
	case bool:
		if c {
			return "True"
		}
		return "False"
	case []any:
		return strconv.Itoa(len(c))
	case map[string]any:
		return ""
	}
	return scalar(v)
}

func scalar(v any) string {
	switch c := v.(type) {
	case nil:
		return ""
	case string:
		return c
	case bool:
		if c {
			return "True"
		}
		return "False"
	case float64:
		return strconv.FormatFloat(c, 'f', -1, 64)
	}
	return fmt.Sprint(v)
}

func keys(m map[string]any) []string {
	all := make([]string, 0, len(m))
	for k := range m {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

// unshown are members that no table has room for, as in az.
var unshown = []string{"id", "type", "etag", "eTag", "revision"}

func writeTable(w io.Writer, v any, columns []Column, most int) error {
	list := rows(v)
	if len(list) == 0 {
		return nil
	}
	var heads []string
	var lines [][]string
	if len(columns) > 0 {
		for _, c := range columns {
			heads = append(heads, c.Heading)
		}
		for _, row := range list {
			var line []string
			for _, c := range columns {
				found, err := jmespath.Search(c.Path, row)
				if err != nil {
					return fmt.Errorf("column %s: %w", c.Heading, err)
				}
				line = append(line, joined(found))
			}
			lines = append(lines, line)
		}
	} else {
		heads, lines = derived(list)
	}
	if len(heads) == 0 {
		return nil
	}
	fit(heads, lines, most)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	rule := make([]string, len(heads))
	for i, width := range widths(heads, lines) {
		rule[i] = strings.Repeat("-", width)
	}
	for _, l := range append([][]string{heads, rule}, lines...) {
		// The last column has no padding, so no line ends in blanks.
		if _, err := fmt.Fprintln(t, strings.TrimRight(strings.Join(l, "\t"), "\t")); err != nil {
			return err
		}
	}
	return t.Flush()
}

// widths of columns, in characters.
func widths(heads []string, lines [][]string) []int {
	all := make([]int, len(heads))
	for i, h := range heads {
		all[i] = utf8.RuneCountInString(h)
		for _, l := range lines {
			all[i] = max(all[i], utf8.RuneCountInString(l[i]))
		}
	}
	return all
}

// narrow is as far as a column is shortened.
const narrow = 12

// fit shortens the values of the widest columns until a table has room; an id
// keeps its end, everything else its beginning.
func fit(heads []string, lines [][]string, most int) {
	for _, l := range lines {
		for i := range l {
			l[i] = strings.Join(strings.FieldsFunc(l[i], func(r rune) bool { return r == '\n' || r == '\t' || r == '\r' }), " ")
		}
	}
	all := widths(heads, lines)
	total := 2 * (len(all) - 1)
	for _, width := range all {
		total += width
	}
	for ; most > 0 && total > most; total-- {
		widest := -1
		for i := range all {
			if all[i] > max(narrow, utf8.RuneCountInString(heads[i])) && (widest < 0 || all[i] > all[widest]) && !slices.ContainsFunc(lines, func(l []string) bool { return isGUID(l[i]) }) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		all[widest]--
	}
	for _, l := range lines {
		for i := range l {
			l[i] = shortened(l[i], all[i])
		}
	}
}

// isGUID tells what is of use only as a whole.
func isGUID(s string) bool { return len(s) == 36 && strings.Count(s, "-") == 4 }

func shortened(s string, most int) string {
	r := []rune(s)
	switch {
	case len(r) <= most:
		return s
	case strings.HasPrefix(s, "/"):
		return "…" + string(r[len(r)-most+1:])
	}
	return string(r[:most-1]) + "…"
}

// derived are the columns of rows that nobody has described.
func derived(list []any) (heads []string, lines [][]string) {
	switch first := list[0].(type) {
	case map[string]any:
		var names []string
		for _, row := range list {
			m, _ := row.(map[string]any)
			for _, k := range keys(m) {
				switch m[k].(type) {
				case nil, map[string]any, []any:
					continue
				}
				if !slices.Contains(names, k) && !slices.Contains(unshown, k) {
					names = append(names, k)
				}
			}
		}
		slices.Sort(names)
		for _, n := range names {
			heads = append(heads, strings.ToUpper(n[:1])+n[1:])
		}
		for _, row := range list {
			m, _ := row.(map[string]any)
			line := make([]string, len(names))
			for i, n := range names {
				line[i] = joined(m[n])
			}
			lines = append(lines, line)
		}
	case []any:
		for i := range first {
			heads = append(heads, "Column"+strconv.Itoa(i+1))
		}
		for _, row := range list {
			line := make([]string, len(first))
			cells, _ := row.([]any)
			for i := range min(len(cells), len(line)) {
				line[i] = joined(cells[i])
			}
			lines = append(lines, line)
		}
	default:
		heads = []string{"Result"}
		for _, row := range list {
			lines = append(lines, []string{joined(row)})
		}
	}
	return heads, lines
}

// joined is a value in a table: a list of plain values on one line.
func joined(v any) string {
	list, ok := v.([]any)
	if !ok {
		if _, nested := v.(map[string]any); nested {
			return ""
		}
		return scalar(v)
	}
	parts := make([]string, 0, len(list))
	for _, e := range list {
		parts = append(parts, joined(e))
	}
	return strings.Join(parts, ", ")
}
