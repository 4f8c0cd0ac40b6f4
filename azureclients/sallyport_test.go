package azureclients

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// commandLine is the sallyport command, built once, in the folder that all
// tests share.
var commandLine = sync.OnceValues(func() (string, error) {
	path := filepath.Join(the.dir, "bin", "sallyport")
	build := exec.Command("go", "build", "-o", path, "./cmd/sallyport")
	build.Dir, build.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build sallyport: %w\n%s", err, out)
	}
	return path, nil
})

// person is somebody at a shell, with a home of their own and the
// administrator's credential.
type person struct {
	t    *testing.T
	home string
	env  []string
}

// newPerson logs somebody in with sallyport. env is added to what they have.
func newPerson(ctx context.Context, t *testing.T, env ...string) *person {
	t.Helper()
	path, err := commandLine()
	if err != nil {
		t.Fatal(err)
	}
	p := &person{t: t, home: t.TempDir()}
	p.env = append([]string{"HOME=" + p.home, "PATH=" + filepath.Dir(path) + ":" + os.Getenv("PATH"), "SALLYPORT_CONFIG=" + filepath.Join(p.home, "sallyport.yaml"),
		"AZURE_CONFIG_DIR=" + filepath.Join(p.home, "azure")}, env...)
	p.must(ctx, "sallyport login --admin-file "+the.adminFile+" -o none")
	return p
}

// shell runs a script, which ends at the first command that fails.
func (p *person) shell(ctx context.Context, script string) (stdout, stderr string, err error) {
	var out, errs strings.Builder
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir, cmd.Env = p.home, p.env
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return strings.TrimSpace(out.String()), errs.String(), err
}

// must runs a script that succeeds and returns what it wrote to stdout.
func (p *person) must(ctx context.Context, script string) string {
	p.t.Helper()
	stdout, stderr, err := p.shell(ctx, script)
	if err != nil {
		p.t.Fatalf("%s: %v\n%s\n%s", script, err, stdout, stderr)
	}
	return stdout
}
