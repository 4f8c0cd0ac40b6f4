package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"sync"
	"time"

	wire "github.com/sallyport/sallyport/request"
	"github.com/sallyport/sallyport/trust"
	"github.com/sallyport/sallyport/tunnel"
)

// maxRefusal is how much of an answer that is no upgrade is passed on.
const maxRefusal = 1 << 20

// upgradeTimeout bounds the way to a 101.
const upgradeTimeout = 30 * time.Second

// upgrade carries exec, attach, port-forward and proxied upgrades: HTTP/1.1 to
// the API server on a connection of its own, which is never used again.
func (p *Proxy) upgrade(w http.ResponseWriter, r *http.Request, q *inFlight) {
	ctx, cancel := context.WithTimeout(q.handle.Context(), upgradeTimeout)
	defer cancel()
	conn, err := p.upstream.dialHTTP1(ctx)
	if err != nil {
		p.refuse(w, r, upstreamError(err), q)
		return
	}
	q.handle.Add(conn) // End and Done close it
	reader, resp, err := p.askUpgrade(ctx, conn, r, q)
	if err != nil {
		if cause := context.Cause(q.handle.Context()); cause != nil {
			err = cause
		}
		p.refuse(w, r, upstreamError(err), q)
		return
	}
	defer resp.Body.Close()
	if err := p.checkAnswer(resp, q); err != nil {
		p.refuse(w, r, err, q)
		return
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		passRefusal(w, resp)
		return
	}
	if !strings.EqualFold(resp.Header.Get("Upgrade"), q.parsed.Upgrade) && resp.Header.Get("Upgrade") != "" {
		p.refuse(w, r, trust.Errorf(trust.Unavailable, "the API server upgraded to another protocol than was asked for"), q)
		return
	}
	resp.Header.Set("Upgrade", q.parsed.Upgrade)
	stream, err := q.handle.Upgrade(resp.Header)
	if err != nil {
		p.log.InfoContext(ctx, "upgrade came to nothing", "error", err)
		return
	}
	splice(stream, conn, reader)
}

// dialHTTP1 connects to the API server for one upgrade.
func (u *upstream) dialHTTP1(ctx context.Context) (*tls.Conn, error) {
	conf := u.tls.Clone()
	conf.NextProtos = []string{"http/1.1"}
	if conf.ServerName == "" {
		conf.ServerName = u.base.Hostname()
	}
	address := u.base.Host
	if u.base.Port() == "" {
		address = net.JoinHostPort(u.base.Hostname(), "443")
	}
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}, Config: conf}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	return conn.(*tls.Conn), nil
}

// askUpgrade sends the upgrade and reads the answer's header. The reader holds
// what the API server sent behind it.
func (p *Proxy) askUpgrade(ctx context.Context, conn net.Conn, r *http.Request, q *inFlight) (*bufio.Reader, *http.Response, error) {
	out := &http.Request{
		Method: q.parsed.Method,
		URL:    p.upstream.target(q.parsed.Target),
		Host:   p.upstream.base.Host,
		Header: r.Header.Clone(),
	}
	dress(out.Header, q)
	out.Header["Connection"] = []string{"Upgrade"}
	out.Header["Upgrade"] = []string{q.parsed.Upgrade}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := out.Write(conn); err != nil {
		return nil, nil, fmt.Errorf("send upgrade: %w", err)
	}
	reader := bufio.NewReaderSize(conn, 16<<10)
	resp, err := http.ReadResponse(reader, out)
	if err != nil {
		return nil, nil, fmt.Errorf("read upgrade's answer: %w", err)
	}
	return reader, resp, nil
}

// passRefusal passes an answer that is no upgrade on, with the end of it cut if
// it is very long; the connection is closed afterwards.
func passRefusal(w http.ResponseWriter, resp *http.Response) {
	wire.FilterResponse(resp.Header)
	resp.Header.Del("Content-Length")
	for name, values := range resp.Header {
		w.Header()[textproto.CanonicalMIMEHeaderKey(name)] = values
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, io.LimitReader(resp.Body, maxRefusal)) // the gateway may have gone
}

// lingering is how long the caller's direction may stay open after the API
// server has said all it will.
const lingering = 10 * time.Second

// splice moves bytes both ways until both directions have ended, each end passed
// on as a half-close, or the handle ends the stream. The stream is not aborted
// after a clean end: that could overtake the last bytes.
func splice(stream *tunnel.Stream, conn *tls.Conn, reader *bufio.Reader) {
	var wg sync.WaitGroup
	wg.Go(func() {
		if copyBytes(conn, stream) != nil {
			_ = conn.Close() // also ends the other direction
			return
		}
		_ = conn.CloseWrite()
	})
	if err := copyBytes(stream, reader); err != nil {
		stream.End(err)
	} else {
		_ = stream.CloseWrite()
		defer time.AfterFunc(lingering, func() { stream.End(io.EOF) }).Stop()
	}
	wg.Wait()
	_ = conn.Close()
}

func copyBytes(dst io.Writer, src io.Reader) error {
	var pool tunnel.BufferPool
	buf := pool.Get()
	defer pool.Put(buf)
	_, err := io.CopyBuffer(onlyWriter{dst}, onlyReader{src}, buf)
	return err
}

type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)
