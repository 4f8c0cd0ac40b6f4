package up

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/devcluster"
)

// The names of the story.
const (
	group     = "demo"
	cluster   = "private"
	workspace = "vision"
	binding   = "ml-binding"

	sourceType = "Microsoft.MachineLearningServices/workspaces"
	// The pair that Azure's own guide binds. inference-v1 can leave access
	// behind, so its acceptance needs a flag.
	roles = sourceType + "/inference-v1," + sourceType + "/mlworkload"
)

// story tells what happens between one service and one cluster. Every step is a
// command; the figures are of this run.
type story struct {
	*world
	*teller
	source string // resource id of the service
	watch  *stream
	shell  *stream
}

// connect registers the cluster, puts the agents to work and makes the service.
func (s *story) connect(ctx context.Context, in io.Reader) error {
	steps := []struct {
		title string
		args  []string
		then  func(context.Context) error
	}{
		{"The platform team logs in, with the credential that the server's first start wrote",
			[]string{"login", "--admin-file", s.adminFile(), "--name", "up", "-o", "none"}, nil},
		{"and makes a resource group.",
			[]string{"group", "create", "-n", group, "-l", "local", "--query", "properties.provisioningState", "-o", "tsv"}, nil},
		{"It connects its private cluster. The cluster's owner accepts two roles, one of them marked: outlives revocation.",
			append([]string{"cluster", "connect", "-g", group, "-n", cluster, "--apply", "--yes", "--no-wait", "-o", "none"}, s.connectFlags()...), s.agents},
		{"A service registers: it gets an identity of its own, and no right to anything.",
			[]string{"identity", "create", "-g", group, "--type", sourceType, "-n", workspace, "--query", "identity.principalId", "-o", "tsv"}, nil},
		{"It gets a way to prove who it is,",
			[]string{"identity", "secret", "create", "-g", group, "--type", sourceType, "--identity-name", workspace, "--file", s.path("service.secret"), "-o", "none"}, s.serviceKubeconfig},
	}
	for i, step := range steps {
		if i == 2 && s.adopted {
			if err := s.consent(ctx, in); err != nil {
				return err
			}
		}
		err := s.step(step.title, "sallyport "+s.shown(step.args), func() (verdict, error) {
			out, err := s.must(ctx, step.args...)
			if err == nil && step.then != nil {
				err = step.then(ctx)
			}
			return verdict{true, out}, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// shown is a command line as a person would type it.
func (s *story) shown(args []string) string {
	var words []string
	for _, a := range args {
		if rel, err := filepath.Rel(s.from, a); err == nil && filepath.IsAbs(a) && !strings.HasPrefix(rel, "..") {
			a = rel
		}
		if a == "" || strings.ContainsAny(a, " ,{}|*?$'\"") && !strings.Contains(a, sourceType) {
			a = "'" + a + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}

// agents waits until both agents of the cluster have connected.
func (s *story) agents(ctx context.Context) error {
	out, err := s.must(ctx, "aks", "show", "-g", group, "-n", cluster, "--query", "resourceUID || resourceUid", "-o", "tsv")
	if err != nil {
		return err
	}
	s.uid = out
	if err := s.agentFiles(ctx); err != nil {
		return err
	}
	if !s.nodes() {
		if err := s.startAgents(ctx); err != nil {
			return err
		}
	}
	return s.wait(ctx, "both agents have connected", 90*time.Second, func(ctx context.Context) error {
		out, err := s.must(ctx, "cluster", "status", "-g", group, "-n", cluster, "-o", "tsv", "--query", "agents[].connected")
		if err == nil && strings.Count(strings.ToLower(out), "true") < 2 {
			err = fmt.Errorf("agents: %s", out)
		}
		return err
	})
}

// serviceKubeconfig is what the service runs kubectl with.
func (s *story) serviceKubeconfig(ctx context.Context) error {
	client, err := s.must(ctx, "identity", "show", "-g", group, "--type", sourceType, "-n", workspace, "--query", "[id,identity.clientId]", "-o", "tsv")
	if err != nil {
		return err
	}
	fields := strings.Fields(client)
	if len(fields) != 2 {
		return fmt.Errorf("identity show answered %q", client)
	}
	s.source = fields[0]
	_, err = s.must(ctx, "aks", "get-credentials", "-g", group, "-n", cluster, "-f", s.path("service.kubeconfig"), "--overwrite-existing",
		"--client-id", fields[1], "--client-secret-file", s.path("service.secret"))
	return err
}

// act is one request of the service.
type act struct {
	title   string
	args    []string
	allowed bool
	says    string // what the answer must hold
}

func (s *story) perform(ctx context.Context, a act) error {
	return s.step(a.title, "kubectl "+s.shown(a.args), func() (verdict, error) {
		r, err := s.service(ctx, a.args...)
		if err != nil {
			return verdict{}, err
		}
		said := strings.TrimSpace(r.stdout + "\n" + r.stderr)
		if (r.code == 0) != a.allowed || !strings.Contains(said, a.says) {
			return verdict{}, fmt.Errorf("exit %d, expected %s holding %q:\n%s", r.code, map[bool]string{true: "success", false: "a refusal"}[a.allowed], a.says, said)
		}
		return verdict{a.allowed, withoutLog(said)}, nil
	})
}

// klogLine is what kubectl logs beside what it says.
var klogLine = regexp.MustCompile(`(?m)^[EWI][0-9]{4} .*\n?`)

func withoutLog(said string) string { return strings.TrimSpace(klogLine.ReplaceAllString(said, "")) }

// tell is the story of one binding.
func (s *story) tell(ctx context.Context) error {
	get := []string{"get", "services", "-A"}
	if err := s.perform(ctx, act{"The service asks. Nobody has bound it: refused.", get, false, "Forbidden"}); err != nil {
		return err
	}
	create := []string{"aks", "trustedaccess", "rolebinding", "create", "-g", group, "--cluster-name", cluster, "-n", binding,
		"--source-resource-id", s.source, "--roles", roles, "--query", "provisioningState", "-o", "tsv"}
	if err := s.step("The cluster's team binds it.", "sallyport "+s.shown(create), func() (verdict, error) {
		out, err := s.must(ctx, create...)
		return verdict{true, out}, err
	}); err != nil {
		return err
	}
	for _, a := range []act{
		{"The same request: allowed.", get, true, "kubernetes"},
		{"A request outside the roles is still refused.", []string{"get", "ingresses", "-A"}, false, "Forbidden"},
	} {
		if err := s.perform(ctx, a); err != nil {
			return err
		}
	}
	if err := s.openStreams(ctx); err != nil {
		return err
	}
	return s.revoke(ctx)
}

// openStreams opens a watch and, on a real node, a shell.
func (s *story) openStreams(ctx context.Context) (err error) {
	args := []string{"get", "services", "-A", "--watch", "--output-watch-events"}
	if err := s.step("It opens a watch that stays open,", "kubectl "+s.shown(args), func() (verdict, error) {
		s.watch, err = s.open(ctx, "", args...)
		return verdict{true, "open"}, err
	}); err != nil {
		return err
	}
	if !s.nodes() {
		return nil
	}
	shell := []string{"exec", "-i", "-n", "default", shellPod, "--", "sh"}
	return s.step("and a shell in a pod.", "kubectl "+s.shown(shell), func() (verdict, error) {
		if s.shell, err = s.open(ctx, "echo ready\n", shell...); err != nil {
			return verdict{}, err
		}
		return verdict{true, s.shell.first}, nil
	})
}

// revoke deletes the binding and measures when the streams end.
func (s *story) revoke(ctx context.Context) error {
	args := []string{"aks", "trustedaccess", "rolebinding", "delete", "-g", group, "--cluster-name", cluster, "-n", binding, "--yes"}
	if err := s.step("The team deletes the binding.", "sallyport "+s.shown(args), func() (verdict, error) {
		began := time.Now()
		_, err := s.must(ctx, args...)
		if err != nil {
			return verdict{}, err
		}
		var ends []string
		for name, st := range map[string]*stream{"the watch": s.watch, "the shell": s.shell} {
			if st == nil {
				continue
			}
			at, err := st.ended(ctx, 10*time.Second)
			if err != nil {
				return verdict{}, fmt.Errorf("%s goes on: %w", name, err)
			}
			ends = append(ends, fmt.Sprintf("%s was cut %s after the command began", name, short(at.Sub(began))))
		}
		return verdict{true, "deleted: every gateway and the agent have confirmed\n" + strings.Join(ends, "\n")}, nil
	}); err != nil {
		return err
	}
	return s.perform(ctx, act{"The service asks again: refused.", []string{"get", "services", "-A"}, false, "Forbidden"})
}

// stream is a kubectl that runs until somebody ends it.
type stream struct {
	cmd   *exec.Cmd
	first string
	done  chan struct{}
	mu    sync.Mutex
	at    time.Time
}

// openBound is how long a stream may take to its first line.
const openBound = 20 * time.Second

// open starts kubectl as the service and waits for its first line.
func (s *story) open(ctx context.Context, input string, args ...string) (*stream, error) {
	cmd := exec.CommandContext(ctx, s.cluster.Program("kubectl"), args...)
	cmd.Dir = s.dir
	cmd.Env = s.env("KUBECONFIG=" + s.path("service.kubeconfig"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := in.Write([]byte(input)); err != nil {
		return nil, errors.Join(err, cmd.Process.Kill())
	}
	st := &stream{cmd: cmd, done: make(chan struct{})}
	lines := bufio.NewReader(out)
	first := make(chan string, 1)
	go func() {
		defer close(st.done)
		line, _ := lines.ReadString('\n')
		first <- strings.TrimSpace(line)
		for {
			if _, err := lines.ReadString('\n'); err != nil {
				break
			}
		}
		st.mu.Lock()
		st.at = time.Now()
		st.mu.Unlock()
		_ = in.Close()
		_ = cmd.Wait() // its exit code says no more than that it was ended
	}()
	bound := time.NewTimer(openBound)
	defer bound.Stop()
	select {
	case st.first = <-first:
	case <-bound.C:
		return nil, errors.Join(fmt.Errorf("kubectl %s said nothing for %s: %s", strings.Join(args, " "), openBound, said.String()), cmd.Process.Kill())
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if st.first == "" {
		<-st.done
		return nil, fmt.Errorf("kubectl %s ended at once: %s", strings.Join(args, " "), said.String())
	}
	return st, nil
}

// ended waits until the stream has ended and says when.
func (st *stream) ended(ctx context.Context, bound time.Duration) (time.Time, error) {
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-st.done:
		st.mu.Lock()
		defer st.mu.Unlock()
		return st.at, nil
	case <-timer.C:
		return time.Time{}, fmt.Errorf("not ended after %s", bound)
	case <-ctx.Done():
		return time.Time{}, ctx.Err()
	}
}

// connectFlags are those of "cluster connect" besides its name: in pods the
// agents need an image, elsewhere they are processes of this machine.
func (s *story) connectFlags() []string {
	flags := []string{"--kubeconfig", s.cluster.Kubeconfig(), "--kube-context", s.kubeContext, "--roles", roles, "--outlives-revocation"}
	if s.nodes() {
		return append(flags, "--image", agentImage)
	}
	return append(flags, "--no-agents")
}

// workload runs a pod to open a shell in, where there is a node.
func (s *story) workload(ctx context.Context) error {
	if !s.nodes() {
		return nil
	}
	if err := s.step("The agents' image, made without a container engine", "", func() (verdict, error) {
		return verdict{true, agentImage + " is on the node"}, s.addImage(ctx)
	}); err != nil {
		return err
	}
	return s.step("A workload runs in the cluster", "", func() (verdict, error) {
		err := s.cluster.Apply(ctx, fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s, namespace: default}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: %s, imagePullPolicy: Never, command: [sleep, "86400"]}]}}`, shellPod, devcluster.ToolImage))
		if err != nil {
			return verdict{}, err
		}
		_, err = s.cluster.Kubectl(ctx, "wait", "--for=condition=Ready", "pod/"+shellPod, "--timeout=60s")
		return verdict{true, "pod " + shellPod + " runs"}, err
	})
}
