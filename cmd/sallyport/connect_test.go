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

func TestTheTunnelIsDialledWhereTheGatewaysAre(t *testing.T) {
	for _, c := range []struct{ server, gateway, want string }{
		{"https://s.example.com", "https://s.example.com/clusters/u", ""},
		{"https://s.example.com", "https://g.example.com/clusters/u", "g.example.com:443"},
		{"https://s.example.com", "https://g.example.com:8443/clusters/u", "g.example.com:8443"},
		{"https://s.example.com", "https://[fd00::1]/clusters/u", "[fd00::1]:443"},
		{"https://s.example.com", "", ""}, // a server from before it said so
	} {
		if got := strings.Join(gatewaysApart(c.server, c.gateway), " "); got != c.want {
			t.Errorf("%s and %s: %q, want %q", c.server, c.gateway, got, c.want)
		}
	}
}
