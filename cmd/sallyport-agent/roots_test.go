package main

import (
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// In an image that holds nothing but the agent there are roots all the same.
func TestRootsWithoutASystem(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("images are for Linux")
	}
	if os.Getenv("SALLYPORT_TEST_ROOTS") != "" {
		pool, err := x509.SystemCertPool()
		if err != nil || pool.Equal(x509.NewCertPool()) {
			t.Errorf("nobody is believed: %v", err)
		}
		return
	}
	nowhere := filepath.Join(t.TempDir(), "nothing")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRootsWithoutASystem$")
	cmd.Env = append(os.Environ(), "SALLYPORT_TEST_ROOTS=1", "SSL_CERT_FILE="+nowhere, "SSL_CERT_DIR="+filepath.Dir(nowhere))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
