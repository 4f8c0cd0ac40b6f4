// Package agentflags is what the command lines of all agents in a cluster have in
// common: whose agent it is, how it reaches the control plane and its own API
// server, and how it logs. What one agent alone is told, and what it does, is not
// here.
package agentflags

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/internal/logs"
	"github.com/sallyport/sallyport/internal/logs/klogs"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/trust"
)

// Common is what the flags say. Everything secret is a file.
type Common struct {
	Server     *url.URL // the control plane's
	Cluster    trust.ClusterUID
	MandateKey ed25519.PublicKey

	server, serverCA, cluster, keyFile string
	enrolToken, kubeconfig             string
	logLevel, logFormat                string
}

// Register adds the flags.
func (c *Common) Register(f *flag.FlagSet) {
	f.StringVar(&c.server, "server", "", "`URL` of the control plane")
	f.StringVar(&c.serverCA, "server-ca", "", "PEM `file` with the CA of the server's certificate; default: the system's")
	f.StringVar(&c.cluster, "cluster", "", "`uid` of this cluster's registration")
	f.StringVar(&c.keyFile, "mandate-key", "", "PEM `file` with the public key that signs what agents are told")
	f.StringVar(&c.enrolToken, "enrol-token", "/var/run/secrets/sallyport.dev/enrol/token", "`file` with a projected ServiceAccount token for enrolment")
	f.StringVar(&c.kubeconfig, "kubeconfig", "", "kubeconfig `file`; default: this pod's ServiceAccount")
	f.StringVar(&c.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&c.logFormat, "log-format", "json", "json or text")
}

// Complete checks the flags once they are parsed; rest is what they left.
func (c *Common) Complete(rest []string) error {
	if len(rest) > 0 {
		return fmt.Errorf("unexpected %q", rest)
	}
	u, err := url.Parse(c.server)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("--server %q must be an https URL", c.server)
	}
	if c.cluster == "" {
		return errors.New("--cluster is missing: the uid that `sallyport cluster connect` printed")
	}
	c.Server, c.Cluster = u, trust.ClusterUID(c.cluster)
	if c.MandateKey, err = readMandateKey(c.keyFile); err != nil {
		return fmt.Errorf("--mandate-key: %w", err)
	}
	return nil
}

func readMandateKey(file string) (ed25519.PublicKey, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s is not PEM", file)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	pub, ok := key.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T, want an Ed25519 public key", file, key)
	}
	return pub, nil
}

// Version is the module's version, as the Go command recorded it.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// Control is the agent's side of the control plane; name is "proxy",
// "reconciler" or "installer".
func (c *Common) Control(name string, log *slog.Logger) (*client.Agent, error) {
	var ca []byte
	if c.serverCA != "" {
		var err error
		if ca, err = os.ReadFile(c.serverCA); err != nil {
			return nil, fmt.Errorf("--server-ca: %w", err)
		}
	}
	return client.NewAgent(client.AgentConfig{
		Server: c.server, Trust: client.ServerTrust{CA: string(ca)},
		Cluster: c.Cluster, Name: name, Token: client.TokenFile(c.enrolToken),
		Instance: mandate.NewNonce(), Version: Version(), Log: log,
	})
}

// Kubernetes says how to reach the API server as this agent: a kubeconfig, or
// this pod's ServiceAccount. HTTPS_PROXY is for the way out, never for this one.
func (c *Common) Kubernetes() (*rest.Config, error) {
	conf, err := rest.InClusterConfig()
	if c.kubeconfig != "" {
		conf, err = clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("find the API server (in a pod, or with --kubeconfig): %w", err)
	}
	conf.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	return conf, nil
}

// Logger writes to w, and leads what Kubernetes' libraries log there too.
func (c *Common) Logger(w io.Writer) (*slog.Logger, error) {
	level, err := logs.ParseLevel(c.logLevel)
	if err != nil {
		return nil, fmt.Errorf("--log-level: %w", err)
	}
	log, err := logs.New(w, logs.Options{Level: level, Format: c.logFormat})
	if err == nil {
		klogs.Install(log)
	}
	return log, err
}
