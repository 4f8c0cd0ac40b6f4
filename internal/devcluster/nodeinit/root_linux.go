package nodeinit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// ownFolders are the top-level folders that a node has for itself, or that it
// has no use for; everything else is the machine's, read-only.
var ownFolders = map[string]bool{
	"proc": true, "sys": true, "dev": true, "run": true, "tmp": true, "var": true,
	"root": true, "home": true, "mnt": true, "media": true, "boot": true, "lost+found": true, "srv": true,
}

// makeRoot builds the node's file system on spec.Root and moves into it. All of
// it is in a mount namespace of its own: it is gone when the node is.
func makeRoot(spec Spec) error {
	// Nothing may spread back to the machine.
	if err := mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	root := spec.Root
	if err := mount("tmpfs", root, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	if err := showMachine(root); err != nil {
		return err
	}
	if err := ownSystem(root); err != nil {
		return err
	}
	for _, b := range spec.Binds {
		if err := bind(b.From, filepath.Join(root, b.To), b.ReadOnly); err != nil {
			return err
		}
	}
	// After the binds: they may bring /var.
	if err := symlink("/run", filepath.Join(root, "var/run")); err != nil {
		return err
	}
	if err := coverSysctls(root, spec.Sysctls); err != nil {
		return err
	}
	if err := enter(root); err != nil {
		return err
	}
	// Volumes of pods are mounted by the kubelet and must reach their containers.
	return mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, "")
}

// showMachine shows programs, libraries and configuration of the machine.
func showMachine(root string) error {
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range entries {
		to := filepath.Join(root, e.Name())
		switch {
		case ownFolders[e.Name()]:
		case e.Type()&os.ModeSymlink != 0: // /bin -> usr/bin
			target, err := os.Readlink("/" + e.Name())
			if err != nil {
				return err
			}
			if err := symlink(target, to); err != nil {
				return err
			}
		case e.IsDir():
			if err := bind("/"+e.Name(), to, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// ownSystem mounts what belongs to the node's namespaces.
func ownSystem(root string) error {
	for _, m := range []struct{ kind, to, data string }{
		{"proc", "proc", ""},
		{"sysfs", "sys", ""}, // shows the node's network interfaces
		{"tmpfs", "run", "mode=755"},
		{"tmpfs", "tmp", "mode=1777"},
	} {
		to := filepath.Join(root, m.to)
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		if err := mount(m.kind, to, m.kind, 0, m.data); err != nil {
			return err
		}
	}
	for _, folder := range []string{"root", "home", "mnt", "var", "srv"} {
		if err := os.MkdirAll(filepath.Join(root, folder), 0o755); err != nil {
			return err
		}
	}
	if err := bind("/dev", filepath.Join(root, "dev"), false); err != nil {
		return err
	}
	return bind("/sys/fs/cgroup", filepath.Join(root, "sys/fs/cgroup"), false)
}

func coverSysctls(root string, values map[string]string) error {
	dir := filepath.Join(root, "run/sysctl")
	for name, value := range values {
		to := filepath.Join(root, "proc/sys", name)
		if _, err := os.Stat(to); errors.Is(err, os.ErrNotExist) {
			continue // not in this kernel
		}
		from := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(from), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(from, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := mount(from, to, "", syscall.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// enter makes root the root of this process and of all that it starts.
func enter(root string) error {
	old := filepath.Join(root, "run/machine")
	if err := os.MkdirAll(old, 0o700); err != nil {
		return err
	}
	err := syscall.PivotRoot(root, old)
	if errors.Is(err, syscall.EINVAL) {
		return moveRoot(root) // the machine runs from its initramfs, which cannot be pivoted away
	}
	if err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := syscall.Unmount("/run/machine", syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the machine's root: %w", err)
	}
	return os.Remove("/run/machine")
}

func moveRoot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := mount(".", "/", "", syscall.MS_MOVE, ""); err != nil {
		return err
	}
	if err := syscall.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	return os.Chdir("/")
}

// bind shows from at to, with everything mounted below it; a read-only bind is
// read-only in its own mount, not in those below it.
func bind(from, to string, readOnly bool) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(to, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(to), 0o755); err == nil {
		err = os.WriteFile(to, nil, 0o644)
	}
	if err != nil {
		return err
	}
	if err := mount(from, to, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
		return err
	}
	if !readOnly {
		return nil
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(to, &fs); err != nil {
		return err
	}
	// Flags that are set must be kept; their bits are the same for both calls.
	keep := uintptr(fs.Flags) & (syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC | syscall.MS_NOATIME | syscall.MS_NODIRATIME)
	return mount("", to, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY|keep, "")
}

func symlink(target, path string) error {
	if err := os.Symlink(target, path); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

func mount(from, to, kind string, flags uintptr, data string) error {
	if err := syscall.Mount(from, to, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s (flags %#x): %w", from, to, flags, err)
	}
	return nil
}
