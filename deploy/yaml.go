package deploy

import (
	"bytes"
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/rbac"
)

// YAML writes objects as one bundle, each with its reasons as comments above it
// and above each of its rules. The bundle ends with a newline.
func YAML(header string, objects []rbac.Explained) ([]byte, error) {
	var b bytes.Buffer
	comment(&b, header)
	for _, e := range objects {
		data, err := yaml.Marshal(e.Object)
		if err != nil {
			return nil, fmt.Errorf("render %s: %w", rbac.Key(e.Object), err)
		}
		if b.Len() > 0 {
			b.WriteString("---\n")
		}
		comment(&b, e.Why)
		inRules, n := false, 0
		for line := range strings.Lines(string(data)) {
			// Top-level keys stand at the margin, and so do the dashes below them.
			if line[0] != ' ' && line[0] != '-' {
				inRules = strings.HasPrefix(line, "rules:")
			}
			if inRules && line[0] == '-' {
				if n < len(e.Rules) {
					comment(&b, e.Rules[n])
				}
				n++
			}
			if line != "status: {}\n" {
				b.WriteString(line)
			}
		}
	}
	return b.Bytes(), nil
}

func comment(b *bytes.Buffer, text string) {
	for line := range strings.SplitSeq(text, "\n") {
		for _, l := range wrap(line, 110) {
			b.WriteString(strings.TrimRight("# "+l, " ") + "\n")
		}
	}
}

// wrap breaks a line between words; an indented line (a command) stays whole.
func wrap(line string, width int) []string {
	if line == "" || line[0] == ' ' || len(line) <= width {
		if line == "" {
			return nil
		}
		return []string{line}
	}
	var out []string
	current := ""
	for word := range strings.FieldsSeq(line) {
		if current != "" && len(current)+1+len(word) > width {
			out = append(out, current)
			current = ""
		}
		if current != "" {
			current += " "
		}
		current += word
	}
	return append(out, current)
}
