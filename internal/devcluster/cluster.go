package devcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// The folders below Config.Dir.
const (
	dirPKI   = "pki"
	dirLogs  = "logs"
	dirBin   = "bin"
	dirConf  = "conf"
	dirEtcd  = "etcd"
	dirNodes = "nodes"
)

// Cluster is a running cluster.
type Cluster struct {
	cfg     Config
	dir     string
	temp    bool   // dir was made by Start and is removed by Stop
	adopted bool   // the cluster is somebody else's, see Adopt
	server  string // of an adopted one
	bins    binaries
	net     network
	addr    netip.AddrPort
	ca      []byte
	tokens  map[string]string // by user
	http    *http.Client
	sup     *supervisor
	nodes   []*Node
	release func() // gives the reserved port back
	ended   bool   // stopped or released; Stop and Release are for one goroutine
}

// URL is the API server's, without a slash at the end.
func (c *Cluster) URL() string {
	if c.adopted {
		return c.server
	}
	return "https://" + c.addr.String()
}

// CA is the certificate authority of the API server's certificate, in PEM.
func (c *Cluster) CA() []byte { return bytes.Clone(c.ca) }

// Kubeconfig is the path of the administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.dir, "kubeconfig") }

// AdminToken is a bearer token of the group system:masters.
func (c *Cluster) AdminToken() string { return c.tokens[userAdmin] }

// AuditLogPath is the API server's audit log: one JSON event per line. The file
// exists only with Config.AuditLevel.
func (c *Cluster) AuditLogPath() string { return filepath.Join(c.dir, dirLogs, "audit.log") }

// ServiceAccountIssuer is the issuer in this cluster's ServiceAccount tokens,
// which is also its URL: discovery and keys are served there to callers bound to
// the ClusterRole system:service-account-issuer-discovery.
func (c *Cluster) ServiceAccountIssuer() string { return c.URL() }

// Dir is the cluster's folder.
func (c *Cluster) Dir() string { return c.dir }

// LogPath is the log of a process: "etcd", "kube-apiserver",
// "kube-controller-manager", "kube-scheduler", "node-0" (its first process),
// "node-0-containerd", "node-0-kubelet", "node-0-kube-proxy".
func (c *Cluster) LogPath(name string) string { return filepath.Join(c.dir, dirLogs, name+".log") }

// PID returns the process of that name, as in LogPath but not those inside a
// node, or 0.
func (c *Cluster) PID(name string) int {
	for _, r := range c.sup.journal.snapshot().Processes {
		if r.Name == name {
			return r.PID
		}
	}
	return 0
}

// HostAddress is the address of this machine that pods and nodes reach, and the
// zero Addr without nodes. The API server listens there too.
func (c *Cluster) HostAddress() netip.Addr { return c.net.host }

// Client returns an HTTP client that trusts this cluster's CA and dials from
// the API server's network namespace. It adds no credentials and no limits;
// every call returns one with connections of its own.
func (c *Cluster) Client() *http.Client { return &http.Client{Transport: c.transport()} }

// Dial connects to addr from the API server's network namespace.
func (c *Cluster) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	if c.cfg.NetNS == "" {
		return d.DialContext(ctx, network, addr)
	}
	var conn net.Conn
	err := inThread(netnsPath(c.cfg.NetNS), func() (err error) {
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// KubectlCommand prepares kubectl as the administrator; the caller sets its
// streams and runs it. It reads and writes nothing of the user's: its home is
// the cluster's folder, and no proxy is used. It is called in the API server's
// network namespace. Later --kubeconfig, --token and --as flags win.
func (c *Cluster) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	path := c.Program("kubectl")
	cmd := exec.CommandContext(ctx, path, args...)
	if c.cfg.NetNS != "" {
		args = append([]string{"--net=" + netnsPath(c.cfg.NetNS), "--", path}, args...)
		cmd = exec.CommandContext(ctx, "nsenter", args...)
	}
	if c.adopted { // its credential plugins may need what its owner has
		cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig(), "KUBERC=off")
		return cmd
	}
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + c.dir, "KUBECONFIG=" + c.Kubeconfig(), "KUBERC=off",
	}
	return cmd
}

// Kubectl runs kubectl as the administrator and returns what it wrote to stdout.
// The error of a failed command holds what it wrote to stderr.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	cmd := c.KubectlCommand(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// Apply gives a manifest to kubectl apply.
func (c *Cluster) Apply(ctx context.Context, manifest string) error {
	cmd := c.KubectlCommand(ctx, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Program is the path of "kubectl" or another Kubernetes program of this
// cluster; Dir()/bin, where it lives, can go into a PATH.
func (c *Cluster) Program(name string) string { return filepath.Join(c.dir, dirBin, name) }

// Signal sends a signal to the process of that name, as in LogPath: SIGSTOP and
// SIGCONT freeze and thaw a part of the cluster.
func (c *Cluster) Signal(name string, sig syscall.Signal) error {
	for _, r := range c.sup.journal.snapshot().Processes {
		if r.Name != name {
			continue
		}
		h, err := openProcess(r.PID, r.Started)
		if err != nil {
			return fmt.Errorf("signal %s: %w", name, err)
		}
		defer h.close()
		return h.signal(sig)
	}
	return fmt.Errorf("signal %s: no such process in this cluster", name)
}

// Failure returns why a process of the cluster ended, or nil while all run.
func (c *Cluster) Failure() error { return c.sup.failure() }

// Stop ends the cluster and waits until every process is gone: nodes and
// controllers first, then the API server, then etcd, each with SIGTERM and
// after five seconds SIGKILL. When ctx ends it kills at once, and still waits.
// The folder keeps logs, the audit log and the certificates, unless Start made
// it. A second call does nothing.
func (c *Cluster) Stop(ctx context.Context) error {
	if c.ended {
		return nil
	}
	c.ended = true
	c.http.CloseIdleConnections()
	err := c.sup.stop(ctx)
	for _, n := range c.nodes {
		n.pipe.Close() // a second time, unless the start failed before it was used
	}
	c.release()
	if err == nil {
		err = c.sup.journal.snapshot().clean(c.dir)
	}
	if c.temp {
		err = errors.Join(err, os.RemoveAll(c.dir))
	}
	if err != nil {
		return fmt.Errorf("stop cluster: %w", err)
	}
	return nil
}

// Release ends this process's ownership of a cluster that was started with
// Config.Detached and leaves it running; Recover stops it later. The goroutines
// that wait for the cluster's processes stay until those or this process end.
func (c *Cluster) Release() error {
	if !c.cfg.Detached {
		return errors.New("release cluster: it was not started with Detached")
	}
	if c.ended {
		return nil
	}
	c.ended = true
	c.http.CloseIdleConnections()
	c.release()
	c.sup.thread.close()
	return nil
}
