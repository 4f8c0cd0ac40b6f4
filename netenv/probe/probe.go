// Package probe looks at the network from where it runs: which names resolve to
// which addresses, and which answer over TCP and TLS, with timings. The agent
// runs it inside a cluster; package netenv reads its Report.
//
// It owns the closed list of what may be looked at, looking, and the report, with
// the standard library only. It judges nothing, and takes no orders: what it looks
// at is what its Targets say.
package probe

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Kind marks a report for its readers.
const Kind = "sallyport.dev/environment-probe"

// Report of one run.
type Report struct {
	Kind    string    `json:"kind"`
	Cluster string    `json:"cluster"` // resource id
	Time    time.Time `json:"time"`
	// DNSServers of the resolver in use.
	DNSServers  []string     `json:"dnsServers"`
	Names       []Name       `json:"names"`
	Connections []Connection `json:"connections"`
}

// Name is what a name resolved to; Error is set instead of Addresses.
type Name struct {
	Name      string   `json:"name"`
	Addresses []string `json:"addresses"`
	Error     string   `json:"error,omitempty"`
}

// Connection is one attempt; times are milliseconds. Error names the step that
// failed.
type Connection struct {
	Host  string  `json:"host"`
	Port  int     `json:"port"`
	TCP   float64 `json:"tcpMs,omitempty"`
	TLS   float64 `json:"tlsMs,omitempty"`
	Error string  `json:"error,omitempty"`
}

// Prober looks. Its zero value uses the system's resolver and roots.
type Prober struct {
	// Resolver of names; nil is the system's.
	Resolver *net.Resolver
	// TLS for handshakes; the server name is set for each host.
	TLS *tls.Config
	// Timeout of each step; 0 is five seconds.
	Timeout time.Duration
	// Proxy is the CONNECT proxy by which workloads reach what is outside; nil is
	// none. Names are still resolved here, but it is the proxy that connects.
	Proxy *url.URL
	Now   func() time.Time
}

// atOnce is how many names are looked at in parallel.
const atOnce = 8

// Run looks at every target and returns when all are done or ctx has ended.
// resolvConf is the text of /etc/resolv.conf.
func (p Prober) Run(ctx context.Context, cluster string, targets []Target, resolvConf io.Reader) Report {
	now := p.Now
	if now == nil {
		now = time.Now
	}
	r := Report{Kind: Kind, Cluster: cluster, Time: now().UTC(), DNSServers: nameServers(resolvConf), Names: make([]Name, len(targets)), Connections: make([]Connection, len(targets))}
	turns := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for i, t := range targets {
		all.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			r.Names[i], r.Connections[i] = p.look(ctx, t)
		})
	}
	all.Wait()
	return r
}

func (p Prober) look(ctx context.Context, t Target) (Name, Connection) {
	name, port, timeout := t.Host, t.Port, p.Timeout
	if timeout == 0 {
		timeout = 5 * time.Second
	}
	resolver := p.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	n, c := Name{Name: name}, Connection{Host: name, Port: port}
	dns, cancel := context.WithTimeout(ctx, timeout)
	addresses, err := resolver.LookupHost(dns, name)
	cancel()
	if err != nil {
		n.Error, c.Error = reason(err), "resolve: "+reason(err)
		return n, c
	}
	slices.Sort(addresses)
	n.Addresses = addresses
	begin := time.Now()
	conn, err := p.dial(ctx, net.Dialer{Timeout: timeout, Resolver: resolver}, addresses[0], t)
	if err != nil {
		c.Error = "connect: " + reason(err)
		return n, c
	}
	defer conn.Close()
	c.TCP = milliseconds(begin)
	config := p.TLS.Clone()
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	config.ServerName = name
	begin = time.Now()
	shake, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := tls.Client(conn, config).HandshakeContext(shake); err != nil {
		c.Error = "TLS: " + reason(err)
		return n, c
	}
	c.TLS = milliseconds(begin)
	return n, c
}

func milliseconds(since time.Time) float64 {
	return float64(time.Since(since).Microseconds()) / 1000
}

// reason is the innermost cause: addresses and ports are in the report already.
func reason(err error) string {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return dns.Err
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Err.Error()
	}
	return err.Error()
}

func nameServers(conf io.Reader) []string {
	var out []string
	if conf == nil {
		return nil
	}
	for s := bufio.NewScanner(conf); s.Scan(); {
		if f := strings.Fields(s.Text()); len(f) >= 2 && f[0] == "nameserver" {
			out = append(out, f[1])
		}
	}
	return out
}
