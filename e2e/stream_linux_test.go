package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stream is a request that runs long, over a connection of its own. Of a caller that
// does not read, the end is seen in the kernel.
type stream struct {
	kind    string
	conn    *net.TCPConn
	tls     *tls.Conn    // over conn
	last    atomic.Int64 // UnixNano of the last byte that was read
	closed  atomic.Bool  // by the caller
	stalled bool
	done    chan struct{}
	at      time.Time // of the end; read after done
}

// shape is a kind of stream.
type shape struct {
	kind    string
	method  string
	path    string
	header  http.Header
	code    int
	stalled bool // the caller does not read after the answer's head
	node    bool // needs a real node
}

const (
	talker = "talker" // a pod that writes a line every 20 ms
	flood  = "flood"  // a pod that writes as fast as it can be read
	quiet  = "quiet"  // a pod that says nothing; a service of that name answers HTTP
)

func websocket(protocol string) http.Header {
	return http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Sec-Websocket-Protocol": {protocol}}
}

func pod(name, rest string) string { return "/api/v1/namespaces/default/pods/" + name + rest }

const execPath = "/exec?stdout=true&container=c"

// shapes are every kind of stream. The watch of pods is what the narrow role
// allows too.
func shapes() []shape {
	ws := websocket("v5.channel.k8s.io")
	return []shape{
		{kind: "watch", method: "GET", path: "/api/v1/namespaces/default/configmaps?watch=true", code: 200},
		{kind: "watch of pods", method: "GET", path: "/api/v1/namespaces/default/pods?watch=true", code: 200},
		{kind: "watch, stalled reader", method: "GET", path: "/api/v1/configmaps?watch=true", code: 200, stalled: true},
		{kind: "logs -f", method: "GET", path: pod(talker, "/log?follow=true"), code: 200, node: true},
		{kind: "logs -f, stalled reader", method: "GET", path: pod(flood, "/log?follow=true"), code: 200, stalled: true, node: true},
		{kind: "exec, silent", method: "GET", path: pod(quiet, execPath+"&command=sleep&command=3600"), header: ws, code: 101, node: true},
		{kind: "exec, chatty", method: "GET", path: pod(quiet, execPath+"&command=sh&command=-c&command="+"while+true%3B+do+date%3B+sleep+0.02%3B+done"), header: ws, code: 101, node: true},
		{kind: "exec, stalled reader", method: "GET", path: pod(quiet, execPath+"&command=sh&command=-c&command="+"while+true%3B+do+seq+1000%3B+done"), header: ws, code: 101, stalled: true, node: true},
		{kind: "exec over SPDY", method: "POST", path: pod(quiet, execPath+"&command=sleep&command=3600"), code: 101, node: true,
			header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}, "X-Stream-Protocol-Version": {"v4.channel.k8s.io"}, "Content-Length": {"0"}}},
		{kind: "attach", method: "GET", path: pod(talker, "/attach?stdout=true&container=c"), header: ws, code: 101, node: true},
		{kind: "port-forward", method: "POST", path: pod(quiet, "/portforward"), code: 101, node: true,
			header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}, "X-Stream-Protocol-Version": {"portforward.k8s.io"}, "Content-Length": {"0"}}},
	}
}

// available are the shapes that this machine can open.
func (w *world) available() []shape {
	var all []shape
	for _, s := range shapes() {
		if !s.node || w.nodes > 0 {
			all = append(all, s)
		}
	}
	return all
}

// open starts a stream with a token and waits until it is answered.
func (w *world) open(ctx context.Context, s shape, token string) (*stream, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	if s.stalled {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			var set error
			err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<10) })
			return errors.Join(err, set)
		}
	}
	raw, err := d.DialContext(ctx, "tcp", strings.TrimPrefix(w.gatewayURL(), "https://"))
	if err != nil {
		return nil, err
	}
	st := &stream{kind: s.kind, stalled: s.stalled, conn: raw.(*net.TCPConn), done: make(chan struct{})}
	conf := w.TLS()
	conf.ServerName, conf.NextProtos = "127.0.0.1", []string{"http/1.1"}
	conn := tls.Client(raw, conf)
	st.tls = conn
	r, err := st.ask(conn, s, "/clusters/"+w.UID, token)
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("%s: %w", s.kind, err)
	}
	if s.stalled {
		go st.watchSocket()
	} else {
		go st.read(r)
	}
	return st, nil
}

