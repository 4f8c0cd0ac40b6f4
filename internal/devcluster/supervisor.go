package devcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// supervisor starts and owns the processes of one cluster.
type supervisor struct {
	dir      string
	detached bool
	journal  *journal
	thread   *thread

	mu    sync.Mutex // guards procs: nodes start side by side
	procs []*process
}

// process is a child; exited is closed once it has ended and was reaped.
type process struct {
	record
	log    string
	exited chan struct{}
	err    error // what Wait returned; read after exited
}

// command says how to start one process.
type command struct {
	name   string // also of its log file
	rank   int
	path   string
	args   []string // args[0] is the program's name
	env    []string
	netns  string // path, empty for this process's own
	isNode bool   // gets namespaces of its own
	stdin  *os.File
}

// start runs c and records it. The child's environment is its own: neither
// proxies nor a KUBECONFIG of the user's reach a cluster.
func (s *supervisor) start(c command) (*process, error) {
	p := &process{log: filepath.Join(s.dir, dirLogs, c.name+".log"), exited: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := &exec.Cmd{
		Path: c.path, Args: c.args, Dir: s.dir, Stdout: log, Stderr: log,
		Env: append([]string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, envMark + "=" + s.journal.snapshot().ID,
		}, c.env...),
	}
	if c.stdin != nil {
		cmd.Stdin = c.stdin
	}
	setProcessAttributes(cmd, s.detached, c.isNode)
	if err := s.thread.do(c.netns, cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	p.record = record{Name: c.name, Rank: c.rank, PID: cmd.Process.Pid}
	p.Started, err = startTime(p.PID)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil // ended at once: whoever waits for it reads the log
	}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	s.mu.Lock()
	s.procs = append(s.procs, p)
	s.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	return p, s.journal.update(func(st *state) { st.Processes = append(st.Processes, p.record) })
}

// failure returns why a process ended, or nil while all run.
func (s *supervisor) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.procs {
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended (%v); the end of %s:\n%s", p.Name, p.err, p.log, tail(p.log)) //nolint:errorlint // nil after a clean end
		default:
		}
	}
	return nil
}

// stop ends all processes in order and reaps them.
func (s *supervisor) stop(ctx context.Context) error {
	err := stopProcesses(ctx, s.journal.snapshot())
	if err == nil {
		s.mu.Lock()
		for _, p := range s.procs {
			<-p.exited
		}
		s.mu.Unlock()
	}
	s.thread.close()
	return err
}

// tail returns the last lines of a log for an error message.
func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(bytes.TrimSpace(data)), "\n")
	if len(lines) > 12 {
		lines = lines[len(lines)-12:]
	}
	for i, l := range lines {
		if len(l) > 400 {
			lines[i] = l[:400] + "…"
		}
	}
	return strings.Join(lines, "\n")
}
