package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// shell runs command lines: lists with ; && || and newlines, pipelines,
// redirections (< > >> 2>&1), quotes, $NAME ${NAME} $?, while, for and if. It is
// for tests in an image without a shell, not a POSIX shell: no functions, no
// globs, no arithmetic, no command substitution.
type shell struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	status         int
	vars           map[string]string
	exiting        bool
}

func newShell(stdin io.Reader, stdout, stderr io.Writer) *shell {
	return &shell{stdin: stdin, stdout: stdout, stderr: stderr, vars: make(map[string]string)}
}

// run runs one command with its arguments and returns its exit status.
func (s *shell) run(args []string) int {
	if len(args) == 0 {
		return 0
	}
	switch args[0] {
	case "sh", "bash", "ash":
		return s.sh(args[1:])
	case "exit":
		s.exiting = true
		if len(args) > 1 {
			s.status, _ = strconv.Atoi(args[1])
		}
		return s.status
	case "cd":
		dir := "/"
		if len(args) > 1 {
			dir = args[1]
		}
		if err := os.Chdir(dir); err != nil {
			return complain(s.stderr, "cd", err)
		}
		return 0
	case "export":
		for _, a := range args[1:] {
			if name, value, ok := strings.Cut(a, "="); ok {
				if err := os.Setenv(name, value); err != nil {
					return complain(s.stderr, "export", err)
				}
			}
		}
		return 0
	}
	if command, ok := commands()[args[0]]; ok {
		return command(s, args)
	}
	return s.external(args)
}

// external runs a program of the image.
func (s *shell) external(args []string) int {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.stdin, s.stdout, s.stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	fmt.Fprintf(s.stderr, "sh: %s: not found\n", args[0])
	return 127
}

// sh runs -c SCRIPT, a file, or lines from stdin (with a prompt on a terminal).
func (s *shell) sh(args []string) int {
	for len(args) > 0 && strings.HasPrefix(args[0], "-") && args[0] != "-c" {
		args = args[1:]
	}
	if len(args) > 1 && args[0] == "-c" {
		return s.script(args[1])
	}
	if len(args) > 0 {
		data, err := os.ReadFile(args[0])
		if err != nil {
			return complain(s.stderr, "sh", err)
		}
		return s.script(string(data))
	}
	prompt := ""
	if f, ok := s.stdin.(*os.File); ok {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			prompt = "/ # "
		}
	}
	// One byte at a time: what follows a command's line is the command's input.
	for lines := (lineReader{s.stdin}); !s.exiting; {
		_, _ = io.WriteString(s.stdout, prompt) // who left has no use for it
		line, err := lines.next()
		if line != "" {
			s.script(line)
		}
		if err != nil {
			break
		}
	}
	return s.status
}

func (s *shell) script(text string) int {
	tokens, err := lex(text)
	if err == nil { // read to the end before anything runs
		err = s.list(&parser{tokens: tokens}, nil, false)
	}
	if err == nil {
		err = s.list(&parser{tokens: tokens}, nil, true)
	}
	if err != nil {
		fmt.Fprintf(s.stderr, "sh: %v\n", err)
		s.status = 2
	}
	return s.status
}

// pipeline runs commands side by side, each one's output into the next.
func (s *shell) pipeline(stages [][]token) {
	if len(stages) == 1 {
		s.status = s.simple(stages[0])
		return
	}
	var wg sync.WaitGroup
	var in io.Reader = s.stdin
	for i, stage := range stages {
		sub := &shell{stdin: in, stdout: s.stdout, stderr: s.stderr, status: s.status, vars: s.vars}
		if i == len(stages)-1 {
			s.status = sub.simple(stage)
			if c, ok := in.(io.Closer); ok {
				c.Close() // the writer before gets an error, as with SIGPIPE
			}
			break
		}
		r, w, err := os.Pipe()
		if err != nil {
			s.status = complain(s.stderr, "sh", err)
			return
		}
		sub.stdout = w
		previous := in
		wg.Go(func() {
			sub.simple(stage)
			w.Close()
			if c, ok := previous.(*os.File); ok && c != os.Stdin {
				c.Close()
			}
		})
		in = r
	}
	wg.Wait()
}

// simple runs one command after its assignments and redirections.
func (s *shell) simple(words []token) int {
	sub := *s
	sub.exiting = false
	var args []string
	for i := 0; i < len(words); i++ {
		w := words[i]
		if w.op != "" {
			if w.op == "2>&1" {
				sub.stderr = sub.stdout
				continue
			}
			if i+1 == len(words) {
				fmt.Fprintf(s.stderr, "sh: no file after %s\n", w.op)
				return 2
			}
			i++
			closer, err := sub.redirect(w.op, words[i].expand(s))
			if err != nil {
				return complain(s.stderr, "sh", err)
			}
			defer closer.Close()
			continue
		}
		word := w.expand(s)
		if name, value, ok := strings.Cut(word, "="); ok && len(args) == 0 && isName(name) {
			s.vars[name] = value
			continue
		}
		if word == "" && !w.quoted {
			continue
		}
		args = append(args, word)
	}
	status := sub.run(args)
	s.exiting = s.exiting || sub.exiting
	return status
}

func (s *shell) redirect(op, path string) (io.Closer, error) {
	var f *os.File
	var err error
	switch op {
	case "<":
		f, err = os.Open(path)
		s.stdin = f
	case ">>", "2>>":
		f, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	default:
		f, err = os.Create(path)
	}
	if err != nil {
		return nil, err
	}
	switch op {
	case ">", ">>":
		s.stdout = f
	case "2>", "2>>":
		s.stderr = f
	}
	return f, nil
}

func (s *shell) lookup(name string) string {
	if name == "?" {
		return strconv.Itoa(s.status)
	}
	if v, ok := s.vars[name]; ok {
		return v
	}
	return os.Getenv(name)
}

// lineReader reads lines without reading ahead.
type lineReader struct{ r io.Reader }

func (l lineReader) next() (string, error) {
	var line []byte
	var b [1]byte
	for {
		n, err := l.r.Read(b[:])
		if n == 1 && b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[:n]...)
		if err != nil {
			return string(line), err
		}
	}
}