// ask sends the request and reads the answer's head.
func (st *stream) ask(conn net.Conn, s shape, base, token string) (io.Reader, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s%s HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %s\r\n", s.method, base, s.path, token)
	for k, v := range s.header {
		fmt.Fprintf(&b, "%s: %s\r\n", k, v[0])
	}
	b.WriteString("\r\n")
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, b.String()); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, &http.Request{Method: s.method})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != s.code {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return nil, fmt.Errorf("%s: %s", resp.Status, body)
	}
	return r, conn.SetDeadline(time.Time{})
}

// read takes what comes until it ends.
func (st *stream) read(r io.Reader) {
	defer close(st.done)
	buf := make([]byte, 32<<10)
	for {
		_, err := r.Read(buf)
		now := time.Now()
		if err != nil {
			st.at = now
			st.conn.Close()
			return
		}
		st.last.Store(now.UnixNano())
	}
}

// watchSocket asks the kernel whether the server's end of the connection is
// still open for the server to write to (01 is ESTABLISHED). The caller's own end is no measure: with a window of zero it does
// not take the reset that was sent to it (RFC 9293, 3.10.7.4).
func (st *stream) watchSocket() {
	defer close(st.done)
	local, remote := socketAddr(st.conn.LocalAddr()), socketAddr(st.conn.RemoteAddr())
	for tick := time.NewTicker(2 * time.Millisecond); ; <-tick.C {
		sockets, err := os.ReadFile("/proc/net/tcp")
		if err != nil || !strings.Contains(string(sockets), remote+" "+local+" 01 ") || st.closed.Load() {
			st.at = time.Now()
			tick.Stop()
			st.conn.Close()
			return
		}
	}
}

// socketAddr writes an IPv4 address as /proc/net/tcp does.
func socketAddr(a net.Addr) string {
	t := a.(*net.TCPAddr)
	ip := t.IP.To4()
	return fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], t.Port)
}

func (st *stream) close() {
	st.closed.Store(true)
	st.conn.Close()
	<-st.done
}

// ended waits for the end.
func (st *stream) ended(bound time.Duration) (time.Time, error) {
	if !st.alive() {
		return st.at, nil
	}
	select {
	case <-st.done:
		return st.at, nil
	case <-time.After(bound):
		return time.Time{}, fmt.Errorf("%s goes on after %s", st.kind, bound)
	}
}

func (st *stream) alive() bool {
	select {
	case <-st.done:
		return false
	default:
		return true
	}
}

// openAll opens one stream of every shape at once.
func (w *world) openAll(t *testing.T, token string, shapes []shape) []*stream {
	t.Helper()
	all, errs := make([]*stream, len(shapes)), make([]error, len(shapes))
	var wg sync.WaitGroup
	for n, s := range shapes {
		wg.Go(func() { all[n], errs[n] = w.open(t.Context(), s, token) })
	}
	wg.Wait()
	t.Cleanup(func() {
		for _, st := range all {
			if st != nil {
				st.close()
			}
		}
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return all
}

// prober sends requests one after the other and notes when they were let
// through and when refused.
type prober struct {
	mu       sync.Mutex
	lastOK   time.Time // begin of the last request that was let through
	refused  time.Time // begin of the first request after lastOK that was not
	code     int       // of that
	total    int
	cancel   context.CancelFunc
	finished chan struct{}
}

const probed = "/api/v1/namespaces/default/configmaps/kube-root-ca.crt"

func (w *world) probe(t *testing.T, token string) *prober {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	p := &prober{cancel: cancel, finished: make(chan struct{})}
	hc := w.HTTP(1)
	go func() {
		defer close(p.finished)
		defer hc.CloseIdleConnections()
		for ctx.Err() == nil {
			began := time.Now()
			code, _, err := w.get(ctx, hc, token, probed)
			if ctx.Err() != nil {
				return
			}
			p.mu.Lock()
			p.total++
			if err == nil && code == http.StatusOK {
				p.lastOK, p.refused = began, time.Time{}
			} else if p.refused.IsZero() {
				p.refused, p.code = began, code
			}
			p.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-time.After(3 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(p.stop)
	return p
}

func (p *prober) stop() {
	p.cancel()
	<-p.finished
}

// seen is when the last request was let through, the code of the first refusal
// after it, or 0, and the number of requests.
func (p *prober) seen() (lastOK time.Time, code, total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refused.IsZero() {
		return p.lastOK, 0, p.total
	}
	return p.lastOK, p.code, p.total
}

// get sends one request to the cluster and reads its answer, which is small.
func (w *world) get(ctx context.Context, hc *http.Client, token, path string) (int, string, error) {
	return w.getWithin(ctx, 20*time.Second, hc, token, path)
}

func (w *world) getWithin(ctx context.Context, bound time.Duration, hc *http.Client, token, path string) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.gatewayURL()+"/clusters/"+w.UID+path, nil)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := hc.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}
