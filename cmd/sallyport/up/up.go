package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/devcluster"
)

// Options are what the command line says.
type Options struct {
	Dir        string // everything lives below it; default .sallyport in the working directory
	Source     string // a checkout of the product; default the working directory
	Devcluster string // a prebuilt Kubernetes binary; default: built from source
	Nodes      int    // real nodes, 0 to 3; -1: one where they can run

	// Kubeconfig and Context name a cluster that exists, to be used instead of
	// one made for the story. In is where its name is typed in consent.
	Kubeconfig, Context string
	In                  io.Reader

	Out   io.Writer
	Color bool // Out is a terminal that shows colours
	Live  bool // progress may rewrite its line
}

// shellPod is the pod that the story opens a shell in.
const shellPod = "workload"

// Up starts everything, tells the story and leaves it running.
func Up(ctx context.Context, o Options) error {
	s, err := begin(ctx, o, true)
	if err != nil {
		return err
	}
	if err := s.all(ctx, o.In); err != nil {
		// What failed is what a person wants to look at: it stays, and says how
		// to remove it.
		return errors.Join(err, s.cluster.Release(), fmt.Errorf("logs are in %s; `%s` removes everything", s.shown([]string{s.path("cluster", "logs")}), s.downCommand()))
	}
	s.afterwards()
	return s.cluster.Release()
}

// Demo tells the same story, checks it against the API server and its own audit
// log, and tears everything down.
func Demo(ctx context.Context, o Options) (err error) {
	s, err := begin(ctx, o, false)
	if err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, s.cluster.Stop(stopping))
		if err == nil {
			err = os.RemoveAll(s.dir)
		}
	}()
	if err := s.all(ctx, o.In); err != nil {
		return err
	}
	if err := s.check(ctx); err != nil {
		return err
	}
	s.heading("Every step was as told. Everything is being stopped.")
	return nil
}

// Down stops what Up left running, and removes its folder.
func Down(ctx context.Context, o Options) error {
	dir, err := o.folder()
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		fmt.Fprintf(o.Out, "Nothing to stop: there is no %s.\n", dir)
		return nil
	}
	if _, err := os.Stat(filepath.Join(dir, marker)); err != nil {
		return fmt.Errorf("%s was not made by sallyport up, so it is left alone", dir)
	}
	if err := devcluster.Recover(ctx, filepath.Join(dir, "cluster")); err != nil {
		return err
	}
	if err := undo(ctx, dir, o.Out); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	fmt.Fprintf(o.Out, "Stopped, and %s is removed.\n", dir)
	return nil
}

func (o Options) folder() (string, error) {
	dir := o.Dir
	if dir == "" {
		dir = ".sallyport"
	}
	return filepath.Abs(dir)
}

// marker tells a folder of ours from one that somebody else has filled.
const marker = "made-by-sallyport-up"

