//go:build unix

package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/sallyport/sallyport/trust"
)

// lockDir takes the directory for this process: an advisory lock on the file
// "lock", which holds the pid. The kernel drops it when the process dies, so a
// left-over file means nothing. Closing the file unlocks.
func lockDir(dir string) (*os.File, error) {
	name := filepath.Join(dir, "lock")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, trust.Errorf(trust.Invalid, "the data directory %s cannot be used", dir).Because(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder := "another process"
		if b, rerr := io.ReadAll(io.LimitReader(f, 32)); rerr == nil {
			if pid, perr := strconv.Atoi(strings.TrimSpace(string(b))); perr == nil {
				holder = fmt.Sprintf("process %d", pid)
			}
		}
		f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, trust.Errorf(trust.Unavailable, "the data directory %s cannot be locked", dir).Because(err)
		}
		t := trust.Errorf(trust.Conflict, "the data directory %s is in use by %s", dir, holder)
		t.Hint = "stop that process, or choose another data directory"
		return nil, t
	}
	// A failed write of the pid (a full disk) costs only its mention.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, nil
}

// freeBytes is the free space of the directory's file system that this process
// may use.
func freeBytes(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("statfs: %w", err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}
