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
