package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/e2e/installation"
)

// controlled is a controller-runtime program that works through the gateway with
// tokens that live for seconds: its watches outlive several of them.
type controlled struct {
	a       *apart
	binding string // resource id
	dir     string // of its kubeconfig
	process *installation.Process
	copies  int // asked for so far

	stop     context.CancelFunc
	renewing sync.WaitGroup // the goroutine that makes tokens
	err      error          // of that; read after it has ended
}

const (
	// controllerLife is the life of its tokens.
	controllerLife = 12 * time.Second
	// informerPatience is how long an informer may take to try again: its pauses
	// grow with each watch that is cut, up to 30 s and as much again of jitter.
	informerPatience = 90 * time.Second
)

// startController starts one. Its kubeconfig names a credential plugin, as that
// of "sallyport aks get-credentials" does; this one hands out tokens that the
// test makes.
func (a *apart) startController(t *testing.T) *controlled {
	t.Helper()
	c := &controlled{a: a, dir: t.TempDir()}
	program := filepath.Join(c.dir, "controller")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	build.Dir, build.Env = "controller", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the controller: %v\n%s", err, out)
	}
	_, token, binding := a.service(t, deployer)
	c.binding = binding
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	c.stop = stop
	if err := c.renew(ctx, token); err != nil {
		t.Fatal(err)
	}
	c.renewing.Go(func() {
		for c.err == nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(controllerLife / 4):
			}
			c.err = c.renew(ctx, token)
		}
	})
	t.Cleanup(c.close)
	kubeconfig, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"clusters": []any{map[string]any{"name": "c", "cluster": map[string]any{"server": a.gateway + "/clusters/" + a.UID, "certificate-authority-data": []byte(a.Admin.CA)}}},
		"users": []any{map[string]any{"name": "u", "user": map[string]any{"exec": map[string]any{
			"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never", "command": "sh",
			"args": []string{"-c", "echo called >>" + c.path("calls") + "; cat " + c.path("credential.json")}}}}},
		"contexts": []any{map[string]any{"name": "c", "context": map[string]any{"cluster": "c", "user": "u"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.path("kubeconfig"), kubeconfig, 0o600); err != nil {
		t.Fatal(err)
	}
	if c.process, err = a.Run(installation.Command{Name: "controller", Path: program, Env: []string{"KUBECONFIG=" + c.path("kubeconfig")}}); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *controlled) path(name string) string { return filepath.Join(c.dir, name) }

func (c *controlled) close() {
	c.stop()
	c.renewing.Wait()
}

// renew puts a fresh token where the plugin finds it.
func (c *controlled) renew(ctx context.Context, token string) error {
	short, end, err := c.a.short(ctx, token, controllerLife)
	if err != nil {
		return err
	}
	data, err := json.Marshal(map[string]any{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
		"status": map[string]any{"token": short, "expirationTimestamp": end.Add(-time.Second).UTC()}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.path("next.json"), data, 0o600); err != nil {
		return err
	}
	return os.Rename(c.path("next.json"), c.path("credential.json"))
}

// works has the program see a change and answer it.
func (c *controlled) works(t *testing.T) {
	t.Helper()
	c.copies++
	name := fmt.Sprintf("controlled-%d", c.copies)
	if err := c.a.Cluster.Apply(t.Context(), fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, namespace: default, labels: {copy: from}}, data: {name: %q}}", name, name)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the controller has made its copy", informerPatience, func(ctx context.Context) error {
		if err := c.process.Failed(); err != nil {
			return err
		}
		out, err := c.a.Cluster.Kubectl(ctx, "get", "configmap", "-n", "default", name+"-copy", "-o", "jsonpath={.data.name}")
		if err == nil && out != name {
			err = fmt.Errorf("it holds %q", out)
		}
		return err
	})
}

// overRenewals waits until the plugin was asked twice more than at the start, and
// wants the informer to work then.
func (c *controlled) overRenewals(t *testing.T) {
	t.Helper()
	eventually(t, "two tokens have ended", 2*(controllerLife+informerPatience), func(context.Context) error {
		if err := c.process.Failed(); err != nil {
			return err
		}
		calls, err := os.ReadFile(c.path("calls"))
		if n := bytes.Count(calls, []byte("\n")); err == nil && n < 3 {
			err = fmt.Errorf("the plugin was called %d times", n)
		}
		return err
	})
	c.works(t)
}

// stops deletes the binding, and wants the program to say why it stopped.
func (c *controlled) stops(t *testing.T) {
	t.Helper()
	if _, err := c.a.Wait(t.Context(), http.MethodDelete, c.binding, client.ContainerServiceVersion, nil); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.process.Ended():
	case <-time.After(informerPatience):
		t.Error("the controller goes on")
	}
	log, err := os.ReadFile(c.process.Log)
	if err != nil {
		t.Fatal(err)
	}
	_, why, _ := strings.Cut(string(log), "\nstopped: ")
	if !strings.Contains(why, "has no role binding") {
		t.Errorf("the controller says\n%s", log[max(0, len(log)-2000):])
	}
	c.close()
	if c.err != nil {
		t.Error(c.err)
	}
}
