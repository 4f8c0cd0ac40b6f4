package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// situation is what a request is doing when it is ended.
type situation struct {
	name    string
	request string // method and path
	upload  string // "": no body; "silent": headers only; "endless"
	read    bool   // the caller reads the answer
	upgrade bool
	answer  bool // the caller gets an answer's headers
	flows   bool // data keeps flowing towards the caller

	// With HTTP/1 the gateway reads nothing from a caller whose data the far
	// side does not take, so that it does not see the caller leave.
	unseen bool
}

var situations = []situation{
	{name: "unanswered", request: "GET /unanswered", read: true},
	{name: "silent watch", request: "GET /silent", read: true, answer: true},
	{name: "chatty watch", request: "GET /chatty", read: true, answer: true, flows: true},
	{name: "stalled reader", request: "GET /chatty", answer: true},
	{name: "silent upload", request: "POST /sink", upload: "silent", read: true},
	{name: "flowing upload", request: "POST /sink", upload: "endless", read: true},
	{name: "stalled upload", request: "POST /deaf", upload: "endless", read: true, unseen: true},
	{name: "silent exec", request: "GET /exec/silent", upgrade: true, read: true, answer: true},
	{name: "chatty exec", request: "GET /exec/chatty", upgrade: true, read: true, answer: true, flows: true},
	{name: "exec, stalled reader", request: "GET /exec/chatty", upgrade: true, answer: true},
	{name: "exec, stalled writer", request: "GET /exec/deaf", upgrade: true, upload: "endless", read: true, answer: true, unseen: true},
	{name: "exec, half-closed by caller", request: "GET /exec/chatty", upgrade: true, upload: "half-close", answer: true},
}

// caller runs one request over a connection of its own.
type caller struct {
	answered chan struct{} // closed when headers have arrived
	over     chan struct{} // closed when the connection or stream has ended; only when the situation reads
	sent     atomic.Int64  // bytes of the body
	stop     func()
}

func (s situation) call(t testing.TB, addr string, http2 bool) *caller {
	t.Helper()
	c := &caller{answered: make(chan struct{}), over: make(chan struct{})}
	if http2 {
		s.callHTTP2(t, addr, c)
	} else {
		s.callHTTP1(t, addr, c)
	}
	return c
}

// endless writes until it fails.
func (c *caller) endless(w io.Writer, chunked bool) {
	chunk := bytes.Repeat([]byte("u"), 1000)
	framed := chunk
	if chunked {
		framed = fmt.Appendf(nil, "%x\r\n%s\r\n", len(chunk), chunk)
	}
	for {
		if _, err := w.Write(framed); err != nil {
			return
		}
		c.sent.Add(int64(len(chunk)))
	}
}

func (s situation) callHTTP1(t testing.TB, addr string, c *caller) {
	conf := clientTLS()
	conf.NextProtos = []string{"http/1.1"}
	conn, err := tls.Dial("tcp", addr, conf)
	if err != nil {
		t.Fatal(err)
	}
	head := s.request + " HTTP/1.1\r\nHost: x\r\n"
	switch {
	case s.upgrade:
		head += "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
	case s.upload != "":
		head += "Transfer-Encoding: chunked\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(c.over)
		br := bufio.NewReader(conn)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			return
		}
		close(c.answered)
		switch {
		case !s.read:
		case s.upgrade:
			_, _ = io.Copy(io.Discard, br)
		default:
			_, _ = io.Copy(io.Discard, resp.Body)
		}
	})
	switch s.upload {
	case "endless":
		wg.Go(func() {
			if s.upgrade {
				<-c.answered
			}
			c.endless(conn, !s.upgrade)
		})
	case "half-close":
		<-c.answered
		_ = conn.CloseWrite()
	}
	c.stop = func() { _ = conn.NetConn().Close(); wg.Wait() }
}

func (s situation) callHTTP2(t testing.TB, addr string, c *caller) {
	transport := &http.Transport{TLSClientConfig: clientTLS(), ForceAttemptHTTP2: true, DisableCompression: true}
	ctx, cancel := context.WithCancel(context.Background())
	var body io.Reader
	pr, pw := io.Pipe()
	if s.upload != "" {
		body = pr
	}
	method, target, _ := strings.Cut(s.request, " ")
	req, err := http.NewRequestWithContext(ctx, method, "https://"+addr+target, body)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(c.over)
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return
		}
		close(c.answered)
		if s.read {
			defer resp.Body.Close()
			_, _ = io.Copy(io.Discard, resp.Body)
		} else {
			context.AfterFunc(ctx, func() { _ = resp.Body.Close() })
		}
	})
	if s.upload == "endless" {
		wg.Go(func() { c.endless(pw, false) })
	}
	c.stop = func() {
		cancel()
		_ = pr.Close()
		wg.Wait()
		transport.CloseIdleConnections()
	}
}

