package probe

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// dial connects to a target: to the address that its name has, or by the proxy.
func (p Prober) dial(ctx context.Context, d net.Dialer, address string, t Target) (net.Conn, error) {
	if p.Proxy == nil {
		return d.DialContext(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(t.Port)))
	}
	host := p.Proxy.Host
	if p.Proxy.Port() == "" {
		host = net.JoinHostPort(p.Proxy.Hostname(), "80")
	}
	conn, err := d.DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, fmt.Errorf("the proxy: %w", err)
	}
	if err := connect(conn, t, p.Proxy.User, d.Timeout); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// connect asks a proxy for a tunnel (RFC 9110, 9.3.6). Nothing of the target may
// have been read ahead, since TLS clients speak first.
func connect(conn net.Conn, t Target, user *url.Userinfo, timeout time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	request := "CONNECT " + t.String() + " HTTP/1.1\r\nHost: " + t.String() + "\r\n"
	if user != nil {
		password, _ := user.Password()
		request += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)) + "\r\n"
	}
	if _, err := conn.Write([]byte(request + "\r\n")); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return fmt.Errorf("the proxy's answer cannot be read")
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the proxy refused: %d", res.StatusCode)
	}
	return conn.SetDeadline(time.Time{})
}
