package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
)

// The demo is what a newcomer runs first.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("short: the demo builds and starts everything anew")
	}
	nodes := "0"
	if ok, _ := devcluster.CanRunNodes(); ok {
		nodes = "1"
	}
	binary, bin := devclustertest.Binary(t), programs(t)
	root, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, bin+"/sallyport", "demo", "--nodes", nodes, "--dir", t.TempDir()+"/demo", "--source", strings.TrimSpace(string(root)), "--devcluster", binary)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 30 * time.Second
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	if !strings.Contains(out.String(), "refused") {
		t.Errorf("the demo refused nothing:\n%s", &out)
	}
}
