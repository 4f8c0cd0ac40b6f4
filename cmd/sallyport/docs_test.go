package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
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

// Every command that docs/az-commands.md names exists with the arguments shown,
// and is run by the story named.
func TestCommandsOfAz(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../docs/az-commands.md")
	if err != nil {
		t.Fatal(err)
	}
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
