package devcluster

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// The phases of [Build], in order.
const (
	PhaseWait     = "wait for another build"
	PhaseDownload = "download modules"
	PhaseCompile  = "compile"
	PhaseLink     = "link"
)

// Progress is where a build stands.
type Progress struct {
	Phase     string
	Package   string        // what is worked on; may be empty
	Done      int           // packages compiled
	Total     int           // packages to compile; 0 while unknown
	Elapsed   time.Duration // since the start of Build
	Remaining time.Duration // a guess from the packages so far; 0 while unknown
}

// String is one line for a person.
func (p Progress) String() string {
	s := p.Phase
	if p.Total > 0 {
		s += fmt.Sprintf(" %d/%d packages", p.Done, p.Total)
	}
	s += fmt.Sprintf(", %s elapsed", p.Elapsed.Round(time.Second))
	if p.Remaining > 0 {
		s += fmt.Sprintf(", about %s left", p.Remaining.Round(time.Second))
	}
	return s
}

// build compiles into a temporary file beside the binary and renames it.
func (t target) build(ctx context.Context, started time.Time, progress func(Progress)) error {
	meter := &meter{started: started, report: progress, phase: PhaseDownload}
	stop := meter.run()
	defer stop()

	total, err := t.countStale(ctx, meter)
	if err != nil {
		return err
	}
	meter.compile(total)

	tmp, err := os.CreateTemp(filepath.Dir(t.binary), ".build-*")
	if err != nil {
		return fmt.Errorf("build devcluster: %w", err)
	}
	tmp.Close()
	defer os.Remove(tmp.Name())

	args := append([]string{"build", "-v", "-o", tmp.Name()}, t.flags...)
	cmd := goCommand(ctx, t.source, append(args, t.pkg)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("build devcluster: %w", err)
	}
	said := meter.read(bufio.NewScanner(stderr))
	drain(stderr)
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("build devcluster: stopped (the next build goes on from here): %w", ctx.Err())
		}
		return fmt.Errorf("build devcluster: %w: %s", err, strings.Join(said, "\n"))
	}
	if err := os.Chmod(tmp.Name(), 0o755); err != nil {
		return fmt.Errorf("build devcluster: %w", err)
	}
	if err := os.Rename(tmp.Name(), t.binary); err != nil {
		return fmt.Errorf("build devcluster: %w", err)
	}
	return nil
}

// countStale downloads the modules and counts the packages that Go's build
// cache does not hold yet.
func (t target) countStale(ctx context.Context, m *meter) (int, error) {
	download := goCommand(ctx, t.source, "list", "-deps", "-f", "{{.Stale}}", t.pkg)
	var out bytes.Buffer
	download.Stdout = &out
	stderr, err := download.StderrPipe()
	if err != nil {
		return 0, err
	}
	if err := download.Start(); err != nil {
		return 0, fmt.Errorf("list devcluster's packages: %w", err)
	}
	said := m.read(bufio.NewScanner(stderr))
	drain(stderr)
	if err := download.Wait(); err != nil {
		if ctx.Err() != nil {
			return 0, fmt.Errorf("list devcluster's packages: %w", ctx.Err())
		}
		return 0, fmt.Errorf("list devcluster's packages: %w: %s", err, strings.Join(said, "\n"))
	}
	total := 0
	for line := range strings.Lines(out.String()) {
		if strings.TrimSpace(line) == "true" {
			total++
		}
	}
	return total, nil
}

// meter turns the go command's output into Progress. mu guards the fields
// below it: the reader and the ticker both report.
type meter struct {
	started time.Time
	report  func(Progress)

	mu          sync.Mutex
	phase, pkg  string
	done, total int
	compiling   time.Time
}

// run reports four times a second until the returned function is called.
func (m *meter) run() (stop func()) {
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				m.report(m.progress())
			case <-quit:
				return
			}
		}
	}()
	return func() { close(quit); <-ended }
}

func (m *meter) compile(total int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.phase, m.total, m.compiling = PhaseCompile, total, time.Now()
}

// read follows the go command and returns the lines that are not progress.
func (m *meter) read(lines *bufio.Scanner) (said []string) {
	for lines.Scan() {
		line := lines.Text()
		m.mu.Lock()
		switch {
		case strings.HasPrefix(line, "go: downloading "):
			m.pkg = strings.TrimPrefix(line, "go: downloading ")
		case m.phase == PhaseCompile && !strings.ContainsAny(line, " \t:"):
			m.done++
			m.pkg = line
			// go -v names a package when it starts on it; the main package is last.
			if m.done >= m.total || line == productModule+"/devcluster" {
				m.phase = PhaseLink
			}
		case len(said) < 20:
			said = append(said, line)
		}
		m.mu.Unlock()
	}
	if err := lines.Err(); err != nil && !errors.Is(err, os.ErrClosed) {
		said = append(said, err.Error())
	}
	return said
}

func (m *meter) progress() Progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := Progress{Phase: m.phase, Package: m.pkg, Done: m.done, Total: m.total, Elapsed: time.Since(m.started)}
	if m.phase == PhaseCompile && m.done >= 50 && m.total > m.done {
		per := time.Since(m.compiling) / time.Duration(m.done)
		p.Remaining = per * time.Duration(m.total-m.done)
	}
	return p
}
