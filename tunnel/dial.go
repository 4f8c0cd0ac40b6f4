package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// DialConfig says how to reach a gateway.
type DialConfig struct {
	Addr string // host:port
	// TLS is the client's side: roots, client certificate, verification.
	// The ALPN name, TLS 1.3 and, when it is empty, the server name are set
	// on a copy.
	TLS *tls.Config
	// Proxy returns the HTTP proxy for https://Addr, nil for none. When Proxy
	// is nil, HTTPS_PROXY and NO_PROXY count, as in net/http. Name and
	// password in the proxy's URL are sent to it.
	Proxy   func(*url.URL) (*url.URL, error)
	Timeout time.Duration // of everything together; 15 s
}

const (
	defaultDialTimeout = 15 * time.Second
	keepAlive          = 15 * time.Second
	maxConnectAnswer   = 64 << 10 // bytes of a proxy's answer to CONNECT
)

// Dial connects to a gateway, through a proxy if there is one, and finishes
// the TLS handshake. A gateway that does not speak the tunnel is an error.
func Dial(ctx context.Context, c DialConfig) (net.Conn, error) {
	if c.Timeout <= 0 {
		c.Timeout = defaultDialTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	conn, err := dial(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("dial gateway %s: %w", c.Addr, err)
	}
	return conn, nil
}

func dial(ctx context.Context, c DialConfig) (net.Conn, error) {
	host, _, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return nil, err
	}
	proxy, err := c.proxy()
	if err != nil {
		return nil, fmt.Errorf("find proxy: %w", err)
	}
	var raw net.Conn
	if proxy == nil {
		raw, err = dialTCP(ctx, c.Addr)
	} else if raw, err = dialProxy(ctx, proxy, c.Addr); err != nil {
		err = fmt.Errorf("proxy %s: %w", proxy.Host, err)
	}
	if err != nil {
		return nil, err
	}
	conf := c.TLS.Clone()
	if conf == nil {
		conf = &tls.Config{}
	}
	conf.NextProtos = []string{ALPN}
	conf.MinVersion = tls.VersionTLS13
	if conf.ServerName == "" {
		conf.ServerName = host
	}
	return handshake(ctx, raw, conf)
}

func handshake(ctx context.Context, raw net.Conn, conf *tls.Config) (net.Conn, error) {
	conn := tls.Client(raw, conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	if len(conf.NextProtos) > 0 {
		if got := conn.ConnectionState().NegotiatedProtocol; got != conf.NextProtos[0] {
			_ = raw.Close()
			return nil, fmt.Errorf("the server does not offer %s", conf.NextProtos[0])
		}
	}
	return conn, nil
}

func (c DialConfig) proxy() (*url.URL, error) {
	target := &url.URL{Scheme: "https", Host: c.Addr}
	if c.Proxy != nil {
		return c.Proxy(target)
	}
	return http.ProxyFromEnvironment(&http.Request{URL: target})
}

func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAlive: keepAlive}
	return d.DialContext(ctx, "tcp", addr)
}

// dialProxy asks an HTTP proxy for a connection to addr.
func dialProxy(ctx context.Context, proxy *url.URL, addr string) (net.Conn, error) {
	port := proxy.Port()
	switch proxy.Scheme {
	case "http":
		port = cmpOr(port, "80")
	case "https":
		port = cmpOr(port, "443")
	default:
		return nil, fmt.Errorf("scheme %q: only http and https proxies are supported", proxy.Scheme)
	}
	conn, err := dialTCP(ctx, net.JoinHostPort(proxy.Hostname(), port))
	if err != nil {
		return nil, err
	}
	if proxy.Scheme == "https" {
		conn, err = handshake(ctx, conn, &tls.Config{ServerName: proxy.Hostname(), MinVersion: tls.VersionTLS12})
		if err != nil {
			return nil, err
		}
	}
	// The context ends the exchange by closing the connection.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	through, err := connect(conn, proxy.User, addr)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	return through, nil
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// connect sends CONNECT and reads the answer (RFC 9110 section 9.3.6).
func connect(conn net.Conn, user *url.Userinfo, addr string) (net.Conn, error) {
	req := "CONNECT " + addr + " HTTP/1.1\r\nHost: " + addr + "\r\n"
	if user != nil {
		password, _ := user.Password()
		auth := base64.StdEncoding.EncodeToString([]byte(user.Username() + ":" + password))
		req += "Proxy-Authorization: Basic " + auth + "\r\n"
	}
	if _, err := io.WriteString(conn, req+"\r\n"); err != nil {
		return nil, fmt.Errorf("send CONNECT: %w", err)
	}
	rest, err := readConnectAnswer(conn)
	if err != nil {
		return nil, err
	}
	return &Conn{Conn: conn, buffered: rest}, nil
}

// readConnectAnswer reads a proxy's answer to CONNECT and returns the reader
// that may hold bytes after it.
func readConnectAnswer(r io.Reader) (*bufio.Reader, error) {
	limited := &io.LimitedReader{R: r, N: maxConnectAnswer}
	br := bufio.NewReader(limited)
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect}) //nolint:bodyclose // an answer to CONNECT has none
	if err != nil {
		if limited.N <= 0 {
			return nil, fmt.Errorf("answer to CONNECT is longer than %d bytes", maxConnectAnswer)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, errors.New("closed the connection instead of answering CONNECT")
		}
		return nil, fmt.Errorf("read answer to CONNECT: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("refused CONNECT: %s", resp.Status)
	}
	return br, nil
}
