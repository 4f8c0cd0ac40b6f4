package store_test

import (
	"os/signal"
	"syscall"
)

// limitFiles makes every write beyond a size of a file fail in this process.
func limitFiles(bytes uint64) error {
	signal.Ignore(syscall.SIGXFSZ)
	return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: bytes, Max: bytes})
}

// mountSmall puts a file system of 320 MiB on a directory; it needs root.
func mountSmall(dir string) (unmount func() error, err error) {
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=320m"); err != nil {
		return nil, err
	}
	return func() error { return syscall.Unmount(dir, 0) }, nil
}
