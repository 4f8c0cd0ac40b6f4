package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// command reads from and writes to the shell's streams and returns a status.
type command func(s *shell, args []string) int

// commands are the small programs of the test image. It is a function because
// the shell's own code refers to it.
func commands() map[string]command {
	return map[string]command{
		"true":      func(*shell, []string) int { return 0 },
		"false":     func(*shell, []string) int { return 1 },
		"echo":      echo,
		"cat":       cat,
		"sleep":     sleep,
		"env":       env,
		"pwd":       pwd,
		"hostname":  hostname,
		"id":        id,
		"date":      date,
		"ls":        ls,
		"mkdir":     mkdir,
		"rm":        rm,
		"test":      test,
		"[":         test,
		"head":      head,
		"tail":      tail,
		"wc":        wc,
		"seq":       seq,
		"sha256sum": sha256sum,
		"tar":       tarCommand,
		"fill":      fill,
		"fetch":     fetch,
		"serve":     serve,
	}
}

func echo(s *shell, args []string) int {
	end := "\n"
	if len(args) > 1 && args[1] == "-n" {
		args, end = args[1:], ""
	}
	_, err := io.WriteString(s.stdout, strings.Join(args[1:], " ")+end)
	return finish(s, args[0], err)
}

func finish(s *shell, name string, err error) int {
	if err != nil {
		return complain(s.stderr, name, err)
	}
	return 0
}

