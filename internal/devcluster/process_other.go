//go:build !linux

package devcluster

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"syscall"
	"time"
)

// Config.complete refuses every other system before any of this is reached;
// it exists so that the command line builds everywhere.
var errLinuxOnly = errors.New("a cluster of one's own needs Linux")

type thread struct{}

func newThread() *thread                               { return &thread{} }
func (t *thread) close()                               {}
func (t *thread) do(path string, f func() error) error { return errLinuxOnly }
func inThread(string, func() error) error              { return errLinuxOnly }
func setProcessAttributes(*exec.Cmd, bool, bool)       {}
func reservePort(netip.Addr) (netip.AddrPort, func(), error) {
	return netip.AddrPort{}, nil, errLinuxOnly
}
func startTime(int) (uint64, error)                            { return 0, errLinuxOnly }
func bootID() string                                           { return "" }
func openProcess(int, uint64) (*handle, error)                 { return nil, errLinuxOnly }
func onOverlay(string) bool                                    { return false }
func marked(string) []int                                      { return nil }
func lockFile(context.Context, string, func()) (func(), error) { return nil, errLinuxOnly }

type handle struct{}

func (h *handle) close()                                   {}
func (h *handle) signal(syscall.Signal) error              { return errLinuxOnly }
func (h *handle) resume() error                            { return errLinuxOnly }
func (h *handle) wait(context.Context, time.Duration) bool { return false }
