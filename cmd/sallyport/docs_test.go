package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// table reads the rows of a Markdown table below a heading.
func table(t *testing.T, text, heading string) [][]string {
	t.Helper()
	_, text, ok := strings.Cut(text, heading)
	if !ok {
		t.Fatalf("there is no %q", heading)
	}
	if i := strings.Index(text, "\n## "); i >= 0 {
		text = text[:i]
	}
	var rows [][]string
	for line := range strings.SplitSeq(text, "\n") {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if len(cells) != 3 {
			t.Errorf("%q has %d cells", line, len(cells))
			continue
		}
		rows = append(rows, []string{strings.Trim(cells[0], "`"), cells[1], cells[2]})
	}
	if len(rows) == 0 {
		t.Fatalf("no rows below %q", heading)
	}
	return rows
}

// story is the text of a story.
func story(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "story", name+".txtar"))
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

// every visits the paths of all commands that do something.
func every(cmd *cobra.Command, visit func(path string)) {
	if !cmd.HasSubCommands() && !cmd.Hidden {
		visit(strings.TrimPrefix(cmd.CommandPath(), "sallyport "))
	}
	for _, c := range cmd.Commands() {
		every(c, visit)
	}
}

// runs tells whether a path is a command that does something.
func runs(root *cobra.Command, path string) bool {
	cmd, rest, err := root.Find(strings.Fields(path))
	return err == nil && len(rest) == 0 && !cmd.HasSubCommands()
}

// Every command that docs/az-commands.md names exists with the arguments shown,
// and is run by the story named; and it names every command.
func TestCommandsOfAz(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../docs/az-commands.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, row := range table(t, string(data), "# The commands of az") {
		words := strings.Fields(row[0])
		var path, arguments []string
		for i, w := range words[1:] {
			if strings.HasPrefix(w, "-") {
				arguments = words[1+i:]
				break
			}
			path = append(path, w)
		}
		listed[strings.Join(path, " ")] = true
		a := &app{streams: streams{out: io.Discard, err: io.Discard}}
		cmd, rest, err := a.tree().Find(path)
		if err != nil || len(rest) > 0 || cmd.HasSubCommands() {
			t.Errorf("%s: no such command: %v %v", row[0], rest, err)
			continue
		}
		for _, w := range arguments {
			if name, ok := strings.CutPrefix(w, "--"); ok && cmd.Flags().Lookup(name) == nil && cmd.InheritedFlags().Lookup(name) == nil {
				t.Errorf("%s has no argument --%s", cmd.CommandPath(), name)
			}
		}
		run := regexp.MustCompile(`(?m)^(fails \d )?(capture \w+ )?sallyport ` + strings.Join(path, " ") + `( |$)`)
		if !run.MatchString(story(t, row[2])) {
			t.Errorf("the story %s does not run sallyport %s", row[2], strings.Join(path, " "))
		}
	}
	for _, row := range table(t, string(data), "## Only here") {
		doc, _, _ := strings.Cut(strings.TrimSuffix(row[2][strings.LastIndex(row[2], "(")+1:], ")"), "#")
		told, err := os.ReadFile(filepath.Join("..", "..", "docs", doc))
		if err != nil {
			t.Errorf("%s: %v", row[0], err)
		}
		noun := ""
		for i, path := range strings.Split(row[0], "`, `") {
			if i == 0 {
				noun = path[:strings.LastIndex(path, " ")+1]
			} else {
				path = noun + path
			}
			listed[path] = true
			if a := (&app{}); !runs(a.tree(), path) {
				t.Errorf("%s: no such command", path)
			}
		}
		if word := strings.TrimSuffix(noun, " "); !strings.Contains(string(told), word) {
			t.Errorf("%s does not speak of %s", doc, word)
		}
	}
	every((&app{}).tree(), func(path string) {
		if !listed[path] {
			t.Errorf("docs/az-commands.md does not list %s", path)
		}
	})
	for _, row := range table(t, string(data), "## Refused on purpose") {
		text := story(t, row[2])
		wrong := strings.TrimPrefix(row[0], "az ")
		if i := strings.Index(wrong, "–"); i >= 0 {
			wrong = wrong[i:]
		} else if i := strings.Index(wrong, "Microsoft."); i >= 0 {
			wrong = wrong[i:]
		}
		if !strings.Contains(text, wrong) || !strings.Contains(text, row[1]) {
			t.Errorf("the story %s does not show that %q is answered with %q", row[2], wrong, row[1])
		}
	}
}