// files calls do for each file named by args, or for stdin.
func files(s *shell, args []string, do func(name string, r io.Reader) error) error {
	if len(args) == 0 {
		return do("-", s.stdin)
	}
	for _, name := range args {
		if name == "-" {
			if err := do(name, s.stdin); err != nil {
				return err
			}
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = do(name, f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func cat(s *shell, args []string) int {
	return finish(s, "cat", files(s, args[1:], func(_ string, r io.Reader) error {
		_, err := io.Copy(s.stdout, r)
		return err
	}))
}

func sleep(s *shell, args []string) int {
	if len(args) != 2 {
		return complain(s.stderr, "sleep", errors.New("want one number of seconds"))
	}
	if args[1] == "infinity" {
		select {}
	}
	seconds, err := strconv.ParseFloat(strings.TrimSuffix(args[1], "s"), 64)
	if err != nil {
		return complain(s.stderr, "sleep", err)
	}
	<-time.After(time.Duration(seconds * float64(time.Second)))
	return 0
}

func env(s *shell, _ []string) int {
	all := os.Environ()
	slices.Sort(all)
	_, err := fmt.Fprintln(s.stdout, strings.Join(all, "\n"))
	return finish(s, "env", err)
}

func pwd(s *shell, _ []string) int {
	dir, err := os.Getwd()
	if err == nil {
		_, err = fmt.Fprintln(s.stdout, dir)
	}
	return finish(s, "pwd", err)
}

func hostname(s *shell, _ []string) int {
	name, err := os.Hostname()
	if err == nil {
		_, err = fmt.Fprintln(s.stdout, name)
	}
	return finish(s, "hostname", err)
}

func id(s *shell, _ []string) int {
	_, err := fmt.Fprintf(s.stdout, "uid=%d gid=%d\n", os.Getuid(), os.Getgid())
	return finish(s, "id", err)
}

func date(s *shell, _ []string) int {
	_, err := fmt.Fprintln(s.stdout, time.Now().UTC().Format(time.RFC3339Nano))
	return finish(s, "date", err)
}

func ls(s *shell, args []string) int {
	names := slices.DeleteFunc(slices.Clone(args[1:]), func(a string) bool { return strings.HasPrefix(a, "-") })
	if len(names) == 0 {
		names = []string{"."}
	}
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return complain(s.stderr, "ls", err)
		}
		if !info.IsDir() {
			fmt.Fprintln(s.stdout, name)
			continue
		}
		entries, err := os.ReadDir(name)
		if err != nil {
			return complain(s.stderr, "ls", err)
		}
		for _, e := range entries {
			fmt.Fprintln(s.stdout, e.Name())
		}
	}
	return 0
}

func mkdir(s *shell, args []string) int {
	for _, dir := range args[1:] {
		if dir == "-p" {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return complain(s.stderr, "mkdir", err)
		}
	}
	return 0
}

func rm(s *shell, args []string) int {
	for _, path := range args[1:] {
		if strings.HasPrefix(path, "-") {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return complain(s.stderr, "rm", err)
		}
	}
	return 0
}

// test knows -e, -f, -d, -n, -z, = and !=.
func test(s *shell, args []string) int {
	if args[0] == "[" {
		if args[len(args)-1] != "]" {
			return complain(s.stderr, "[", errors.New("missing ]"))
		}
		args = args[:len(args)-1]
	}
	yes := false
	switch {
	case len(args) == 3:
		info, err := os.Stat(args[2])
		yes = args[1] == "-e" && err == nil ||
			args[1] == "-f" && err == nil && info.Mode().IsRegular() ||
			args[1] == "-d" && err == nil && info.IsDir() ||
			args[1] == "-n" && args[2] != "" || args[1] == "-z" && args[2] == ""
	case len(args) == 4:
		yes = args[2] == "=" && args[1] == args[3] || args[2] == "!=" && args[1] != args[3]
	}
	if yes {
		return 0
	}
	return 1
}

// count reads -cN, -c N, -nN or -n N; lines is true for -n and the default of 10.
func count(args []string) (n int64, plus, lines bool, rest []string, err error) {
	if len(args) == 0 || !strings.HasPrefix(args[0], "-") {
		return 10, false, true, args, nil
	}
	lines = args[0][1:2] == "n"
	text, rest := args[0][2:], args[1:]
	if text == "" && len(rest) > 0 {
		text, rest = rest[0], rest[1:]
	}
	plus = strings.HasPrefix(text, "+")
	n, err = strconv.ParseInt(strings.TrimPrefix(text, "+"), 10, 64)
	return n, plus, lines, rest, err
}

func head(s *shell, args []string) int {
	n, _, lines, rest, err := count(args[1:])
	if err != nil {
		return complain(s.stderr, "head", err)
	}
	return finish(s, "head", files(s, rest, func(_ string, r io.Reader) error {
		if !lines {
			_, err := io.Copy(s.stdout, io.LimitReader(r, n))
			return err
		}
		for in := (lineReader{r}); n > 0; n-- {
			line, err := in.next()
			if line != "" || err == nil {
				fmt.Fprintln(s.stdout, line)
			}
			if err != nil {
				break
			}
		}
		return nil
	}))
}

// tail knows -c +N, which kubectl cp resumes with, and -n N.
func tail(s *shell, args []string) int {
	n, plus, lines, rest, err := count(args[1:])
	if err != nil {
		return complain(s.stderr, "tail", err)
	}
	return finish(s, "tail", files(s, rest, func(_ string, r io.Reader) error {
		if plus && !lines {
			if _, err := io.CopyN(io.Discard, r, max(n-1, 0)); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			_, err := io.Copy(s.stdout, r)
			return err
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		from := max(0, len(data)-int(n))
		if lines {
			from = len(data)
			for ; n > 0 && from > 0; n-- {
				from = bytes.LastIndexByte(data[:from-1], '\n') + 1
			}
		}
		_, err = s.stdout.Write(data[from:])
		return err
	}))
}

// wc counts bytes, or lines with -l.
func wc(s *shell, args []string) int {
	rest, lines := args[1:], false
	for len(rest) > 0 && strings.HasPrefix(rest[0], "-") {
		lines = lines || rest[0] == "-l"
		rest = rest[1:]
	}
	return finish(s, "wc", files(s, rest, func(_ string, r io.Reader) error {
		var total int
		buf := make([]byte, 64<<10)
		for {
			n, err := r.Read(buf)
			if lines {
				total += bytes.Count(buf[:n], []byte("\n"))
			} else {
				total += n
			}
			if errors.Is(err, io.EOF) {
				_, err := fmt.Fprintln(s.stdout, total)
				return err
			}
			if err != nil {
				return err
			}
		}
	}))
}

func seq(s *shell, args []string) int {
	last, err := strconv.Atoi(args[len(args)-1])
	if err != nil {
		return complain(s.stderr, "seq", err)
	}
	for i := 1; i <= last; i++ {
		if _, err := fmt.Fprintln(s.stdout, i); err != nil {
			return 1
		}
	}
	return 0
}

func sha256sum(s *shell, args []string) int {
	return finish(s, "sha256sum", files(s, args[1:], func(name string, r io.Reader) error {
		h := sha256.New()
		if _, err := io.Copy(h, r); err != nil {
			return err
		}
		_, err := fmt.Fprintf(s.stdout, "%x  %s\n", h.Sum(nil), name)
		return err
	}))
}

// fill writes N bytes, the same every time: a big answer without a big file.
func fill(s *shell, args []string) int {
	n, err := strconv.ParseInt(args[len(args)-1], 10, 64)
	if err == nil {
		_, err = io.CopyN(s.stdout, &pattern{}, n)
	}
	return finish(s, "fill", err)
}

// pattern is an endless sequence of lines.
type pattern struct{ at int }

func (f *pattern) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = "0123456789abcde\n"[f.at%16]
		f.at++
	}
	return len(p), nil
}

// fetch writes the answer to an HTTP GET.
func fetch(s *shell, args []string) int {
	if len(args) != 2 {
		return complain(s.stderr, "fetch", errors.New("want one URL"))
	}
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get(args[1])
	if err != nil {
		return complain(s.stderr, "fetch", err)
	}
	defer resp.Body.Close()
	_, err = io.Copy(s.stdout, resp.Body)
	if err == nil && resp.StatusCode >= 400 {
		err = errors.New(resp.Status)
	}
	return finish(s, "fetch", err)
}

// serve answers HTTP on PORT: /fill/N with N bytes, a POST with the number of
// bytes it got, anything else with the request's method, path and headers.
func serve(s *shell, args []string) int {
	if len(args) != 2 {
		return complain(s.stderr, "serve", errors.New("want one port"))
	}
	l, err := net.Listen("tcp", ":"+args[1])
	if err != nil {
		return complain(s.stderr, "serve", err)
	}
	fmt.Fprintln(s.stdout, "serving on", l.Addr())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /fill/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.PathValue("n"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = io.CopyN(w, &pattern{}, n)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s %d bytes\n", r.Method, r.URL, n)
		_ = r.Header.Write(w)
	})
	server := http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	return finish(s, "serve", server.Serve(l))
}
