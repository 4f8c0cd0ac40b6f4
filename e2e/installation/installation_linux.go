package installation

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/internal/devcluster"
)

// Build makes the binaries in dir, as a release does.
func Build(ctx context.Context, dir string) error {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	return build(ctx, strings.TrimSpace(string(root)), dir+string(filepath.Separator), "./cmd/sallyport", "./cmd/sallyportd", "./cmd/sallyport-agent", "./cmd/sallyport-ml")
}

// BuildInstaller makes the installer in dir: a module of its own, for those
// stories that install something.
func BuildInstaller(ctx context.Context, dir string) error {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	return build(ctx, filepath.Join(strings.TrimSpace(string(root)), "installer"), filepath.Join(dir, "sallyport-installer"), ".")
}

func build(ctx context.Context, source, out string, packages ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-o", out}, packages...)...)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build Sallyport: %w\n%s", err, out)
	}
	return nil
}

// Config says what to run.
type Config struct {
	Bin     string // folder of the binaries, see Build
	Dir     string // everything lives below it
	Cluster *devcluster.Cluster
	// Host is where the server listens. Default: 127.0.0.1.
	Host string
	// Owner is the cluster owner's kubeconfig, context dev. Default: the
	// cluster's administrator's.
	Owner string
	// Server is more of the server's configuration, YAML lines.
	Server string
}

// Installation is one whole Sallyport. Its methods are for one goroutine.
type Installation struct {
	Config
	URL   string // of the server
	Group string // resource id of the group that everything is in
	Name  string // of the cluster, once it is connected
	UID   string // of its registration
	Admin *client.AdminFile

	mu        sync.Mutex
	processes map[string]*Process
	arm       *client.Client
}

// New prepares an installation; nothing runs yet.
func New(c Config) (*Installation, error) {
	if c.Host == "" {
		c.Host = "127.0.0.1"
	}
	for _, d := range []string{"keys", "home", "logs"} {
		if err := os.MkdirAll(filepath.Join(c.Dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	return &Installation{Config: c, processes: map[string]*Process{}}, nil
}

// Path is a file of the installation.
func (i *Installation) Path(parts ...string) string {
	return filepath.Join(append([]string{i.Dir}, parts...)...)
}

// Program is one of our binaries.
func (i *Installation) Program(name string) string { return filepath.Join(i.Bin, name) }

// AuditFile is the gateway's audit log, AdminFile the first administrator's
// credential.
func (i *Installation) AuditFile() string { return i.Path("audit.jsonl") }

// AdminFile is the first administrator's credential.
func (i *Installation) AdminFile() string { return i.Path("keys", "admin.json") }

// Process is a process by its name: "sallyportd" or another server's name,
// "proxy", "reconciler". Nil if it was never started.
func (i *Installation) Process(name string) *Process {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.processes[name]
}

// Run starts a program beside the others; it is stopped with them.
func (i *Installation) Run(c Command) (*Process, error) {
	p, err := start(i.Path("logs"), c)
	if err == nil {
		i.mu.Lock()
		i.processes[c.Name] = p
		i.mu.Unlock()
	}
	return p, err
}

// Close ends every process, agents first.
func (i *Installation) Close() error {
	if i.arm != nil {
		i.arm.Close()
	}
	var errs []error
	for _, agents := range []bool{true, false} {
		for name, p := range i.processes {
			if (name == "proxy" || name == "reconciler") != agents {
				continue
			}
			select {
			case <-p.Ended():
			default:
				errs = append(errs, p.Stop(time.Minute))
			}
		}
	}
	return errors.Join(errs...)
}

// FreePort asks the kernel for one that nobody listens on.
func FreePort(host string) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// StartServer starts an all-in-one server and waits until it is ready. A server
// that ran here before comes back at its address, with its data.
func (i *Installation) StartServer(ctx context.Context) error {
	if i.URL == "" {
		address, err := FreePort(i.Host)
		if err != nil {
			return err
		}
		i.URL = "https://" + address
	}
	config := fmt.Sprintf("externalURL: %s\nlisten: %s\nlocation: local\ndataDir: %s\nsealKeyFile: %s\nadminFile: %s\naudit: {file: %s}\nlog: {format: json, level: debug}\n%s",
		i.URL, strings.TrimPrefix(i.URL, "https://"), i.Path("data"), i.Path("keys", "seal.key"), i.AdminFile(), i.AuditFile(), i.Server)
	return i.StartConfigured(ctx, "sallyportd", config, i.URL)
}

// StartConfigured starts a server of that name with a configuration and waits
// until the one at url is ready.
func (i *Installation) StartConfigured(ctx context.Context, name, config, url string) error {
	file := i.Path(name + ".yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	p, err := i.Run(Command{Name: name, Path: i.Program("sallyportd"), Args: []string{"--config", file}})
	if err != nil {
		return err
	}
	return Eventually(ctx, name+" is ready", 3*time.Minute, func(ctx context.Context) error {
		if err := p.Failed(); err != nil {
			return err
		}
		return i.ready(ctx, url)
	})
}

func (i *Installation) ready(ctx context.Context, url string) error {
	admin, err := client.ReadAdminFile(i.AdminFile())
	if err != nil {
		return err
	}
	i.Admin = admin
	hc := i.HTTP(1)
	defer hc.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := hc.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return fmt.Errorf("%s: %s", resp.Status, body)
	}
	return nil
}

// TLS trusts the server's CA.
func (i *Installation) TLS() *tls.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(i.Admin.CA))
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}
}

