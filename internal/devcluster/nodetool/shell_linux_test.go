package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestShell(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("PLACE", "here")
	for _, tt := range []struct {
		script, stdin, stdout, stderr string
		status                        int
	}{
		{script: "echo a  'b  c' \"d $PLACE\" ${PLACE}x \\$", stdout: "a b  c d here herex $\n"},
		{script: "true && echo yes || echo no; false && echo yes || echo no", stdout: "yes\nno\n"},
		{script: "echo one; exit 3; echo two", stdout: "one\n", status: 3},
		{script: "false; echo $?", stdout: "1\n"},
		{script: "X=1; while [ $X != 111 ]; do X=${X}1; echo $X; done; echo end", stdout: "11\n111\nend\n"},
		{script: "for i in a b; do for j in 1 2; do echo $i$j; done; done", stdout: "a1\na2\nb1\nb2\n"},
		{script: "for i in; do echo $i; done; echo none", stdout: "none\n"},
		{script: "if test -d /; then echo dir; else echo file; fi", stdout: "dir\n"},
		{script: "if test -f /; then echo file\nelse\necho dir; fi", stdout: "dir\n"},
		{script: "seq 100000 | head -n 2 | wc -l", stdout: "2\n"},
		{script: "fill 100 | wc -c", stdout: "100\n"},
		{script: "seq 5 | tail -n 2; echo abcdef | tail -c+3", stdout: "4\n5\ncdef\n"},
		{script: "echo hi > f; echo ho >> f; cat < f; rm f; cat f 2>&1 | wc -l", stdout: "hi\nho\n1\n"},
		{script: "cat", stdin: "through", stdout: "through"},
		{script: "sh", stdin: "echo first\ncat\nrest", stdout: "first\nrest"},
		{script: "nonsense", stderr: "sh: nonsense: not found\n", status: 127},
		{script: "while true; do echo x", stderr: "sh: \"done\" expected\n", status: 2},
		{script: "while true; do exit 4; done", status: 4},
		{script: "echo 'a", stderr: "sh: unterminated '\n", status: 2},
		{script: "echo a | | cat", stderr: "sh: a command is missing\n", status: 2},
		{script: "# nothing\n", status: 0},
	} {
		var stdout, stderr bytes.Buffer
		s := newShell(strings.NewReader(tt.stdin), &stdout, &stderr)
		status := s.run([]string{"sh", "-c", tt.script})
		if status != tt.status || stdout.String() != tt.stdout || stderr.String() != tt.stderr {
			t.Errorf("sh -c %q = %d %q %q, want %d %q %q",
				tt.script, status, stdout.String(), stderr.String(), tt.status, tt.stdout, tt.stderr)
		}
	}
}

func TestTar(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("src/deep", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"src/a": "A", "src/deep/b": strings.Repeat("B", 1<<20)} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var stderr bytes.Buffer
	s := newShell(nil, &stderr, &stderr)
	if status := s.run([]string{"sh", "-c", "mkdir dst && tar cf - src | tar --no-same-owner -xmf - -C dst"}); status != 0 {
		t.Fatalf("status %d: %s", status, stderr.String())
	}
	for _, name := range []string{"src/a", "src/deep/b"} {
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join("dst", name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s after tar: %d bytes, %v; want %d", name, len(got), err, len(want))
		}
	}
}
