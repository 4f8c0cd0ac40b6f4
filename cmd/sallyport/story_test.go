package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sallyport/sallyport/client"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sallyport": main})
}

// server is one sallyportd, shared by all stories.
type server struct {
	once  sync.Once
	err   error
	admin string // credential file
	cmd   *exec.Cmd
	log   string
}

var shared server

// start builds and starts the server once; it is stopped when the test ends.
func (s *server) start(t *testing.T) {
	t.Helper()
	s.once.Do(func() { s.err = s.launch(t) })
	if s.err != nil {
		t.Fatal(s.err)
	}
}

func (s *server) launch(t *testing.T) error {
	dir := t.TempDir()
	binary := filepath.Join(dir, "sallyportd")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../sallyportd").CombinedOutput(); err != nil {
		return fmt.Errorf("build sallyportd: %w\n%s", err, out)
	}
	// The URL is part of every token, so the port must be known before the
	// server listens: one that was free a moment ago.
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := free.Addr().String()
	free.Close()
	config := filepath.Join(dir, "sallyportd.yaml")
	s.admin = filepath.Join(dir, "keys", "admin.json")
	s.log = filepath.Join(dir, "log")
	text := fmt.Sprintf("externalURL: https://%s\nlisten: %s\nlocation: westeurope\nlocations: [westeurope, eastus]\ndataDir: %s\nsealKeyFile: %s\nlog: {level: warn}\n",
		address, address, filepath.Join(dir, "data"), filepath.Join(dir, "keys", "seal.key"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	log, err := os.Create(s.log)
	if err != nil {
		return err
	}
	s.cmd = exec.Command(binary, "--config", config)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- s.cmd.Wait(); log.Close() }()
	t.Cleanup(func() {
		s.cmd.Process.Signal(os.Interrupt)
		select {
		case <-exited:
		case <-time.After(20 * time.Second):
			s.cmd.Process.Kill()
			<-exited
		}
		if t.Failed() {
			if data, err := os.ReadFile(s.log); err == nil {
				t.Logf("sallyportd said:\n%s", data)
			}
		}
	})
	deadline := time.After(60 * time.Second)
	for {
		if admin, err := client.ReadAdminFile(s.admin); err == nil {
			if conn, err := net.Dial("tcp", strings.TrimPrefix(admin.Server, "https://")); err == nil {
				conn.Close()
				return nil
			}
		}
		select {
		case err := <-exited:
			exited <- err
			data, _ := os.ReadFile(s.log)
			return fmt.Errorf("sallyportd ended: %w\n%s", err, data)
		case <-deadline:
			return errors.New("sallyportd was not ready within 60 s")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// TestStories runs the real command against a real server. Every story has its
// own folder, configuration and resource group.
func TestStories(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("stories run where sallyportd runs: linux")
	}
	shared.start(t)
	admin, err := client.ReadAdminFile(shared.admin)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("all", func(t *testing.T) { // so that the server outlives the parallel scripts
		testscript.Run(t, testscript.Params{
			Dir:           filepath.Join("testdata", "story"),
			UpdateScripts: os.Getenv("UPDATE_STORIES") != "",
			Setup: func(e *testscript.Env) error {
				e.Setenv("SALLYPORT_CONFIG", filepath.Join(e.WorkDir, "config", "config.yaml"))
				e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
				e.Setenv("NO_COLOR", "")
				e.Setenv("ADMIN", shared.admin)
				e.Setenv("SERVER", admin.Server)
				e.Setenv("HOST", strings.TrimPrefix(admin.Server, "https://"))
				e.Setenv("SUB", admin.SubscriptionID)
				e.Setenv("TENANT", admin.TenantID)
				e.Setenv("CA_HASH", client.CAHash(admin.CA))
				if err := os.WriteFile(filepath.Join(e.WorkDir, "ca.pem"), []byte(admin.CA), 0o600); err != nil {
					return err
				}
				return os.MkdirAll(filepath.Join(e.WorkDir, "home"), 0o700)
			},
			Cmds: map[string]func(*testscript.TestScript, bool, []string){
				"fails": fails, "capture": capture, "mode": mode, "agents": agents,
			},
		})
	})
}

// fails runs a command that must end with an exit code: "fails 3 sallyport …".
func fails(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fails CODE COMMAND ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != want {
		ts.Fatalf("%v, want exit code %d", err, want)
	}
}

// capture puts a command's output into a variable: "capture NAME sallyport …".
func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: capture NAME COMMAND ARGS...")
	}
	ts.Check(ts.Exec(args[1], args[2:]...))
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// mode checks a file's permissions: "mode 600 FILE".
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode OCTAL FILE")
	}
	st, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%o", st.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

// agents runs the two agents of a cluster until the story ends: "agents GROUP
// NAME [ROLE...]". They accept the roles named, and say of all others that the
// owner has not.
func agents(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: agents GROUP NAME ROLES...")
	}
	ctx, cancel := context.WithCancel(context.Background())
	running, err := startAgents(ctx, args[0], args[1], args[2:])
	if err != nil {
		cancel()
		ts.Fatalf("%v", err)
	}
	ts.Defer(func() {
		cancel()
		running.Wait()
	})
}
