package devcluster_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
)

// childEnv makes the test binary a launcher: its value is launcherConfig.
const childEnv = "SALLYPORT_DEVCLUSTER_TEST_CHILD"

type launcherConfig struct {
	devcluster.Config
	Release bool // release the cluster and exit, instead of waiting to be killed
}

func TestMain(m *testing.M) {
	if child := os.Getenv(childEnv); child != "" {
		if err := launch(child); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// launch is the launching process of a test: it starts a cluster, says so on
// stdout, and leaves as it is told.
func launch(config string) error {
	var cfg launcherConfig
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		return err
	}
	c, err := devcluster.Start(context.Background(), cfg.Config)
	if err != nil {
		return err
	}
	if cfg.Release {
		if err := c.Release(); err != nil {
			return err
		}
	}
	fmt.Println(c.URL())
	if !cfg.Release {
		_, _ = io.Copy(io.Discard, os.Stdin) // until killed, or the test ends
	}
	return nil
}

// launcher starts the launching process.
func launcher(t *testing.T, cfg launcherConfig) (cmd *exec.Cmd, stdout *bufio.Reader) {
	t.Helper()
	data, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(data))
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := devcluster.Recover(context.Background(), cfg.Dir); err != nil {
			t.Error(err)
		}
	})
	return cmd, bufio.NewReader(out)
}

type recordedState struct {
	ID        string
	Links     []string
	Processes []struct {
		Name string
		PID  int
	}
}

func readState(dir string) (recordedState, error) {
	var s recordedState
	data, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(data, &s)
}

func (s recordedState) pids() (pids []int) {
	for _, p := range s.Processes {
		pids = append(pids, p.PID)
	}
	return pids
}

// eventually polls until done returns nil.
func eventually(t *testing.T, limit time.Duration, done func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := done()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %v", limit, err)
		}
		<-tick.C
	}
}

// gone is nil when no process is left; a zombie its new parent has not reaped
// yet is gone.
func gone(pids []int) error {
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err == nil && !strings.Contains(string(stat), ") Z ") {
			return fmt.Errorf("process %d is still there: %.80s", pid, stat)
		}
	}
	return nil
}

func TestDetachedOutlivesItsLauncher(t *testing.T) {
	cfg := launcherConfig{Release: true, Config: devcluster.Config{
		Binary: devclustertest.Binary(t), Dir: t.TempDir(), Detached: true,
	}}
	cmd, out := launcher(t, cfg)
	url, err := out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	state, err := readState(cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	kubectl := exec.Command(filepath.Join(cfg.Dir, "bin", "kubectl"), "--kubeconfig", filepath.Join(cfg.Dir, "kubeconfig"), "get", "--raw", "/readyz")
	if body, err := kubectl.CombinedOutput(); err != nil || string(body) != "ok" {
		t.Errorf("/readyz of %s after its launcher ended: %q, %v", strings.TrimSpace(url), body, err)
	}
	if _, err := devcluster.Start(t.Context(), cfg.Config); err == nil || !strings.Contains(err.Error(), "not stopped") {
		t.Errorf("second Start in a running cluster's folder: %v", err)
	}
	if err := devcluster.Recover(t.Context(), cfg.Dir); err != nil {
		t.Fatal(err)
	}
	if err := gone(state.pids()); err != nil || len(state.pids()) != 2 {
		t.Errorf("after Recover of %v: %v", state, err)
	}
	if err := devcluster.Recover(t.Context(), cfg.Dir); err != nil {
		t.Errorf("second Recover: %v", err)
	}
}

func TestKilledLauncher(t *testing.T) {
	cfg := launcherConfig{Config: devcluster.Config{Binary: devclustertest.Binary(t), Dir: t.TempDir()}}
	if ok, _ := devcluster.CanRunNodes(); ok {
		cfg.Nodes = 1
	}
	cmd, out := launcher(t, cfg)
	if _, err := out.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	state, err := readState(cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	// No Recover needed for the processes: the kernel ends them.
	eventually(t, 5*time.Second, func() error { return gone(state.pids()) })
	if err := devcluster.Recover(t.Context(), cfg.Dir); err != nil {
		t.Fatal(err)
	}
	cgroups, err := filepath.Glob("/sys/fs/cgroup/*" + state.ID)
	if err != nil {
		t.Fatal(err)
	}
	deeper, err := filepath.Glob("/sys/fs/cgroup/*/*" + state.ID)
	if err != nil || len(cgroups) > 0 || len(deeper) > 0 {
		t.Errorf("cgroups left: %v %v %v", cgroups, deeper, err)
	}
	for _, name := range state.Links {
		alias, _ := os.ReadFile(filepath.Join("/sys/class/net", name, "ifalias"))
		if strings.Contains(string(alias), state.ID) {
			t.Errorf("interface %s left", name)
		}
	}
	// The folder is good for another cluster.
	cfg.Nodes = 0
	c, err := devcluster.Start(t.Context(), cfg.Config)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestKilledWhileStarting kills a detached launcher as soon as a process is on
// record; the next may be running without being recorded.
func TestKilledWhileStarting(t *testing.T) {
	cfg := launcherConfig{Config: devcluster.Config{Binary: devclustertest.Binary(t), Dir: t.TempDir(), Detached: true}}
	cmd, _ := launcher(t, cfg)
	var state recordedState
	eventually(t, 20*time.Second, func() (err error) {
		if state, err = readState(cfg.Dir); err == nil && len(state.Processes) == 0 {
			err = errors.New("nothing was started")
		}
		return err
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if err := devcluster.Recover(t.Context(), cfg.Dir); err != nil {
		t.Fatal(err)
	}
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range environs {
		if env, err := os.ReadFile(path); err == nil && strings.Contains(string(env), state.ID) {
			t.Errorf("%s still belongs to the cluster", path)
		}
	}
}

func TestRecoverSparesOthers(t *testing.T) {
	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	dir := t.TempDir()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Skip("no /proc")
	}
	// The pid is the same, the start time is another process's.
	state := fmt.Sprintf(`{"id":"x","boot":%q,"processes":[{"name":"etcd","rank":0,"pid":%d,"started":1}]}`,
		strings.TrimSpace(string(boot)), other.Process.Pid)
	if err := os.WriteFile(filepath.Join(dir, "state.json"), []byte(state), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := devcluster.Recover(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("Recover ended a process that was not the cluster's: %v", err)
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", other.Process.Pid))
	if err != nil || strings.Contains(string(data), ") Z ") {
		t.Errorf("Recover ended a process that was not the cluster's: %s %v", data, err)
	}
}
