package deploy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/rbac"
)

// templating makes a Helm template of objects that Go renders, so that both have
// one source. Objects are rendered once with everything in them, and once more
// without each thing that a value switches on; what differs stands in the template
// under that value's condition. Where a value itself goes, the rendering has a
// word that nothing else holds.
type templating struct {
	// render gives the objects without the switch of that number; -1: with all.
	render   func(without int) ([]rbac.Explained, error)
	switches []string          // conditions, in Helm's language
	words    map[string]string // word → expression
	// each is the word for one of several namespaces, and list where they stand
	// among the values. An object in such a namespace is made for each of them;
	// elsewhere the word stands for all of them.
	each, list string
	// maps are words that are the only key of a map → the map's expression.
	maps map[string]string
}

// line of an object, and under which switches it is there: on[i] with it, off[i]
// without it.
type line struct {
	text    string
	on, off []int
}

func (t templating) template() (string, error) {
	whole, err := t.render(-1)
	if err != nil {
		return "", err
	}
	type made struct {
		lines   []line
		on, off []int
		ranged  bool
	}
	var order []string
	objects := map[string]*made{}
	add := func(e rbac.Explained, off ...int) error {
		text, err := plainYAML(e)
		if err != nil {
			return err
		}
		m := &made{off: off, ranged: t.each != "" && e.Object.GetNamespace() == t.each}
		for _, s := range text {
			m.lines = append(m.lines, line{text: s})
		}
		key := rbac.Key(e.Object)
		order, objects[key] = append(order, key), m
		return nil
	}
	for _, e := range whole {
		if err := add(e); err != nil {
			return "", err
		}
	}
	for i := range t.switches {
		less, err := t.render(i)
		if err != nil {
			return "", err
		}
		there := map[string]bool{}
		for _, e := range less {
			key := rbac.Key(e.Object)
			there[key] = true
			m := objects[key]
			if m == nil {
				if err := add(e, i); err != nil {
					return "", err
				}
				continue
			}
			text, err := plainYAML(e)
			if err != nil {
				return "", err
			}
			m.lines = merge(m.lines, text, i)
		}
		for key, m := range objects {
			if !there[key] {
				m.on = append(m.on, i)
			}
		}
	}
	var b strings.Builder
	for _, key := range order {
		m := objects[key]
		when := t.condition(m.on, m.off)
		if when != "" {
			b.WriteString("{{- if " + when + " }}\n")
		}
		if m.ranged {
			b.WriteString("{{- range $namespace := " + t.list + " }}\n")
		}
		b.WriteString("---\n")
		t.write(&b, m.lines, m.ranged)
		if m.ranged {
			b.WriteString("{{- end }}\n")
		}
		if when != "" {
			b.WriteString("{{- end }}\n")
		}
	}
	return b.String(), nil
}

// write writes lines, those in a row with the same condition under one.
func (t templating) write(b *strings.Builder, lines []line, ranged bool) {
	for i := 0; i < len(lines); {
		when := t.condition(lines[i].on, lines[i].off)
		if when != "" {
			b.WriteString("{{- if " + when + " }}\n")
		}
		for ; i < len(lines) && t.condition(lines[i].on, lines[i].off) == when; i++ {
			b.WriteString(t.expressions(lines[i].text, ranged))
		}
		if when != "" {
			b.WriteString("{{- end }}\n")
		}
	}
}

func (t templating) condition(on, off []int) string {
	var all []string
	for _, i := range on {
		all = append(all, "("+t.switches[i]+")")
	}
	for _, i := range off {
		all = append(all, "(not ("+t.switches[i]+"))")
	}
	switch len(all) {
	case 0:
		return ""
	case 1:
		return strings.TrimSuffix(strings.TrimPrefix(all[0], "("), ")")
	}
	return "and " + strings.Join(all, " ")
}

