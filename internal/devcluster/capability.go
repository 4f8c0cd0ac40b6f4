package devcluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// nodePrograms are what a node needs besides Kubernetes.
var nodePrograms = []string{"containerd", "containerd-shim-runc-v2", "runc", "ctr", "ip", "iptables", "mount"}

// cniFolders are where distributions keep CNI plugins.
var cniFolders = []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni", "/usr/local/libexec/cni"}

var cniPlugins = []string{"ptp", "host-local", "loopback", "portmap"}

// CanRunNodes says whether this process may run nodes on this machine, and if
// not, what is missing and how to get it.
func CanRunNodes() (bool, string) {
	if runtime.GOOS != "linux" {
		return false, "nodes need Linux"
	}
	if os.Geteuid() != 0 {
		return false, "nodes need root (namespaces, mounts, cgroups); run as root"
	}
	var missing []string
	for _, p := range nodePrograms {
		if _, err := exec.LookPath(p); err != nil {
			missing = append(missing, p)
		}
	}
	if _, err := cniFolder(); err != nil {
		missing = append(missing, err.Error())
	}
	if len(missing) > 0 {
		return false, "not installed: " + strings.Join(missing, ", ") +
			" (Debian: apt-get install containerd runc containernetworking-plugins iptables iproute2)"
	}
	if err := tryNamespaces(); err != nil {
		return false, fmt.Sprintf("this process may not make namespaces: %v", err)
	}
	if err := tryCgroups(); err != nil {
		return false, fmt.Sprintf("cgroups cannot be made: %v", err)
	}
	return true, ""
}

func cniFolder() (string, error) {
	for _, dir := range cniFolders {
		found := 0
		for _, p := range cniPlugins {
			if executable(filepath.Join(dir, p)) == nil {
				found++
			}
		}
		if found == len(cniPlugins) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("CNI plugins %s", strings.Join(cniPlugins, " "))
}

// tryNamespaces starts a program the way a node's first process is started, and
// mounts in there.
func tryNamespaces() error {
	cmd := exec.Command("mount", "--make-rprivate", "/") //nolint:noctx // over at once, and asked by whoever has no context
	setProcessAttributes(cmd, true, true)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// tryCgroups makes and removes a cgroup in every hierarchy.
func tryCgroups() error {
	mounts, err := cgroupMounts()
	if err != nil {
		return err
	}
	if len(mounts) == 0 {
		return errors.New("no cgroup hierarchy is mounted")
	}
	for _, m := range mounts {
		probe, err := os.MkdirTemp(m, "sallyport-probe-")
		if err != nil {
			return err
		}
		if err := os.Remove(probe); err != nil {
			return err
		}
	}
	return nil
}
