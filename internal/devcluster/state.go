package devcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// stateFile is what a later process needs to find and stop a cluster.
const stateFile = "state.json"

// envMark is in the environment of every process of a cluster, so that even one
// that was started but not yet recorded is found.
const envMark = "SALLYPORT_DEVCLUSTER_ID"

// stopGrace is how long a process may take after SIGTERM. kube-apiserver would
// take a minute while clients hold watches.
const stopGrace = 5 * time.Second

// The ranks in which processes stop: highest first.
const (
	rankEtcd = iota
	rankAPIServer
	rankController
	rankNode
	rankCompanion
)

// record names one process for good: a pid is used again, a pid with its start
// time is not.
type record struct {
	Name    string `json:"name"`
	Rank    int    `json:"rank"`
	PID     int    `json:"pid"`
	Started uint64 `json:"started"` // clock ticks since boot
}

// state is the content of state.json.
type state struct {
	ID        string   `json:"id"`
	Boot      string   `json:"boot"` // the boot the pids belong to
	URL       string   `json:"url,omitempty"`
	Processes []record `json:"processes"`
	Links     []string `json:"links,omitempty"` // network interfaces in the host's namespace
}

// journal keeps state.json in step with a state. mu guards state: nodes are
// started side by side.
type journal struct {
	path string

	mu    sync.Mutex
	state state
}

// newJournal claims dir; it fails if a cluster there was not stopped.
func newJournal(dir, id string) (*journal, error) {
	j := &journal{path: filepath.Join(dir, stateFile), state: state{ID: id, Boot: bootID()}}
	f, err := os.OpenFile(j.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("folder %s holds a cluster that was not stopped: stop it first (sallyport down)", dir)
	}
	if err != nil {
		return nil, err
	}
	f.Close()
	return j, j.update(func(*state) {})
}

// update changes the state and writes it before it returns.
func (j *journal) update(change func(*state)) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	change(&j.state)
	data, err := json.MarshalIndent(j.state, "", "  ")
	if err != nil {
		return err
	}
	tmp := j.path + ".tmp"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return os.Rename(tmp, j.path)
}

func (j *journal) snapshot() state {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.state
	s.Processes = slices.Clone(s.Processes)
	return s
}

// Recover stops whatever is left of the cluster in dir: one that was started
// detached, or one whose process was killed. It touches exactly the processes,
// interfaces and cgroups of that cluster. Nothing there is not an error; logs
// and the audit log stay.
func Recover(ctx context.Context, dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, stateFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("recover cluster: %w", err)
	}
	var s state
	if len(data) > 0 { // empty: killed between claiming the folder and the first start
		if err := json.Unmarshal(data, &s); err != nil {
			return fmt.Errorf("recover cluster: read %s: %w", filepath.Join(dir, stateFile), err)
		}
	}
	if s.ID == "" {
		return os.Remove(filepath.Join(dir, stateFile))
	}
	if s.Boot == bootID() {
		if err := stopProcesses(ctx, s); err != nil {
			return fmt.Errorf("recover cluster: %w", err)
		}
	}
	if err := s.clean(dir); err != nil {
		return fmt.Errorf("recover cluster: %w", err)
	}
	return nil
}

// stopProcesses ends every process of s and waits until it is gone.
func stopProcesses(ctx context.Context, s state) error {
	var errs []error
	for rank := rankCompanion; rank >= rankEtcd; rank-- {
		var wg sync.WaitGroup
		var mu sync.Mutex
		for _, r := range s.Processes {
			if r.Rank != rank {
				continue
			}
			wg.Go(func() {
				if err := stopProcess(ctx, r); err != nil {
					mu.Lock()
					defer mu.Unlock()
					errs = append(errs, err)
				}
			})
		}
		wg.Wait()
	}
	// A process that its parent had only just forked when that was killed shows
	// the mark a moment later: two looks with a pause between must find nobody.
	for again := true; again; {
		first, err := stopUnrecorded(s.ID)
		time.Sleep(forkTakes) //nolint:forbidigo // nothing tells when a fork is over
		second, late := stopUnrecorded(s.ID)
		errs = append(errs, err, late)
		again = (first || second) && err == nil && late == nil
	}
	return errors.Join(errs...)
}

