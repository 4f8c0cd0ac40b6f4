package store_test

import (
	"bufio"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/sallyport/sallyport/store"
)

// The test binary is its own child process: childMode says what it does.
const (
	childMode = "SALLYPORT_TEST_STORE_CHILD"
	childDir  = "SALLYPORT_TEST_STORE_DIR"
)

func child() {
	mode, dir := os.Getenv(childMode), os.Getenv(childDir)
	run := map[string]func(context.Context, string) error{
		"write": writeForever, "hold": holdForever, "fill": writeUntilRefused, "etcd": serveForever,
	}[mode]
	if run == nil {
		return
	}
	fmt.Println("error", run(context.Background(), dir))
	os.Exit(1)
}

// writeForever writes one record after the other and prints the number of each
// once it is acknowledged.
func writeForever(ctx context.Context, dir string) error {
	s, err := store.Open(ctx, store.Config{Dir: dir, Log: quiet})
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		// Two records each, so that a torn transaction would show.
		if _, err := s.Commit(ctx, store.Create(note{fmt.Sprintf("/n/%06d", i), "a"}),
			store.Create(note{fmt.Sprintf("/n/%06d/twin", i), "b"})); err != nil {
			return err
		}
		fmt.Println("wrote", i)
	}
}

// holdForever holds the directory and a leased key.
func holdForever(ctx context.Context, dir string) error {
	s, err := store.Open(ctx, store.Config{Dir: dir, Log: quiet})
	if err != nil {
		return err
	}
	lease, err := s.Lease(ctx, time.Minute)
	if err != nil {
		return err
	}
	if _, err := s.Commit(ctx, store.Under(lease, store.Create(note{"/n/live", ""}))); err != nil {
		return err
	}
	fmt.Println("holds", os.Getpid())
	select {}
}

// writeUntilRefused limits the size of files, which to etcd is a full disk that
// the free space does not announce, and writes until that shows. The error
// comes as "refused <last acknowledged> <kind> <message>".
func writeUntilRefused(ctx context.Context, dir string) error {
	s, err := store.Open(ctx, store.Config{Dir: dir, Log: quiet})
	if err != nil {
		return err
	}
	if err := limitFiles(4 << 20); err != nil {
		return err
	}
	text := strings.Repeat("x", 64<<10)
	for i := 0; ; i++ {
		_, err := s.Commit(ctx, store.Create(note{fmt.Sprintf("/n/%06d", i), text}))
		if err == nil {
			continue
		}
		<-s.Done()
		_, rerr := store.Get[note](ctx, s, "/n/000000")
		fmt.Printf("refused %d|%v|%v|%v\n", i, err, s.Err(), rerr)
		start := time.Now()
		fmt.Println("closed", s.Close(), time.Since(start).Round(time.Second))
		os.Exit(3)
	}
}

// serveForever is an etcd cluster on a unix socket in the directory.
func serveForever(_ context.Context, dir string) error {
	listen := url.URL{Scheme: "unix", Path: filepath.Join(dir, "s")}
	etcd, err := embed.StartEtcd(clusterConfig(filepath.Join(dir, "data"), listen, transport.TLSInfo{}))
	if err != nil {
		return err
	}
	<-etcd.Server.ReadyNotify()
	fmt.Println("serves")
	select {}
}

// process is a child.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func startChild(t *testing.T, mode, dir string) *process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childMode+"="+mode, childDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t, cmd, bufio.NewScanner(out)}
	t.Cleanup(p.kill)
	return p
}

// line is the child's next line.
func (p *process) line() string {
	p.t.Helper()
	if !p.lines.Scan() {
		p.t.Fatalf("the child ended: %v", p.lines.Err())
	}
	return p.lines.Text()
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// freeze stops the child and waits until all of it stands still.
func (p *process) freeze() {
	p.t.Helper()
	p.signal(syscall.SIGSTOP)
	eventually(p.t, 5*time.Second, "freezing", func() bool {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
		if err != nil || len(tasks) == 0 {
			p.t.Skip("needs /proc")
		}
		for _, task := range tasks {
			b, err := os.ReadFile(task)
			if _, state, _ := strings.Cut(string(b), ") "); err == nil && !strings.HasPrefix(state, "T") {
				return false
			}
		}
		return true
	})
}

// kill is kill -9, once.
func (p *process) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}
