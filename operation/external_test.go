package operation_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// childEndpoint, when set, makes the test binary a server on an external etcd
// that holds on to every operation it gets, and tells what it may still write
// when its lease is over.
const childEndpoint = "SALLYPORT_TEST_OPERATION_ENDPOINT"

const shortLease = 2 * time.Second

func externalChild(endpoint string) error {
	ctx := context.Background()
	s, err := store.Open(ctx, store.Config{Endpoints: []string{endpoint}, Log: quiet})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return operation.New(operation.Config{Store: s, Replica: "child", TTL: shortLease, Log: quiet, Handlers: map[string]operation.Handler{
		"k": func(ctx context.Context, op *store.Operation, _ func(string)) error {
			fmt.Println("running", op.ID)
			<-ctx.Done()
			_, err := s.Commit(context.WithoutCancel(ctx), operation.Fence(ctx), store.Put(store.Mandate{Cluster: "from the child"}))
			fmt.Println("fenced", errors.Is(err, store.ErrConflict), err)
			return ctx.Err()
		},
	}}).Run(ctx)
}

// external starts an etcd on a unix socket.
func external(t *testing.T) (endpoint string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "etcd") // short, for the socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = "outside", filepath.Join(dir, "data")
	cfg.ListenPeerUrls, cfg.ListenClientUrls = nil, []url.URL{{Scheme: "unix", Path: socket}}
	cfg.AdvertiseClientUrls = []url.URL{{Scheme: "https", Host: "127.0.0.1:1"}}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.TickMs, cfg.ElectionMs = 10, 100
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Close)
	<-etcd.Server.ReadyNotify()
	return "unix://" + socket
}

// server is a child.
type server struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func startServer(t *testing.T, endpoint string) *server {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEndpoint+"="+endpoint)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p := &server{t, cmd, bufio.NewScanner(out)}
	p.says("ready")
	return p
}

func (p *server) says(want string) {
	p.t.Helper()
	if !p.lines.Scan() || !strings.HasPrefix(p.lines.Text(), want) {
		p.t.Fatalf("the child said %q, not %q", p.lines.Text(), want)
	}
}

func (p *server) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// takeOver has a child take an operation, does something to the child, and has
// this process's runner finish the operation once the child's lease is over.
func takeOver(t *testing.T, do func(*server)) *server {
	t.Helper()
	endpoint := external(t)
	s, err := store.Open(t.Context(), store.Config{Endpoints: []string{endpoint}, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	p := startServer(t, endpoint)
	op := add(t, s, "k", nil)
	p.says("running " + op.ID)
	ran := make(chan time.Time, 10)
	start(t, operation.Config{Store: s, Replica: "this", TTL: shortLease, Handlers: map[string]operation.Handler{
		"k": func(context.Context, *store.Operation, func(string)) error { ran <- time.Now(); return nil },
	}})
	select {
	case <-ran:
		t.Fatal("both run the operation")
	case <-time.After(500 * time.Millisecond):
	}
	do(p)
	done := await(t, s, op, "end", done)
	if done.Status != store.OperationSucceeded || len(ran) != 1 {
		t.Errorf("%+v, ran %d times", done, len(ran))
	}
	if _, err := store.Get[store.Mandate](t.Context(), s, store.MandatePrefix+"from the child"); trust.KindOf(err) != trust.NotFound {
		t.Errorf("the child's write: %v", err)
	}
	return p
}

func TestKilledServersOperationIsTaken(t *testing.T) {
	t.Parallel()
	began := time.Now()
	takeOver(t, func(p *server) { p.signal(syscall.SIGKILL) })
	t.Logf("taken over and finished in %s", time.Since(began))
}

// A server that stood still for longer than its lease comes back: it stops its
// handler, and what that still writes with the fence is refused.
func TestFrozenServerIsFenced(t *testing.T) {
	t.Parallel()
	p := takeOver(t, func(p *server) { p.signal(syscall.SIGSTOP) })
	p.signal(syscall.SIGCONT)
	p.says("fenced true")
}
