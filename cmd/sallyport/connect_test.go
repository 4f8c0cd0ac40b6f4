package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
)

// TestConnect changes a real API server with its owner's rights.
func TestConnect(t *testing.T) {
	t.Parallel()
	c := devclustertest.Start(t, devcluster.Config{})
	shared.start(t)
	admin, err := client.ReadAdminFile(shared.admin)
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "cluster"),
		Setup: func(e *testscript.Env) error {
			e.Setenv("SALLYPORT_CONFIG", filepath.Join(e.WorkDir, "config.yaml"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("ADMIN", shared.admin)
			e.Setenv("SERVER", admin.Server)
			e.Setenv("OWNER", c.Kubeconfig())
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fails": fails, "capture": capture,
			// kubectl runs as the owner; its output is what stdout looks at.
			"kubectl": func(ts *testscript.TestScript, neg bool, args []string) {
				err := ts.Exec(c.Program("kubectl"), append([]string{"--kubeconfig", c.Kubeconfig()}, args...)...)
				if neg == (err == nil) {
					ts.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
				}
			},
		},
	})
}
