package operator

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestArgv(t *testing.T) {
	shell := func(s string) []string { return []string{"/bin/sh", "-c", s} }
	for command, want := range map[string][]string{
		"/train -steps 10":         {"/train", "-steps", "10"},
		` /train  --name 'a b' `:   {"/train", "--name", "a b"},
		`/train "a \"b\" c" d\ e`:  {"/train", `a "b" c`, "d e"},
		`/train ''`:                {"/train", ""},
		"python train.py > log":    shell("python train.py > log"),
		"echo $HOME":               shell("echo $HOME"),
		`echo "$HOME"`:             shell(`echo "$HOME"`),
		"a && b":                   shell("a && b"),
		"A=1 b":                    shell("A=1 b"),
		"ls *.py":                  shell("ls *.py"),
		"one\ntwo":                 shell("one\ntwo"),
		"unclosed 'quote":          shell("unclosed 'quote"),
		`trailing \`:               shell(`trailing \`),
		"pip install x; python y ": shell("pip install x; python y "),
	} {
		if got := argv(command); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", command, got, want)
		}
	}
	if literal("$(HOME) $HOME $$(x)") != "$$(HOME) $HOME $$$(x)" {
		t.Error("Kubernetes would expand it")
	}
}

// What is run without a shell is what the shell would have run.
func FuzzSplitAgreesWithTheShell(f *testing.F) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		f.Skip("no shell to compare with")
	}
	for _, s := range []string{"a b", `a "b c" 'd'`, `a\ b`, `""`, `a'b'"c"`, `\a`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		words, ok := split(s)
		if !ok || len(words) == 0 || strings.ContainsRune(s, 0) || len(s) > 200 {
			return
		}
		out, err := exec.Command(sh, "-c", `printf '%s\0' `+s).Output()
		if err != nil {
			t.Fatalf("%q: the shell refuses it: %v", s, err)
		}
		if want := strings.Join(words, "\x00") + "\x00"; string(out) != want {
			t.Errorf("%q: %q, the shell has %q", s, want, out)
		}
	})
}
