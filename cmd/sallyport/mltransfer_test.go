package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/mlext/wire"
)

// A file that no store takes is named before it is read.
func TestAFileThatIsTooLargeIsNotRead(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "weights.bin")
	if err := errors.Join(os.WriteFile(large, nil, 0o600), os.Truncate(large, wire.MaxFileSize+1)); err != nil {
		t.Skipf("the file system has no such file: %v", err)
	}
	for _, from := range []string{large, dir} {
		if _, _, err := gather(from); err == nil || !strings.Contains(err.Error(), "weights.bin") || !strings.Contains(err.Error(), "5 GiB") {
			t.Errorf("%s: %v", from, err)
		}
	}
}
