//go:build unix

package up

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// diskFree is what the file system of dir, or of its nearest parent that
// exists, has free for this user; 0 if it does not say.
func diskFree(dir string) uint64 {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return 0
	}
	return uint64(st.Bavail) * uint64(st.Bsize)
}