// established waits until the request is in its situation on both sides.
func (s situation) established(t *testing.T, p *path, c *caller) (front, agent *Handle) {
	t.Helper()
	front, agent = <-p.front.entered, <-p.agent.entered
	p.metered = <-p.conns
	if s.answer {
		select {
		case <-c.answered:
		case <-time.After(10 * time.Second):
			t.Fatal("no answer")
		}
	}
	switch {
	case s.flows:
		eventually(t, "data flows", func() bool { return p.metered.total.Load() > 100<<10 })
	case s.answer && !s.read: // the front's writer must be blocked
		stillFor(60*time.Millisecond, p.metered.total.Load)
	case s.request == "POST /sink" && s.upload == "endless":
		eventually(t, "data flows", func() bool { return c.sent.Load() > 100<<10 })
	case s.upload == "endless":
		stillFor(60*time.Millisecond, c.sent.Load)
	default:
		time.Sleep(20 * time.Millisecond) // nothing to see: let it settle
	}
	return front, agent
}

// stillFor returns when v, above zero, has not changed for d.
func stillFor(d time.Duration, v func() int64) {
	for last := v(); ; {
		time.Sleep(d)
		now := v()
		if now == last && now > 0 {
			return
		}
		last = now
	}
}

const (
	endAtOnce = 250 * time.Millisecond // for End to return: the machine may be busy
	endSoon   = 2 * time.Second        // for both handlers to return
)

// within returns the cause with which a handler left.
func within(t *testing.T, what string, left <-chan error) error {
	t.Helper()
	select {
	case cause := <-left:
		return cause
	case <-time.After(endSoon):
		t.Errorf("%s still runs after %v", what, endSoon)
		return nil
	}
}

func TestEnd(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		for _, s := range situations {
			if s.upgrade && http2 {
				continue // HTTP/2 callers cannot upgrade
			}
			for _, where := range []string{"gateway", "agent", "caller"} {
				name := fmt.Sprintf("%s/HTTP%d/%s", s.name, map[bool]int{false: 1, true: 2}[http2], where)
				t.Run(name, func(t *testing.T) { testEnd(t, s, http2, where) })
			}
		}
	}
}

func testEnd(t *testing.T, s situation, http2 bool, where string) {
	p := newPath(t)
	c := s.call(t, p.addr, http2)
	stopped := sync.OnceFunc(c.stop)
	defer stopped()
	front, agent := s.established(t, p, c)

	began := time.Now()
	var metered *meter
	switch where {
	case "gateway":
		front.End(errRevoked)
		metered = p.metered
	case "agent":
		agent.End(errRevoked)
		metered = p.tunnel
	case "caller":
		stopped()
	}
	took := time.Since(began)
	if where != "caller" && took > endAtOnce {
		t.Errorf("End took %v", took)
	}
	ended := time.Now()
	if where == "caller" && s.unseen && !http2 {
		front.End(errRevoked)
	}
	frontCause := within(t, "the gateway's handler", p.front.left)
	agentCause := within(t, "the agent's handler", p.agent.left)
	switch where {
	case "gateway":
		if !errors.Is(frontCause, errRevoked) {
			t.Errorf("cause at the gateway: %v", frontCause)
		}
	case "agent":
		if !errors.Is(agentCause, errRevoked) {
			t.Errorf("cause at the agent: %v", agentCause)
		}
	}
	if metered != nil {
		checkQuiet(t, metered, ended)
	}
	if where == "agent" { // the front's own end is a notice later
		checkQuiet(t, p.metered, ended.Add(endSoon))
	}
	if where != "caller" && s.read {
		select {
		case <-c.over:
		case <-time.After(endSoon):
			t.Error("the caller's connection stays open")
		}
	}
}

// checkQuiet fails when data was written after the end; a write that was
// under way then has a moment.
func checkQuiet(t *testing.T, m *meter, ended time.Time) {
	t.Helper()
	if last := time.Unix(0, m.last.Load()); last.Sub(ended) > 50*time.Millisecond {
		t.Errorf("data was written %v after End", last.Sub(ended))
	}
}

// A TLS connection to an upstream that reads nothing: neither End nor Done may
// wait for its goodbye.
func TestUpstreamThatDoesNotRead(t *testing.T) {
	for _, end := range []bool{true, false} {
		near, far := tcpPair(t)
		handshake := make(chan struct{})
		go func() {
			defer close(handshake)
			_ = tls.Server(far, &tls.Config{Certificates: []tls.Certificate{pair()}}).Handshake()
		}()
		conf := clientTLS()
		conf.ServerName = "localhost"
		conn := tls.Client(near, conf)
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		<-handshake
		for _, size := range []int{1 << 20, 16} { // below TLS: fill the sockets to the last byte
			_ = near.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			for {
				if _, err := near.Write(make([]byte, size)); err != nil {
					break
				}
			}
		}
		h := NewHandle(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
		h.Add(conn)
		began := time.Now()
		if end {
			h.End(errRevoked)
		}
		h.Done()
		if took := time.Since(began); took > endSoon {
			t.Errorf("with End %v: %v", end, took)
		}
	}
}
