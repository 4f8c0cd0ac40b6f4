package devcluster

import (
	"fmt"
	"os"
	"path/filepath"
)

// binaries knows how to call each Kubernetes program: as a sub-command of one
// binary, or as files of a folder.
type binaries struct {
	path   string
	folder bool
}

// newBinaries checks that path is the multi-call binary or a folder that holds
// at least what a control plane without controllers needs.
func newBinaries(path string) (binaries, error) {
	info, err := os.Stat(path)
	if err != nil {
		return binaries{}, fmt.Errorf("the Kubernetes binary: %w", err)
	}
	if !info.IsDir() {
		return binaries{path: path}, executable(path)
	}
	b := binaries{path: path, folder: true}
	return b, b.have("etcd", "kube-apiserver", "kubectl")
}

// have says which of the named programs is missing.
func (b binaries) have(names ...string) error {
	if !b.folder {
		return nil
	}
	for _, n := range names {
		if err := executable(filepath.Join(b.path, n)); err != nil {
			return fmt.Errorf("folder %s of Kubernetes binaries: %w; without %s unset and with Go installed, "+
				"all of them are built", b.path, err, EnvAssets)
		}
	}
	return nil
}

// target is the file that runs the named program, to be called under its name.
func (b binaries) target(name string) string {
	if b.folder {
		return filepath.Join(b.path, name)
	}
	return b.path
}