// forkTakes is ample for a forked process to have an environment of its own.
const forkTakes = 50 * time.Millisecond

// stopUnrecorded kills the cluster's processes whose parent was killed before it
// could record them, and tells whether there was one.
func stopUnrecorded(id string) (found bool, err error) {
	var errs []error
	for _, pid := range marked(envMark + "=" + id) {
		started, err := startTime(pid)
		if err != nil || pid == os.Getpid() {
			continue
		}
		found = true
		done, cancel := context.WithCancel(context.Background()) //nolint:forbidigo // ended at once: no grace for it
		cancel()
		if err := stopProcess(done, record{Name: "unrecorded process", PID: pid, Started: started}); err != nil {
			errs = append(errs, err)
		}
	}
	return found, errors.Join(errs...)
}

// stopProcess asks with SIGTERM, insists with SIGKILL after the grace or as soon
// as ctx ends, and returns when the process is gone.
func stopProcess(ctx context.Context, r record) error {
	p, err := openProcess(r.PID, r.Started)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.close()
	if ctx.Err() == nil {
		// A stopped process would sleep through the request.
		if err := errors.Join(p.signal(syscall.SIGTERM), p.resume()); err != nil {
			return fmt.Errorf("stop %s (pid %d): %w", r.Name, r.PID, err)
		}
		if p.wait(ctx, stopGrace) {
			return nil
		}
	}
	if err := p.signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill %s (pid %d): %w", r.Name, r.PID, err)
	}
	if !p.wait(context.WithoutCancel(ctx), stopGrace) {
		return fmt.Errorf("%s (pid %d) is still there %s after SIGKILL", r.Name, r.PID, stopGrace)
	}
	return nil
}

// cleanHost removes what nodes leave on the machine, and nothing without nodes.
func (s state) cleanHost() error {
	if !slices.ContainsFunc(s.Processes, func(r record) bool { return r.Rank == rankNode }) {
		return nil
	}
	return errors.Join(removeLinks(s.ID, s.Links), removeCgroups(s.ID))
}

// clean removes what processes leave when they end. The state goes last: if
// something fails before, a later Recover tries again.
func (s state) clean(dir string) error {
	if err := s.cleanHost(); err != nil {
		return err
	}
	for _, sub := range []string{dirEtcd, dirNodes} {
		if err := os.RemoveAll(filepath.Join(dir, sub)); err != nil {
			return err
		}
	}
	return os.Remove(filepath.Join(dir, stateFile))
}

// tempPrefix begins the names of folders that Start makes.
const tempPrefix = "sallyport-devcluster-"

// sweepAge is how long a folder stays after its cluster's last process was
// recorded: one that is just starting, or stopping, is not swept.
const sweepAge = 5 * time.Minute

// sweep removes folders that Start made and whose owner was killed, with what
// their nodes left. It is a courtesy: what it cannot read or remove stays.
func sweep(ctx context.Context, tmp string) {
	files, _ := filepath.Glob(filepath.Join(tmp, tempPrefix+"*", stateFile))
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil || time.Since(info.ModTime()) < sweepAge {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		var s state
		if json.Unmarshal(data, &s) != nil || s.running() {
			continue
		}
		dir := filepath.Dir(file)
		if Recover(ctx, dir) == nil {
			_ = os.RemoveAll(dir)
		}
	}
}

// running says whether any recorded process is still there.
func (s state) running() bool {
	if s.Boot != bootID() {
		return false
	}
	for _, r := range s.Processes {
		if now, err := startTime(r.PID); err == nil && now == r.Started {
			return true
		}
	}
	return false
}
