package nodeinit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	socketLimit = 30 * time.Second // for a process to open its socket
	stopLimit   = 2 * time.Second  // for processes to end after SIGTERM
)

// Run reads a Spec from r, makes the node and returns when it was told to stop
// (SIGTERM) or one of its processes ended, which is an error. It must be
// process 1 of new mount, PID, network, UTS and IPC namespaces.
func Run(r io.Reader, log *slog.Logger) error {
	var spec Spec
	if err := json.NewDecoder(r).Decode(&spec); err != nil {
		return fmt.Errorf("read the node's specification: %w", err) // EOF: the launcher is gone
	}
	if os.Getpid() != 1 {
		return errors.New("not the first process of a PID namespace")
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	if err := syscall.Sethostname([]byte(spec.Name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := makeRoot(spec); err != nil {
		return fmt.Errorf("make the node's file system: %w", err)
	}
	n := &node{log: log, ended: make(chan exit), names: make(map[int]string)}
	for _, p := range spec.Processes {
		if err := n.start(p); err != nil {
			return err
		}
	}
	return n.supervise(stop)
}

// node holds the running processes; names is used by one goroutine only.
type node struct {
	log   *slog.Logger
	ended chan exit
	names map[int]string
}

type exit struct {
	pid    int
	status syscall.WaitStatus
}

func (n *node) start(p Process) error {
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	pid, err := syscall.ForkExec(p.Path, p.Args, &syscall.ProcAttr{
		Dir: "/", Env: p.Env, Files: []uintptr{null.Fd(), log.Fd(), log.Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	n.names[pid] = p.Name
	n.log.Info("process started", "name", p.Name, "pid", pid)
	if p.Socket == "" {
		return nil
	}
	deadline := time.Now().Add(socketLimit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("unix", p.Socket)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not answer: %w", p.Name, err)
		}
		<-tick.C
	}
}

// reap waits for every child, also those that orphans became. os/exec is not
// used here, because it would wait for the same children.
func (n *node) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil: // ECHILD: nothing left
			close(n.ended)
			return
		default:
			n.ended <- exit{pid, status}
		}
	}
}

// supervise returns when the node should end; the kernel then ends containers
// and shims together with this process, so the reaper needs no other owner.
func (n *node) supervise(stop <-chan os.Signal) error {
	go n.reap()
	for {
		select {
		case <-stop:
			n.stop()
			return nil
		case e, ok := <-n.ended:
			if !ok {
				return errors.New("every process has ended")
			}
			if name, ours := n.names[e.pid]; ours {
				return fmt.Errorf("%s ended: exit status %d, signal %d", name, e.status.ExitStatus(), e.status.Signal())
			}
		}
	}
}

func (n *node) stop() {
	for pid := range n.names {
		_ = syscall.Kill(pid, syscall.SIGTERM)
	}
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	for len(n.names) > 0 {
		select {
		case e, ok := <-n.ended:
			if !ok {
				return
			}
			delete(n.names, e.pid)
		case <-limit.C:
			return
		}
	}
}
