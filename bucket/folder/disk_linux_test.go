package folder

import (
	"hash"
	"os"
	"syscall"
	"testing"
)

func nothing(hash.Hash) *failure { return nil }

// tiny is a folder on a file system of one megabyte.
func tiny(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a small file system needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("a small file system cannot be had: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}
