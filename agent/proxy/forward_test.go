package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	wire "github.com/sallyport/sallyport/request"
	"github.com/sallyport/sallyport/tunnel"
)

// send opens a request as a gateway would.
func send(t *testing.T, hub *tunnel.Hub, method, path string, body io.Reader, header http.Header) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://tunnel"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	wire.Envelope{Binding: bindingUID, Revision: 1, RequestID: requestID}.Write(req.Header)
	resp, err := hub.RoundTrip("c", req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

const list = "/api/v1/namespaces/default/configmaps"

// What the API server is sent is compared whole, and what comes back too.
func TestForwardCarriesRequestAndAnswer(t *testing.T) {
	for _, protocol := range []string{"h2", "http/1.1"} {
		seen := make(chan http.Header, 1)
		hub := before(t, protocol, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil || r.Method != "POST" || r.RequestURI != list+"?fieldManager=m" || string(body) != "the body" {
				t.Errorf("%s %s %q %v", r.Method, r.RequestURI, body, err)
			}
			seen <- r.Header.Clone()
			h := w.Header()
			h["Content-Type"] = []string{"application/json"}
			h["Set-Cookie"] = []string{"a=b"}
			h["Sallyport-Refused"] = []string{"forbidden"}
			h["X-Two"] = []string{"1", "2"}
			h["Date"] = nil
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, "the answer")
		})
		resp := send(t, hub, "POST", list+"?fieldManager=m", strings.NewReader("the body"), http.Header{
			"User-Agent": {"kubectl"}, "Content-Type": {"application/json"}, "X-Remote-User": {"admin"}, "Authorization": {"Bearer theirs"}, "Accept": {"application/json"},
		})
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusCreated || string(body) != "the answer" {
			t.Errorf("%s: %d %q %v", protocol, resp.StatusCode, body, err)
		}
		for name, want := range map[string][]string{"Content-Type": {"application/json"}, "X-Two": {"1", "2"}, "Set-Cookie": nil, "Sallyport-Refused": nil, "Content-Length": {"10"}} {
			if got := resp.Header[name]; !slices.Equal(got, want) {
				t.Errorf("%s: answer's %s: %q, want %q", protocol, name, got, want)
			}
		}
		got := <-seen
		want := http.Header{
			"User-Agent": {"kubectl"}, "Content-Type": {"application/json"}, "Accept": {"application/json"}, "Content-Length": {"8"},
			"Authorization": {"Bearer header.e30.signature"}, "Audit-Id": {requestID},
		}
		for name := range want {
			if !slices.Equal(got[name], want[name]) {
				t.Errorf("%s: the API server got %s %q, want %q", protocol, name, got[name], want[name])
			}
			delete(got, name)
		}
		if len(got) > 0 {
			t.Errorf("%s: the API server got more: %v", protocol, got)
		}
	}
}

func TestForwardPassesEachPieceOfAStreamAtOnce(t *testing.T) {
	more := make(chan struct{})
	hub := before(t, "h2", func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		if err := rc.Flush(); err != nil {
			t.Error(err)
		}
		for range more {
			_, _ = io.WriteString(w, "event\n")
			if err := rc.Flush(); err != nil {
				t.Error(err)
			}
		}
	})
	resp := send(t, hub, "GET", list+"?watch=true", nil, nil) // its header comes before anything was said
	lines := bufio.NewScanner(resp.Body)
	for range 3 {
		more <- struct{}{}
		if !lines.Scan() || lines.Text() != "event" {
			t.Fatalf("%q %v", lines.Text(), lines.Err())
		}
	}
	close(more)
	if lines.Scan() || lines.Err() != nil {
		t.Errorf("after the end: %q %v", lines.Text(), lines.Err())
	}
}

// An answer that breaks off must not look complete, with a length or without.
func TestForwardShowsThatAnAnswerBrokeOff(t *testing.T) {
	for _, protocol := range []string{"h2", "http/1.1"} {
		for _, length := range []string{"", "1000000"} {
			hub := before(t, protocol, func(w http.ResponseWriter, r *http.Request) {
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				_, _ = w.Write(make([]byte, 100<<10))
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			})
			resp := send(t, hub, "GET", list, nil, nil)
			if n, err := io.Copy(io.Discard, resp.Body); err == nil {
				t.Errorf("%s, length %q: %d bytes and no error", protocol, length, n)
			}
		}
	}
}

func TestForwardHasNoBodyForHead(t *testing.T) {
	hub := before(t, "h2", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "77")
	})
	resp := send(t, hub, "HEAD", list+"/x", nil, nil)
	body, err := io.ReadAll(resp.Body)
	if err != nil || len(body) != 0 || resp.StatusCode != 200 || resp.Header.Get("Content-Length") != "77" {
		t.Errorf("%d %q %v %v", resp.StatusCode, body, resp.Header, err)
	}
}

// CVE-2018-1002105's kind: a connection that was upgraded unasked would be a raw
// one with the binding's rights.
func TestForwardRefusesAnUpgradeThatNobodyAskedFor(t *testing.T) {
	ended := make(chan error, 1)
	hub := before(t, "http/1.1", func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = rw.Flush()
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err = rw.ReadByte()
		ended <- err
	})
	resp := send(t, hub, "GET", list, nil, nil)
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusServiceUnavailable || !bytes.Contains(body, []byte("switched protocols")) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("the raw connection is still open: %v", err)
	}
}

// An answer that comes before the body was read reaches the gateway, and the
// body of a request that was answered is read no further.
func TestForwardAnswersBeforeTheBodyEnds(t *testing.T) {
	hub := before(t, "h2", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		_, _ = io.WriteString(w, "too large")
	})
	body, feed := io.Pipe()
	var fed atomic.Int64
	fedUp := make(chan struct{})
	go func() {
		defer close(fedUp)
		for {
			n, err := feed.Write(make([]byte, 32<<10))
			fed.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	resp := send(t, hub, "POST", list, body, nil)
	answer, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusRequestEntityTooLarge || string(answer) != "too large" || err != nil {
		t.Errorf("%d %q %v", resp.StatusCode, answer, err)
	}
	_ = resp.Body.Close()
	select {
	case <-fedUp:
	case <-time.After(10 * time.Second):
		t.Errorf("the body is still read, %d bytes so far", fed.Load())
		_ = body.Close()
	}
}

func TestForwardRefusesRedirectsAndARefusedToken(t *testing.T) {
	var code atomic.Int64
	hub := before(t, "h2", func(w http.ResponseWriter, r *http.Request) {
		if code.Load() == http.StatusFound {
			w.Header().Set("Location", "https://elsewhere.test/")
		}
		w.WriteHeader(int(code.Load()))
	})
	for c, says := range map[int]string{http.StatusFound: "redirect", http.StatusUnauthorized: "no longer takes the token"} {
		code.Store(int64(c))
		resp := send(t, hub, "GET", list, nil, nil)
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), says) || resp.Header.Get("Location") != "" {
			t.Errorf("%d became %d %s", c, resp.StatusCode, body)
		}
	}
}
