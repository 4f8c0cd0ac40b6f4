package up

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/deploy"
	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/trust"
)

// connectedFile holds the uid of the registration for which objects were put
// into a cluster that is not ours; what it names is removed by down.
const connectedFile = "connected"

// adopt takes in the cluster that the caller named, and says what it is.
func (s *story) adopt(ctx context.Context, o Options, detached bool) (verdict, error) {
	binary := ""
	if path, err := exec.LookPath("kubectl"); err == nil {
		binary = filepath.Dir(path)
	} else if binary, err = devcluster.Build(ctx, devcluster.Options{Path: o.Devcluster, Source: o.Source}, s.progress()); err != nil {
		return verdict{}, fmt.Errorf("kubectl is not on the PATH, and: %w", err)
	}
	var err error
	s.kubeContext, s.adopted = o.Context, true
	s.cluster, err = devcluster.Adopt(ctx, devcluster.Adoption{Binary: binary, Dir: s.path("cluster"), Detached: detached, Kubeconfig: o.Kubeconfig, Context: o.Context})
	if err != nil {
		return verdict{}, err
	}
	nodes, err := s.cluster.Kubectl(ctx, "get", "nodes", "-o", "name")
	if err != nil {
		return verdict{}, errors.Join(err, s.cluster.Stop(context.WithoutCancel(ctx)))
	}
	return verdict{true, fmt.Sprintf("API server at %s, nodes: %d", s.cluster.URL(), len(strings.Fields(nodes)))}, nil
}

// consent shows every object that would be made in the cluster and waits for
// the context's name to be typed. It applies nothing.
func (s *story) consent(ctx context.Context, in io.Reader) error {
	manifest, err := s.must(ctx, append([]string{"cluster", "connect", "-g", group, "-n", cluster}, s.connectFlags()...)...)
	if err != nil {
		return err
	}
	objects, err := s.kubectlIn(ctx, manifest, "create", "--dry-run=client", "-f", "-", "-o", "name")
	if err != nil {
		return err
	}
	s.line("")
	s.line("  These objects are made in context %s of %s, and removed by `sallyport down`:", s.kubeContext, s.cluster.URL())
	names := strings.Fields(objects)
	slices.Sort(names)
	for _, n := range names {
		s.line("    %s", n)
	}
	s.line("  Nothing else in the cluster is touched. Type the name of the context to go on:")
	if in == nil {
		return errors.New("nobody can type here: nothing was made")
	}
	typed, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && typed == "" {
		return errors.New("nothing was typed: nothing was made")
	}
	if strings.TrimSpace(typed) != s.kubeContext {
		return fmt.Errorf("%q is not %q: nothing was made", strings.TrimSpace(typed), s.kubeContext)
	}
	uid, err := s.must(ctx, "aks", "show", "-g", group, "-n", cluster, "--query", "resourceUID || resourceUid", "-o", "tsv")
	if err != nil {
		return err
	}
	return os.WriteFile(s.path(connectedFile), []byte(uid), 0o600)
}

// kubectlIn runs kubectl as the cluster's owner with a manifest on its input.
func (s *story) kubectlIn(ctx context.Context, manifest string, args ...string) (string, error) {
	cmd := s.cluster.KubectlCommand(ctx, args...)
	cmd.Stdin = strings.NewReader(manifest)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), err
}

// undo removes from an adopted cluster what was put there, and nothing else.
func undo(ctx context.Context, dir string, out io.Writer) error {
	uid, err := os.ReadFile(filepath.Join(dir, connectedFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, line := range deploy.Cleanup(trust.ClusterUID(uid)) {
		words := strings.Fields(line)
		cmd := exec.CommandContext(ctx, filepath.Join(dir, "cluster", "bin", words[0]), append(words[1:], "--ignore-not-found")...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(dir, "cluster", "kubeconfig"), "KUBERC=off")
		if said, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(said)))
		}
		fmt.Fprintln(out, line)
	}
	return nil
}
