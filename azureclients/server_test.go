package azureclients

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sallyport/sallyport/client"
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// the is the server that all tests share.
var the *server

func run(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "sallyport-azure-*")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if the, err = start(dir); err == nil {
		// Terraform's clients take no CA; like everybody, they trust the system's.
		ca := filepath.Join(dir, "ca.pem")
		if err := errors.Join(os.WriteFile(ca, []byte(the.admin.CA), 0o600), os.Setenv("SSL_CERT_FILE", ca)); err != nil {
			return 1, errors.Join(err, the.stop())
		}
		code = m.Run()
		err = the.stop()
	}
	if code != 0 || err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		fmt.Fprintf(os.Stderr, "sallyportd said:\n%s\n", log)
		return max(code, 1), err
	}
	return 0, nil
}

// server is one sallyportd with its embedded store, on loopback.
type server struct {
	dir       string // of its own; adminFile is in it
	adminFile string
	admin     *client.AdminFile
	http      *http.Client // trusts its CA
	cmd       *exec.Cmd
	exited    chan error
	log       *os.File
}

// start builds and starts the server and waits until it is ready.
func start(dir string) (*server, error) {
	binary := filepath.Join(dir, "sallyportd")
	build := exec.Command("go", "build", "-o", binary, "./cmd/sallyportd")
	build.Dir, build.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build sallyportd: %w\n%s", err, out)
	}
	// The URL is part of every token, so the port must be known before the server
	// listens: one that was free a moment ago. Somebody may take it in between.
	var err error
	for i := range 3 {
		var s *server
		if s, err = try(binary, filepath.Join(dir, fmt.Sprint(i)), filepath.Join(dir, "log")); err == nil {
			return s, nil
		}
	}
	return nil, err
}

func try(binary, dir, log string) (*server, error) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := free.Addr().String()
	if err := errors.Join(free.Close(), os.Mkdir(dir, 0o700)); err != nil {
		return nil, err
	}
	admin, config := filepath.Join(dir, "keys", "admin.json"), filepath.Join(dir, "sallyportd.yaml")
	text := fmt.Sprintf("externalURL: https://%s\nlisten: %s\nlocation: westeurope\nlocations: [westeurope, eastus]\ndataDir: %s\nsealKeyFile: %s\nadminFile: %s\nlog: {level: warn, format: text}\n",
		address, address, filepath.Join(dir, "data"), filepath.Join(dir, "keys", "seal.key"), admin)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	s := &server{dir: dir, adminFile: admin, cmd: exec.Command(binary, "--config", config), exited: make(chan error, 1)}
	if s.log, err = os.Create(log); err != nil {
		return nil, err
	}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		return nil, errors.Join(err, s.log.Close())
	}
	go func() { s.exited <- s.cmd.Wait() }() // stop receives
	if err := s.ready(admin); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// ready waits until the server answers.
func (s *server) ready(admin string) error {
	deadline := time.After(60 * time.Second)
	for {
		err := s.ask(admin)
		if err == nil {
			return nil
		}
		select {
		case end := <-s.exited:
			s.exited <- end
			return fmt.Errorf("sallyportd ended: %w", end)
		case <-deadline:
			return fmt.Errorf("sallyportd was not ready within 60 s: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *server) ask(admin string) (err error) {
	if s.admin, err = client.ReadAdminFile(admin); err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(s.admin.CA))
	s.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}}
	res, err := s.http.Get(s.admin.Server + "/readyz")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	return nil
}

func (s *server) stop() error {
	if s.http != nil {
		s.http.CloseIdleConnections()
	}
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.exited:
	case <-time.After(30 * time.Second):
		return errors.Join(errors.New("sallyportd did not stop within 30 s"), s.cmd.Process.Kill(), <-s.exited)
	}
	return s.log.Close()
}

// own is our own client, as the administrator, for what no Azure client can do.
func (s *server) own(t *testing.T) *client.Client {
	t.Helper()
	ca := client.ServerTrust{CA: s.admin.CA}
	c, err := client.New(client.Config{Server: s.admin.Server, Trust: ca, Credential: &client.AuthorityCredential{
		Authority: s.admin.Server, Trust: ca, Tenant: s.admin.TenantID, ClientID: s.admin.ClientID, Secret: client.Secret{Text: s.admin.ClientSecret}}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// eventually polls a condition.
func eventually(t *testing.T, what string, cond func(context.Context) bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !cond(t.Context()) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func group(name string) string {
	return "/subscriptions/" + the.admin.SubscriptionID + "/resourceGroups/" + name
}

func clusterID(groupName, name string) string {
	return group(groupName) + "/providers/Microsoft.ContainerService/managedClusters/" + name
}

func workspaceID(groupName, name string) string {
	return group(groupName) + "/providers/Microsoft.MachineLearningServices/workspaces/" + name
}