// begin shows the plan, and if nothing is missing builds and starts everything.
func begin(ctx context.Context, o Options, detached bool) (*story, error) {
	dir, err := o.folder()
	if err != nil {
		return nil, err
	}
	from, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	if o.Source == "" {
		o.Source = from
	}
	// Somebody else's cluster is asked about, which needs the terminal.
	t := &teller{out: o.Out, color: o.Color, now: time.Now, live: o.Live && o.Kubeconfig == ""}
	p, err := planFor(ctx, o, dir)
	if err != nil {
		return nil, err
	}
	free := resources{disk: diskFree(dir), memory: memoryFree()}
	p.check(free)
	p.show(t, free)
	if err := p.err(); err != nil {
		return nil, err
	}
	if err := claim(ctx, dir); err != nil {
		return nil, err
	}
	s := &story{world: &world{dir: dir, source: o.Source, from: from}, teller: t}
	t.heading("Building and starting")
	if err := s.startCluster(ctx, o, p, detached); err != nil {
		return nil, err
	}
	err = s.step("Sallyport: server, agents, command line", "go build ./cmd/...", func() (verdict, error) {
		return verdict{true, s.shown([]string{s.path("bin")})}, s.buildPrograms(ctx)
	})
	if err == nil {
		err = s.step("The server: control plane, authority and gateway in one process, etcd embedded", "", func() (verdict, error) {
			err := s.startServer(ctx)
			return verdict{true, s.server}, err
		})
	}
	if err != nil {
		return nil, errors.Join(err, s.cluster.Stop(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// startCluster starts the story's own cluster, or takes in the one that is
// named.
func (s *story) startCluster(ctx context.Context, o Options, p *plan, detached bool) error {
	if o.Kubeconfig != "" {
		return s.step("Your cluster, "+o.Context, "", func() (verdict, error) { return s.adopt(ctx, o, detached) })
	}
	var binary string
	if err := s.step("Kubernetes "+devcluster.KubernetesVersion+": etcd, API server, controllers, kubelet, kubectl", "", func() (_ verdict, err error) {
		binary, err = devcluster.Build(ctx, devcluster.Options{Path: o.Devcluster, Source: o.Source}, s.progress())
		return verdict{true, p.Kubernetes}, err
	}); err != nil {
		return err
	}
	return s.step("A private cluster", "", func() (_ verdict, err error) {
		s.kubeContext = "dev"
		s.cluster, err = devcluster.Start(ctx, devcluster.Config{Binary: binary, Dir: s.path("cluster"), Detached: detached, Nodes: p.Nodes, AuditLevel: "Metadata"})
		if err != nil {
			return verdict{}, err
		}
		return verdict{true, fmt.Sprintf("API server at %s, nodes: %d", s.cluster.URL(), p.Nodes)}, nil
	})
}

// planFor looks at what there is.
func planFor(ctx context.Context, o Options, dir string) (*plan, error) {
	p := &plan{Folder: dir, Root: os.Getuid() == 0, Nodes: o.Nodes, Kubernetes: "built before, from the cache"}
	if _, err := os.Stat(filepath.Join(dir, marker)); err == nil {
		p.Before = "what an earlier run left there is stopped and removed first"
	}
	if o.Kubeconfig != "" || o.Context != "" {
		p.Nodes, p.NoNodes = 0, "your cluster's own"
		p.Kubernetes = "context " + o.Context + " of " + o.Kubeconfig
		if o.Kubeconfig == "" || o.Context == "" {
			p.Missing = append(p.Missing, "--kubeconfig FILE and --context NAME go together: nothing is taken from your environment")
		}
		return p, nil
	}
	switch _, err := devcluster.Find(ctx, devcluster.Options{Path: o.Devcluster, Source: o.Source}); {
	case errors.Is(err, devcluster.ErrNotBuilt):
		p.Build, p.Kubernetes = true, devcluster.KubernetesVersion+", built from source once and kept"
	case err != nil:
		p.Missing = append(p.Missing, "Kubernetes: "+err.Error())
	}
	ok, why := devcluster.CanRunNodes()
	switch {
	case o.Nodes > devcluster.MaxNodes:
		p.Missing = append(p.Missing, fmt.Sprintf("nodes: %d were asked for, there may be %d", o.Nodes, devcluster.MaxNodes))
	case o.Nodes < 0 && ok:
		p.Nodes = 1
	case o.Nodes < 0:
		p.Nodes, p.NoNodes = 0, why
	case o.Nodes == 0:
		p.NoNodes = "none asked for"
	case !ok:
		p.Missing = append(p.Missing, "nodes: "+why)
	}
	return p, nil
}

// claim takes the folder, after stopping what an earlier, killed run left.
func claim(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		if _, err := os.Stat(filepath.Join(dir, marker)); err != nil {
			return fmt.Errorf("%s holds something else: choose another folder with --dir", dir)
		}
		if err := devcluster.Recover(ctx, filepath.Join(dir, "cluster")); err != nil {
			return err
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	for _, sub := range []string{"", "bin", "home", "keys"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, marker), nil, 0o600)
}

// progress shows how far a build is: on a terminal in one line, else rarely.
func (s *story) progress() func(devcluster.Progress) {
	var last time.Time
	return func(p devcluster.Progress) {
		now := s.now()
		if s.live {
			s.mu.Lock()
			s.doing = p.String()
			s.mu.Unlock()
			return
		}
		if now.Sub(last) > 15*time.Second {
			last = now
			fmt.Fprintf(s.out, "    %s\n", p.String())
		}
	}
}

// all is the story from the first login to the last refusal.
func (s *story) all(ctx context.Context, in io.Reader) error {
	s.heading("Connecting")
	if err := s.workload(ctx); err != nil {
		return err
	}
	if err := s.connect(ctx, in); err != nil {
		return err
	}
	s.heading("The story of one binding")
	return s.tell(ctx)
}

func (s *story) downCommand() string {
	if s.path() == filepath.Join(s.from, ".sallyport") {
		return "make down"
	}
	return s.shown([]string{s.program("sallyport"), "down", "--dir", s.dir})
}

// afterwards says where everything is and what to type next.
func (s *story) afterwards() {
	sp := s.shown([]string{s.program("sallyport")})
	env := "SALLYPORT_CONFIG=" + s.shown([]string{s.path("config.yaml")})
	kubectl := "KUBECONFIG=" + s.shown([]string{s.path("service.kubeconfig")}) + " " + s.shown([]string{s.cluster.Program("kubectl")})
	s.heading("It is running. Type next")
	for _, c := range []struct{ what, command string }{
		{"bind the service again", fmt.Sprintf("%s %s aks trustedaccess rolebinding create -g %s --cluster-name %s -n %s --source-resource-id %s --roles %s", env, sp, group, cluster, binding, s.source, roles)},
		{"allowed then", kubectl + " get services -A"},
		{"refused, always", kubectl + " get ingresses -A"},
		{"the audit lines of both", "tail -n 2 " + s.shown([]string{s.auditFile()})},
	} {
		s.line("  %-24s %s", c.what, c.command)
	}
	s.line("")
	s.line("  %-24s %s", "everything lives in", s.shown([]string{s.dir}))
	s.line("  %-24s %s", "a cluster of your own", "docs/connect.md")
	if !s.nodes() {
		s.line("  %-24s %s", "not shown", "a shell cut at once: it needs a real node")
	}
	s.line("  %-24s %s", "stop and remove it", s.downCommand())
}

// lines of a file, empty ones left out.
func lines(file string) ([]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' }), nil
}
