package devcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// thread runs functions on one operating system thread that lives until close.
// Two kernel features ask for it: a parent-death signal is sent when the thread
// that started the child ends, and a network namespace belongs to a thread.
type thread struct {
	calls chan func()
	ended chan struct{}
}

func newThread() *thread {
	t := &thread{calls: make(chan func()), ended: make(chan struct{})}
	go func() {
		defer close(t.ended)
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		for call := range t.calls {
			call()
		}
	}()
	return t
}

// close ends the thread; children started on it with a death signal die.
func (t *thread) close() {
	close(t.calls)
	<-t.ended
}

// do runs f on the thread, inside the network namespace at path unless empty.
func (t *thread) do(path string, f func() error) error {
	done := make(chan error, 1)
	t.calls <- func() {
		if path == "" {
			done <- f()
			return
		}
		done <- inNetNS(path, f)
	}
	return <-done
}

// inThread is do on a thread made for one call.
func inThread(path string, f func() error) error {
	t := newThread()
	defer t.close()
	return t.do(path, f)
}

func inNetNS(path string, f func() error) error {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		// Nothing may run on this thread any more: it would act in the wrong network.
		panic(fmt.Sprintf("leave network namespace %s: %v", path, back))
	}
	return err
}

// setProcessAttributes puts the child into a session of its own, so that a
// Ctrl-C in the terminal reaches only the supervisor, which knows the order.
func setProcessAttributes(cmd *exec.Cmd, detached, namespaces bool) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if !detached {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if namespaces {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID |
			syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC
	}
}

// reservePort binds a free TCP port without listening on it. The API server
// shares it (--permit-port-sharing), so no other program can take it between
// choosing and listening. Call it on the thread of the right namespace.
func reservePort(addr netip.Addr) (netip.AddrPort, func(), error) {
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: addr.As16()})
	if addr.Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Addr: addr.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.AddrPort{}, nil, err
	}
	release := func() { unix.Close(fd) }
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		release()
		return netip.AddrPort{}, nil, err
	}
	if err := unix.Bind(fd, sa); err != nil {
		release()
		return netip.AddrPort{}, nil, fmt.Errorf("bind %s: %w", addr, err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		release()
		return netip.AddrPort{}, nil, err
	}
	switch b := bound.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(addr, uint16(b.Port)), release, nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(addr, uint16(b.Port)), release, nil
	}
	release()
	return netip.AddrPort{}, nil, fmt.Errorf("bind %s: unknown address family", addr)
}

// startTime returns when a process was started, in clock ticks since boot
// (field 22 of /proc/PID/stat, proc_pid_stat(5)): with the pid it names one
// process for as long as the machine is up. A zombie counts as gone.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name in parentheses may hold anything; fields are counted after it.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("read /proc/%d/stat: %d fields", pid, len(fields))
	}
	if fields[0][0] == 'Z' || fields[0][0] == 'X' {
		return 0, os.ErrProcessDone
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

func bootID() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data))
}

// handle is a process that cannot be confused with a later one of the same pid.
type handle struct{ fd int }

// openProcess returns os.ErrProcessDone if the recorded process is gone.
func openProcess(pid int, started uint64) (*handle, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, os.ErrProcessDone
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	// Compared after the handle exists: from here on it stays the same process.
	if now, err := startTime(pid); err != nil || now != started {
		unix.Close(fd)
		return nil, os.ErrProcessDone
	}
	return &handle{fd: fd}, nil
}

func (h *handle) close() { unix.Close(h.fd) }

func (h *handle) signal(sig syscall.Signal) error {
	err := unix.PidfdSendSignal(h.fd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// resume lets a process that was stopped (SIGSTOP) see its other signals.
func (h *handle) resume() error { return h.signal(syscall.SIGCONT) }

// wait says whether the process has ended, waiting up to d or until ctx ends.
func (h *handle) wait(ctx context.Context, d time.Duration) bool {
	deadline := time.Now().Add(d)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLIN}}, 20)
		if err == nil && n > 0 {
			return true
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return false
		}
	}
}

// marked lists the processes whose environment holds the given entry.
func marked(entry string) []int {
	dirs, _ := os.ReadDir("/proc")
	var pids []int
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			continue // of another user, or gone
		}
		for e := range bytes.SplitSeq(env, []byte{0}) {
			if string(e) == entry {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}

// lockFile takes an exclusive lock that ends with the process at the latest.
func lockFile(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, err
		}
		waiting()
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// onOverlay says whether path is on an overlay file system.
func onOverlay(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC
}
