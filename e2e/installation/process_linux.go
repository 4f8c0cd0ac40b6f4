package installation

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Command is a program to run.
type Command struct {
	Name  string // of its log, <Name>.log
	Path  string
	Args  []string
	Env   []string
	NetNS string // network namespace to run in; "": the test's
}

// Process is a running program. It dies with the test process.
type Process struct {
	Command
	Log string // file

	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait; read after done
}

// start runs c; its output is appended to a log in dir.
func start(dir string, c Command) (*Process, error) {
	p := &Process{Command: c, Log: filepath.Join(dir, c.Name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	path, args := c.Path, c.Args
	if c.NetNS != "" {
		path, args = "nsenter", append([]string{"--net=/run/netns/" + c.NetNS, "--", c.Path}, c.Args...)
	}
	p.cmd = exec.Command(path, args...)
	p.cmd.Dir, p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = dir, append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, c.Env...), log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID is the process' id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.done }

// Stop sends SIGTERM, after bound SIGKILL, and waits. It returns what the
// process ended with, nil after a clean stop.
func (p *Process) Stop(bound time.Duration) error {
	_ = p.Signal(syscall.SIGCONT) // a frozen one would never hear it
	_ = p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() && s.Signal() == syscall.SIGTERM {
			return nil // it has no handler of its own
		}
		return p.err
	case <-time.After(bound):
		return errors.Join(fmt.Errorf("%s did not stop within %s", p.Name, bound), p.Kill())
	}
}

// Kill sends SIGKILL and waits.
func (p *Process) Kill() error {
	err := p.Signal(syscall.SIGKILL)
	<-p.done
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Failed says that the process has ended by itself, with the end of its log.
func (p *Process) Failed() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s has ended: %w\n%s", p.Name, p.err, tail(p.Log, 2000))
	default:
		return nil
	}
}

func tail(file string, n int) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-n):])
}

// Eventually asks until ready returns nil or the bound has passed, and then says
// what was missing. It asks often at first; then a tenth of what it has waited
// lies between two asks, so that many that wait leave the machine to what they
// wait for.
func Eventually(ctx context.Context, what string, bound time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	begun := time.Now()
	var err error
	for {
		last := ready(ctx)
		if last == nil {
			return nil
		}
		if err == nil || ctx.Err() == nil { // not what the bound itself broke off
			err = last
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s until %s: %w", bound, what, err)
		case <-time.After(min(max(time.Since(begun)/10, 10*time.Millisecond), 250*time.Millisecond)):
		}
	}
}
