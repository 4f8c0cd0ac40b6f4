package main

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"runtime/debug"
	"strings"

	"github.com/sallyport/sallyport/netenv/probe"
	"github.com/sallyport/sallyport/trust"
)

// config is what the command line says. Everything secret is a file.
type config struct {
	server     string   // the control plane's URL
	gateways   []string // host:port of the gateways; default: the control plane's
	serverCA   string   // PEM file; "" means the system's roots
	cluster    trust.ClusterUID
	mandateKey ed25519.PublicKey
	enrolToken string // file with a projected ServiceAccount token
	kubeconfig string // "" means in-cluster
	tunnels    int
	probes     []probe.Target // what the owner allows this agent to look at; none by default
	logLevel   string
	logFormat  string
}

func parseFlags(agent string, args []string, stderr io.Writer) (*config, error) {
	var c config
	var cluster, keyFile, gateways, probes string
	f := flag.NewFlagSet("sallyport-agent "+agent, flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&c.server, "server", "", "`URL` of the control plane")
	f.StringVar(&c.serverCA, "server-ca", "", "PEM `file` with the CA of the server's certificate; default: the system's")
	f.StringVar(&cluster, "cluster", "", "`uid` of this cluster's registration")
	f.StringVar(&keyFile, "mandate-key", "", "PEM `file` with the public key that signs what agents are told")
	f.StringVar(&c.enrolToken, "enrol-token", "/var/run/secrets/sallyport.dev/enrol/token", "`file` with a projected ServiceAccount token for enrolment")
	f.StringVar(&c.kubeconfig, "kubeconfig", "", "kubeconfig `file`; default: this pod's ServiceAccount")
	f.StringVar(&c.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&c.logFormat, "log-format", "json", "json or text")
	if agent == "proxy" {
		f.StringVar(&gateways, "gateways", "", "`host:port,…` of the gateways; default: the control plane's")
		f.IntVar(&c.tunnels, "tunnels", 2, "connections to hold, 1 to 4")
		f.StringVar(&probes, "probes", "", "`name[:port],…` to resolve and connect to now and then, and to report on; nothing else is ever looked at; default: nothing")
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	err := c.complete(f.Args(), cluster, keyFile, gateways)
	if err == nil && probes != "" {
		c.probes, err = probe.ParseTargets(strings.Split(probes, ","))
	}
	if err != nil {
		fmt.Fprintf(stderr, "sallyport-agent %s: %v\n", agent, err)
	}
	return &c, err
}

func (c *config) complete(rest []string, cluster, keyFile, gateways string) error {
	if len(rest) > 0 {
		return fmt.Errorf("unexpected %q", rest)
	}
	u, err := url.Parse(c.server)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("--server %q must be an https URL", c.server)
	}
	if cluster == "" {
		return errors.New("--cluster is missing: the uid that `sallyport cluster connect` printed")
	}
	c.cluster = trust.ClusterUID(cluster)
	if c.mandateKey, err = readMandateKey(keyFile); err != nil {
		return fmt.Errorf("--mandate-key: %w", err)
	}
	if c.tunnels < 0 || c.tunnels > 4 {
		return fmt.Errorf("--tunnels %d is not between 1 and 4", c.tunnels)
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "443")
	}
	c.gateways = []string{host}
	if gateways != "" {
		c.gateways = strings.Split(gateways, ",")
	}
	for _, g := range c.gateways {
		if _, _, err := net.SplitHostPort(g); err != nil {
			return fmt.Errorf("--gateways: %q is not host:port", g)
		}
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

// version is the module's version, as the Go command recorded it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
