package main

import (
	"context"
	"encoding/base64"
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
	testscript.Main(suite{m}, map[string]func(){"sallyport": main, "browse": browse, "az": main}) // az: scripts written for it run as they are
}

// suite is all tests; the server they share is stopped after the last.
type suite struct{ m *testing.M }

func (s suite) Run() int {
	code := s.m.Run()
	shared.stop(code != 0)
	return code
}

// server is one sallyportd, shared by all tests.
type server struct {
	once   sync.Once
	err    error
	dir    string
	admin  string // credential file
	cmd    *exec.Cmd
	exited chan error
}

var shared server

// start builds and starts the server, once.
func (s *server) start(t *testing.T) {
	t.Helper()
	s.once.Do(func() { s.err = s.launch() })
	if s.err != nil {
		t.Fatal(s.err)
	}
}

func (s *server) launch() (err error) {
	if s.dir, err = os.MkdirTemp("", "sallyport-test-*"); err != nil {
		return err
	}
	binary := filepath.Join(s.dir, "sallyportd")
	build := exec.Command("go", "build", "-o", binary, "../sallyportd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build sallyportd: %w\n%s", err, out)
	}
	// The URL is part of every token, so the port must be known before the
	// server listens: one that was free a moment ago.
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := free.Addr().String()
	second, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	storage := second.Addr().String()
	free.Close()
	second.Close()
	s.admin = filepath.Join(s.dir, "keys", "admin.json")
	config := filepath.Join(s.dir, "sallyportd.yaml")
	text := fmt.Sprintf("externalURL: https://%s\nlisten: %s\nlocation: westeurope\nlocations: [westeurope, eastus]\ndataDir: %s\nsealKeyFile: %s\nlog: {level: warn}\nstorage: {folder: %s, listen: %s}\n",
		address, address, filepath.Join(s.dir, "data"), filepath.Join(s.dir, "keys", "seal.key"), filepath.Join(s.dir, "storage"), storage)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return err
	}
	s.cmd = exec.Command(binary, "--config", config)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.exited = make(chan error, 1)
	go func() {
		err := s.cmd.Wait()
		log.Close()
		s.exited <- err
	}()
	return s.ready()
}

// ready waits until the server listens.
func (s *server) ready() error {
	deadline := time.After(60 * time.Second)
	for {
		if admin, err := client.ReadAdminFile(s.admin); err == nil {
			if conn, err := net.Dial("tcp", strings.TrimPrefix(admin.Server, "https://")); err == nil {
				conn.Close()
				return nil
			}
		}
		select {
		case err := <-s.exited:
			s.exited <- err
			return fmt.Errorf("sallyportd ended: %w", err)
		case <-deadline:
			return errors.New("sallyportd was not ready within 60 s")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop ends the server and shows its log if a test failed.
func (s *server) stop(failed bool) {
	if s.exited != nil {
		s.cmd.Process.Signal(os.Interrupt)
		select {
		case <-s.exited:
		case <-time.After(20 * time.Second):
			s.cmd.Process.Kill()
			<-s.exited
		}
	}
	if s.dir == "" {
		return
	}
	if data, err := os.ReadFile(filepath.Join(s.dir, "log")); err == nil && failed {
		fmt.Fprintf(os.Stderr, "sallyportd said:\n%s", data)
	}
	os.RemoveAll(s.dir)
}

// TestStories runs the real command against a real server. Every story has its
// own folder, configuration and resource group.
func TestStories(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("stories run where sallyportd runs: linux")
	}
	t.Parallel()
	shared.start(t)
	admin, err := client.ReadAdminFile(shared.admin)
	if err != nil {
		t.Fatal(err)
	}
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
			e.Setenv("SECRET", admin.ClientSecret)
			e.Setenv("CA_FILE", filepath.Join(e.WorkDir, "ca.pem"))
			e.Setenv("CA_HASH", client.CAHash(admin.CA))
			e.Setenv("CA_BASE64", base64.StdEncoding.EncodeToString([]byte(admin.CA)))
			if err := os.WriteFile(filepath.Join(e.WorkDir, "ca.pem"), []byte(admin.CA), 0o600); err != nil {
				return err
			}
			return errors.Join(certify(e.WorkDir), os.MkdirAll(filepath.Join(e.WorkDir, "home"), 0o700))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fails": fails, "capture": capture, "mode": mode, "agents": agents, "device": device,
		},
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