// plainYAML is one object in lines, without the reasons: they may name values.
func plainYAML(e rbac.Explained) ([]string, error) {
	text, err := YAML("", []rbac.Explained{{Object: e.Object}})
	if err != nil {
		return nil, err
	}
	return strings.SplitAfter(strings.TrimSuffix(string(text), "\n")+"\n", "\n")[:strings.Count(string(text), "\n")], nil
}

// merge marks the lines that a rendering without switch i does not have, and adds
// those that only it has. Lines of other switches that are off are no part of the
// comparison: the rendering that is compared has everything else on.
func merge(lines []line, less []string, i int) []line {
	var at []int // indexes of lines that count
	for n := range lines {
		if len(lines[n].off) == 0 {
			at = append(at, n)
		}
	}
	// Longest common subsequence.
	length := make([][]int, len(at)+1)
	for n := range length {
		length[n] = make([]int, len(less)+1)
	}
	for n := len(at) - 1; n >= 0; n-- {
		for m := len(less) - 1; m >= 0; m-- {
			if lines[at[n]].text == less[m] {
				length[n][m] = length[n+1][m+1] + 1
			} else {
				length[n][m] = max(length[n+1][m], length[n][m+1])
			}
		}
	}
	var out []line
	n, m, next := 0, 0, 0
	upTo := func(end int) { // lines of other switches keep their places
		for ; next < end; next++ {
			out = append(out, lines[next])
		}
	}
	for n < len(at) || m < len(less) {
		switch {
		case n < len(at) && m < len(less) && lines[at[n]].text == less[m]:
			upTo(at[n] + 1)
			n, m = n+1, m+1
		case m < len(less) && (n == len(at) || length[n][m+1] >= length[n+1][m]):
			if n < len(at) {
				upTo(at[n])
			} else {
				upTo(len(lines))
			}
			out = append(out, line{text: less[m], off: []int{i}})
			m++
		default:
			upTo(at[n])
			l := lines[at[n]]
			l.on = append(slices.Clone(l.on), i)
			out, next = append(out, l), at[n]+1
			n++
		}
	}
	upTo(len(lines))
	return out
}

// scalarLine is a line of a block style mapping or sequence, up to its scalar.
var scalarLine = regexp.MustCompile(`^( *(?:- )*(?:[A-Za-z0-9_./-]+: )?)(.*)$`)

// expressions puts expressions in place of words. A scalar that holds one is
// quoted as a whole, so that no value can be anything but text.
func (t templating) expressions(text string, ranged bool) string {
	body := strings.TrimSuffix(text, "\n")
	for word, expression := range t.maps {
		if key, _, found := strings.Cut(strings.TrimLeft(body, " "), ":"); found && key == word {
			indent := len(body) - len(strings.TrimLeft(body, " "))
			return fmt.Sprintf("{{- toYaml %s | nindent %d }}\n", expression, indent)
		}
	}
	words := map[string]string{}
	for word, expression := range t.words {
		words[word] = expression
	}
	if t.each != "" {
		words[t.each] = `join "," ` + t.list
		if ranged {
			words[t.each] = "$namespace"
		}
	}
	parts := scalarLine.FindStringSubmatch(body)
	var scalar string
	if parts == nil || yaml.Unmarshal([]byte(parts[2]), &scalar) != nil {
		return strings.ReplaceAll(text, "{{", `{{ "{{" }}`)
	}
	format, args, quoted := "", "", false
	for rest := scalar; rest != ""; {
		first, at := "", len(rest)
		for word := range words {
			// The longest of those that begin first: one word may begin another.
			if i := strings.Index(rest, word); i >= 0 && (i < at || i == at && len(word) > len(first)) {
				first, at = word, i
			}
		}
		format += strings.ReplaceAll(rest[:at], "%", "%%")
		rest = rest[at:]
		if first != "" {
			format, args, rest, quoted = format+"%v", args+" ("+words[first]+")", rest[len(first):], true
		}
	}
	if !quoted {
		return strings.ReplaceAll(text, "{{", `{{ "{{" }}`)
	}
	return parts[1] + "{{ printf " + strconv.Quote(format) + args + " | quote }}\n"
}
