package devcluster_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
)

// TestNodeLeavesNothing compares the machine before and after a cluster whose
// node ran a pod.
func TestNodeLeavesNothing(t *testing.T) {
	if ok, reason := devcluster.CanRunNodes(); !ok {
		t.Skip(reason)
	}
	binary := devclustertest.Binary(t)
	earlier := sysctls(t)
	before := machine(t)
	dir := t.TempDir()
	c, err := devcluster.Start(t.Context(), devcluster.Config{Binary: binary, Dir: dir, Nodes: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = devcluster.Recover(t.Context(), dir) })
	runPods(t, c)
	state, err := readState(dir)
	if err != nil {
		t.Fatal(err)
	}
	during := machine(t)
	slot := strings.Split(c.HostAddress().String(), ".")[2]
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := machine(t)

	for name, want := range before {
		if name == "sysctls" {
			continue
		}
		for _, line := range want {
			if !slices.Contains(after[name], line) && !foreign.MatchString(line) {
				t.Errorf("%s: gone: %s", name, line)
			}
		}
		for _, line := range after[name] {
			if !slices.Contains(want, line) && !foreign.MatchString(line) {
				t.Errorf("%s: left: %s", name, line)
			}
		}
	}
	for _, line := range before["sysctls"] {
		// What differed between two looks before the start changes by itself.
		if slices.Contains(earlier, line) && !slices.Contains(after["sysctls"], line) {
			t.Errorf("sysctls: was: %s", line)
		}
	}
	// What is of this cluster by name, whoever else runs clusters here.
	own := regexp.MustCompile(state.ID + `|spd` + slot + `n\d|\b198\.18\.` + slot + `\.`)
	for name, lines := range after {
		for _, line := range lines {
			if own.MatchString(line) {
				t.Errorf("%s: left: %s", name, line)
			}
		}
	}
	// The test can see: while the cluster ran, it found the link and the cgroup.
	for _, name := range []string{"interfaces", "cgroups", "routes"} {
		if !slices.ContainsFunc(during[name], own.MatchString) {
			t.Errorf("%s: the running cluster was not seen", name)
		}
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

// foreign is what clusters of other processes bring and take meanwhile.
var foreign = regexp.MustCompile(`\bspd\d+n\d|sallyport-devcluster-|198\.18\.\d+\.|sallyport-probe-`)

// machine is what a node could leave behind, as sorted lines by kind.
func machine(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{
		"sysctls":    sysctls(t),
		"iptables":   lines(t, "iptables-save"),
		"ip6tables":  lines(t, "ip6tables-save"),
		"interfaces": lines(t, "ip", "-o", "link"),
		"addresses":  lines(t, "ip", "-o", "addr"),
		"routes":     lines(t, "ip", "-o", "route", "show", "table", "all"),
		"mounts":     fileLines(t, "/proc/self/mountinfo"),
		"namespaces": lines(t, "ip", "netns"),
		"cgroups":    folders(t, "/sys/fs/cgroup", 4),
	}
	for _, dir := range []string{
		"/run/netns", "/run/containerd", "/var/lib/containerd", "/var/lib/kubelet", "/var/lib/cni",
		"/etc/cni", "/var/log/pods", "/var/log/containers", "/opt/containerd", "/run/xtables.lock",
	} {
		all["folders"] = append(all["folders"], folders(t, dir, 2)...)
	}
	return all
}

// lines are a command's, without counters and comments.
func lines(t *testing.T, name string, args ...string) []string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return tidy(string(out))
}

var counters = regexp.MustCompile(`\[\d+:\d+\]|\S+_lft \S+`)

func tidy(text string) (lines []string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(counters.ReplaceAllString(line, "")); line != "" && line[0] != '#' {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

func fileLines(t *testing.T, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return tidy(string(data))
}

// folders lists the folders below top, some levels deep; a missing one is none.
func folders(t *testing.T, top string, depth int) (found []string) {
	t.Helper()
	_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if d.IsDir() || d.Type()&fs.ModeSocket != 0 {
			found = append(found, path)
		}
		if d.IsDir() && strings.Count(path, "/")-strings.Count(top, "/") >= depth {
			return fs.SkipDir
		}
		return nil
	})
	return found
}

// sysctls are "name = value" of all that can be read and set; counters, which
// only can be read, are left out, and so are those of interfaces, which come
// and go.
func sysctls(t *testing.T) (all []string) {
	t.Helper()
	const top = "/proc/sys"
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		info, err := d.Info()
		if err != nil || d.Name() == "ns_last_pid" || info.Mode().Perm()&0o200 == 0 || info.Mode().Perm()&0o400 == 0 ||
			strings.Contains(path, "/conf/") && !strings.Contains(path, "/conf/all/") && !strings.Contains(path, "/conf/default/") ||
			strings.Contains(path, "/neigh/") {
			return nil
		}
		value, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		all = append(all, fmt.Sprintf("%s = %s", strings.TrimPrefix(path, top+"/"), strings.TrimSpace(string(value))))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