// HTTP is a client with connections of its own that speaks HTTP/1.1 or HTTP/2.
func (i *Installation) HTTP(major int) *http.Client {
	p := new(http.Protocols)
	p.SetHTTP1(major == 1)
	p.SetHTTP2(major == 2)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: i.TLS(), Protocols: p, MaxIdleConnsPerHost: 16}}
}

// ARM is a client of the control API, as the first administrator.
func (i *Installation) ARM() (*client.Client, error) {
	if i.arm != nil {
		return i.arm, nil
	}
	a := i.Admin
	c, err := (&client.Context{Server: a.Server, Authority: a.Authority, CA: a.CA, Tenant: a.TenantID, Admin: i.AdminFile()}).Open(nil, "e2e")
	i.arm = c
	return c, err
}

// Do makes one call of the control API and returns when it has answered, with
// the operation that it began.
func (i *Installation) Do(ctx context.Context, method, path, version string, body any) (*client.Operation, error) {
	arm, err := i.ARM()
	if err != nil {
		return nil, err
	}
	return arm.Begin(ctx, client.Request{Method: method, Path: path, Version: version, Body: body})
}

// Wait is Do that waits for the operation's end.
func (i *Installation) Wait(ctx context.Context, method, path, version string, body any) (json.RawMessage, error) {
	op, err := i.Do(ctx, method, path, version, body)
	if err != nil {
		return nil, err
	}
	return op.Wait(ctx, nil)
}

// CLI runs the command line as the platform team and returns what it printed.
// A non-zero exit is an error with what it said.
func (i *Installation) CLI(ctx context.Context, args ...string) (string, error) {
	return i.Exec(ctx, []string{"SALLYPORT_CONFIG=" + i.Path("config.yaml")}, i.Program("sallyport"), args...)
}

// Exec runs a program with nothing of the user's environment but PATH.
func (i *Installation) Exec(ctx context.Context, env []string, name string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = i.Dir, &stdout, &stderr
	cmd.Env = i.Env(env...)
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(stdout.String()), err
}

// Env is the environment of every command.
func (i *Installation) Env(more ...string) []string {
	path := strings.Join([]string{i.Bin, os.Getenv("PATH")}, string(os.PathListSeparator))
	return append([]string{"PATH=" + path, "HOME=" + i.Path("home"), "KUBERC=off"}, more...)
}
