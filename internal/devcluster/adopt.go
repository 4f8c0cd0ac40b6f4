package devcluster

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Adoption says which cluster that exists already [Adopt] takes in.
type Adoption struct {
	Binary   string // as in Config, or a folder with kubectl: nothing else is used
	Dir      string // as in Config, but never temporary
	Detached bool

	Kubeconfig string // file of the cluster's owner
	Context    string // in it
}

// Adopt makes a Cluster of one that exists: it can be asked, and companions run
// beside it, but nothing of it is started, changed or stopped here. Its
// kubeconfig is a copy that holds the one context.
func Adopt(ctx context.Context, a Adoption) (*Cluster, error) {
	info, err := os.Stat(a.Binary)
	if err != nil {
		return nil, fmt.Errorf("adopt cluster: %w", err)
	}
	bins := binaries{path: a.Binary, folder: info.IsDir()}
	if err := bins.have("kubectl"); err != nil {
		return nil, fmt.Errorf("adopt cluster: %w", err)
	}
	if a.Dir == "" || a.Kubeconfig == "" || a.Context == "" {
		return nil, errors.New("adopt cluster: a folder, a kubeconfig and the name of its context are needed")
	}
	c := &Cluster{cfg: Config{Binary: a.Binary, Dir: a.Dir, Detached: a.Detached}, bins: bins, adopted: true, release: func() {}, http: &http.Client{}}
	if err := c.claim(ctx); err != nil {
		return nil, fmt.Errorf("adopt cluster: %w", err)
	}
	if err := c.adopt(ctx, a); err != nil {
		return nil, errors.Join(fmt.Errorf("adopt cluster: %w", err), c.Stop(ctx))
	}
	return c, nil
}

func (c *Cluster) adopt(ctx context.Context, a Adoption) error {
	if err := os.Symlink(c.bins.target("kubectl"), c.Program("kubectl")); err != nil {
		return err
	}
	file, err := filepath.Abs(a.Kubeconfig)
	if err != nil {
		return err
	}
	view := func(args ...string) (string, error) {
		args = append([]string{"config", "view", "--kubeconfig", file, "--context", a.Context, "--minify", "--flatten", "--raw"}, args...)
		cmd := exec.CommandContext(ctx, c.Program("kubectl"), args...)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("context %s of %s: %w: %s", a.Context, file, err, strings.TrimSpace(stderr.String()))
		}
		return strings.TrimSpace(string(out)), err
	}
	all, err := view()
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.Kubeconfig(), []byte(all+"\n"), 0o600); err != nil {
		return err
	}
	if c.server, err = view("-o", "jsonpath={.clusters[0].cluster.server}"); err != nil {
		return err
	}
	ca, err := view("-o", "jsonpath={.clusters[0].cluster.certificate-authority-data}")
	if err != nil {
		return err
	}
	if c.ca, err = base64.StdEncoding.DecodeString(ca); err != nil {
		return fmt.Errorf("the cluster's CA in %s: %w", file, err)
	}
	return nil
}
