package devcluster

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// cgroupLimit is how long the kernel may take to notice that a cgroup's last
// process is gone.
const cgroupLimit = 5 * time.Second

// cgroupMounts lists where cgroup hierarchies are mounted: many for version 1,
// one for version 2 (proc_pid_mountinfo(5)).
func cgroupMounts() ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var mounts []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if ok && len(fields) > 4 && strings.HasPrefix(after, "cgroup") {
			mounts = append(mounts, fields[4])
		}
	}
	return mounts, lines.Err()
}

// cgroup is the path of the cluster's cgroups, below which each node has one.
func (c *Cluster) cgroup() string { return cgroupOf(c.sup.journal.snapshot().ID) }

func cgroupOf(id string) string { return "/sallyport-devcluster-" + id }

// makeCgroups makes the cgroup of every node: below it the kubelet keeps its
// pods, and nothing of the cluster is anywhere else.
func (c *Cluster) makeCgroups() error {
	mounts, err := cgroupMounts()
	if err != nil {
		return fmt.Errorf("make cgroups: %w", err)
	}
	for _, m := range mounts {
		top := filepath.Join(m, c.cgroup())
		for _, n := range c.nodes {
			if err := os.MkdirAll(filepath.Join(top, n.name), 0o755); err != nil {
				return fmt.Errorf("make cgroups: %w", err)
			}
		}
		// Version 2 hands controllers down level by level. What the kernel
		// refuses the kubelet misses, and says which.
		for _, dir := range []string{m, top} {
			for _, controller := range []string{"+cpu", "+cpuset", "+memory", "+pids", "+io", "+hugetlb"} {
				_ = writeExisting(filepath.Join(dir, "cgroup.subtree_control"), controller)
			}
		}
	}
	return nil
}

func writeExisting(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// removeCgroups removes a cluster's tree in every hierarchy.
func removeCgroups(id string) error {
	mounts, err := cgroupMounts()
	if err != nil {
		return fmt.Errorf("remove cgroups: %w", err)
	}
	var errs []error
	for _, m := range mounts {
		if err := removeCgroup(filepath.Join(m, cgroupOf(id))); err != nil {
			errs = append(errs, fmt.Errorf("remove cgroups: %w", err))
		}
	}
	return errors.Join(errs...)
}

func removeCgroup(top string) error {
	deadline := time.Now().Add(cgroupLimit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var dirs []string
		err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil // what vanishes meanwhile needs no removal
		})
		if err != nil {
			return err
		}
		for _, d := range slices.Backward(dirs) { // children before their parents
			if err = os.Remove(d); err != nil && !errors.Is(err, os.ErrNotExist) {
				break
			}
			err = nil
		}
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
		<-tick.C
	}
}
