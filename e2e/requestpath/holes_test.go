package requestpath

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/store"
)

// What arrives at the API server is compared whole: method, target, host, every
// header. The names are those of the known holes of such proxies.
func TestKnownHoles(t *testing.T) {
	api, server := newRecorder(t)
	w := newWorld(t, server)
	host := strings.TrimPrefix(server.url, "https://")
	const list = "/api/v1/namespaces/n/configmaps"
	set := func(pairs ...string) func(*http.Request) {
		return func(r *http.Request) {
			for i := 0; i < len(pairs); i += 2 {
				r.Header.Add(pairs[i], pairs[i+1])
			}
		}
	}
	for name, c := range map[string]struct {
		method, path string
		edit         func(*http.Request)
		want         string      // the target that arrives; "" if nothing may
		code         int         // of a refusal
		also         http.Header // headers that arrive beside the usual
	}{
		"plain": {"GET", list, nil, list, 0, nil},
		"CVE-2021-31999 Connection names identity":    {"GET", list, set("Connection", "Authorization, Sallyport-Binding, Sallyport-Request-Id, Audit-Id, X-Keep", "X-Keep", "1"), list, 0, nil},
		"Connection names impersonation":              {"GET", list, set("Connection", "Impersonate-User"), "", 403, nil},
		"CVE Impersonate-User passed on":              {"GET", list, set("Impersonate-User", "system:admin"), "", 403, nil},
		"Impersonate-Group":                           {"GET", list, set("Impersonate-Group", "system:masters"), "", 403, nil},
		"Impersonate-Uid":                             {"GET", list, set("Impersonate-Uid", "1"), "", 403, nil},
		"Impersonate-Extra":                           {"GET", list, set("Impersonate-Extra-Scopes", "x"), "", 403, nil},
		"impersonate spelled with _":                  {"GET", list, set("impersonate_user", "root"), "", 403, nil},
		"bearer as WebSocket subprotocol":             {"GET", list, set("Sec-WebSocket-Protocol", "base64url.bearer.authorization.k8s.io.c2VjcmV0, v4.channel.k8s.io"), list, 0, http.Header{"Sec-Websocket-Protocol": {"v4.channel.k8s.io"}}},
		"X-Remote-User (kubernetes#119631)":           {"GET", list, set("X-Remote-User", "system:admin", "X-Remote-Group", "system:masters", "X-Remote-Extra-X", "1", "x_remote_user", "root"), list, 0, nil},
		"forwarded addresses":                         {"GET", list, set("X-Forwarded-For", "10.0.0.1", "Forwarded", "for=10.0.0.1", "X-Real-Ip", "10.0.0.1", "X-Forwarded-Proto", "http"), list, 0, nil},
		"cookies and proxy credentials":               {"GET", list, set("Cookie", "a=b", "Proxy-Authorization", "Basic x"), list, 0, nil},
		"the envelope forged":                         {"GET", list, set("Sallyport-Binding", "dddddddd-dddd-4ddd-8ddd-dddddddddddd", "Sallyport-Request-Id", "x", "Sallyport-Tunnel-Status", "101"), list, 0, nil},
		"an Audit-ID of the caller's":                 {"GET", list, set("Audit-ID", "theirs"), list, 0, nil},
		"kubernetes#78741 exec by GET needs create":   {"GET", "/api/v1/namespaces/n/pods/p/ephemeralcontainers", nil, "", 403, nil},
		"kubernetes#136550 nodes/proxy":               {"GET", "/api/v1/nodes/n/proxy/exec/x", nil, "", 403, nil},
		"path: double slash":                          {"GET", "//api/v1/namespaces/n/configmaps", nil, "", 400, nil},
		"path: dot dot":                               {"GET", "/api/v1/namespaces/n/configmaps/../secrets", nil, "", 400, nil},
		"path: %2e%2e":                                {"GET", "/api/v1/namespaces/n/configmaps/%2e%2e/secrets", nil, "", 400, nil},
		"path: %2f":                                   {"GET", "/api/v1/namespaces/n/configmaps%2f..%2fsecrets", nil, "", 400, nil},
		"path: semicolon":                             {"GET", "/api/v1/namespaces/n/configmaps;/secrets", nil, "", 400, nil},
		"path: backslash":                             {"GET", `/api/v1/namespaces/n/configmaps%5c..%5csecrets`, nil, "", 400, nil},
		"path: NUL":                                   {"GET", "/api/v1/namespaces/n/configmaps%00", nil, "", 400, nil},
		"path: out of a service":                      {"GET", "/api/v1/namespaces/n/services/s/proxy/../../../secrets", nil, "", 400, nil},
		"path: out of a service, encoded":             {"GET", "/api/v1/namespaces/n/services/s/proxy/..%2f..%2fsecrets", nil, "", 400, nil},
		"CVE-2026-66794 a target of the caller's own": {"GET", "/api/v1/namespaces/n/services/https:evil.example:443/proxy/", nil, "/api/v1/namespaces/n/services/https:evil.example:443/proxy/", 0, nil},
		"a service's own path, as it came":            {"GET", "/api/v1/namespaces/n/services/s/proxy/a//b%2Fc;d?x;y=%zz", nil, "/api/v1/namespaces/n/services/s/proxy/a//b%2Fc;d?x;y=%zz", 0, nil},
		"hop-by-hop headers":                          {"GET", list, set("Te", "trailers", "Keep-Alive", "1", "Upgrade-Insecure-Requests", "1"), list, 0, http.Header{"Upgrade-Insecure-Requests": {"1"}}},
		"an application's own headers":                {"GET", list, set("X-App-Token", "theirs", "Traceparent", "00-1"), list, 0, http.Header{"X-App-Token": {"theirs"}, "Traceparent": {"00-1"}}},
		"method override":                             {"PROPFIND", list, nil, "", 405, nil},
	} {
		over := func(t *testing.T, major int) {
			w.t = t
			w.speak(major)
			resp, body := w.do(c.method, "/", nil, func(r *http.Request) {
				r.URL.Opaque = "/clusters/" + string(clusterUID) + c.path // as it is, uncleaned
				if before, q, ok := strings.Cut(c.path, "?"); ok {
					r.URL.Opaque, r.URL.RawQuery = "/clusters/"+string(clusterUID)+before, q
				}
				r.Header.Set("User-Agent", "test")
				if c.edit != nil {
					c.edit(r)
				}
			})
			got := api.take()
			if c.want == "" {
				if resp.StatusCode != c.code || len(got) != 0 {
					t.Fatalf("%d %s, and %d requests arrived", resp.StatusCode, body, len(got))
				}
				status(t, body)
				return
			}
			if resp.StatusCode != 200 || len(got) != 1 {
				t.Fatalf("%d %s, and %d requests arrived", resp.StatusCode, body, len(got))
			}
			want := arrived{Method: c.method, URI: c.want, Host: host, Header: http.Header{
				"Authorization": {"Bearer " + bindingToken}, "User-Agent": {"test"}, "Audit-Id": {resp.Header.Get("Audit-Id")},
			}}
			for k, v := range c.also {
				want.Header[k] = v
			}
			if d := cmp.Diff(want, got[0]); d != "" {
				t.Error(d)
			}
		}
		t.Run(name+" over HTTP/1.1", func(t *testing.T) { over(t, 1) })
		if !strings.Contains(name, "Connection") && !strings.Contains(name, "hop-by-hop") { // HTTP/2 has no such headers
			t.Run(name+" over HTTP/2", func(t *testing.T) { over(t, 2) })
		}
	}
	w.t = t
	w.noSecrets("%zz")
}

// noSecrets looks for tokens, and what else is given, in every line that any
// room has written.
func (w *world) noSecrets(more ...string) {
	w.t.Helper()
	for name, text := range map[string]string{"audit": w.audit.text(), "log": w.logs.text()} {
		for _, secret := range append(more, "eyJ", bindingToken, "Bearer ") {
			if i := strings.Index(text, secret); i >= 0 {
				w.t.Errorf("%s holds %q: %.300s", name, secret, text[max(0, i-100):])
			}
		}
	}
	if w.logs.text() == "" {
		w.t.Error("nothing was logged: the test looks at nothing")
	}
}

// A lost identity fails closed: there is nothing to fall back to.
func TestWithoutTheBindingsIdentity(t *testing.T) {
	api, server := newRecorder(t)
	api.noToken.Store(true)
	w := newWorld(t, server)
	resp, body := w.do("GET", "/api/v1/namespaces/n/configmaps", nil, nil)
	if resp.StatusCode != 403 || !strings.Contains(status(t, body).Message, "identity does not exist") || len(api.take()) != 0 {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

// No limiter hides on the way (Teleport#67658: client-go's 5 requests a second).
func TestNoHiddenLimiter(t *testing.T) {
	_, server := newRecorder(t)
	w := newWorld(t, server)
	start := time.Now()
	var running sync.WaitGroup
	for range 20 {
		running.Go(func() {
			for range 20 {
				if resp, body := w.do("GET", "/api/v1/namespaces/n/configmaps", nil, nil); resp.StatusCode != 200 {
					t.Errorf("%d %s", resp.StatusCode, body)
				}
			}
		})
	}
	running.Wait()
	if took := time.Since(start); took > 10*time.Second { // 80 s with such a limiter
		t.Errorf("400 requests took %v", took)
	}
}

// Answers: no redirect is followed or passed (CVE-2022-3172, CVE-2018-1002102),
// and a 401 of the API server's does not say that the caller's token is wrong.
func TestAnswersThatDoNotPass(t *testing.T) {
	api, server := newRecorder(t)
	w := newWorld(t, server)
	var elsewhere int
	api.set(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/elsewhere":
			elsewhere++
		case "/api/v1/namespaces/n/configmaps/redirect":
			http.Redirect(rw, r, "/elsewhere", http.StatusFound)
		case "/api/v1/namespaces/n/configmaps/401":
			rw.WriteHeader(http.StatusUnauthorized)
		}
	})
	resp, body := w.do("GET", "/api/v1/namespaces/n/configmaps/redirect", nil, nil)
	if resp.StatusCode != 503 || resp.Header.Get("Location") != "" || elsewhere != 0 {
		t.Errorf("%d %v %s, followed %d times", resp.StatusCode, resp.Header, body, elsewhere)
	}
	resp, body = w.do("GET", "/api/v1/namespaces/n/configmaps/401", nil, nil)
	if resp.StatusCode != 503 || !strings.Contains(status(t, body).Message, "binding's identity") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

// An upgrade that the API server does not do leaves no raw connection to it
// (CVE-2018-1002105), and a redirect instead of one is not followed
// (CVE-2020-8559).
func TestFailedUpgrades(t *testing.T) {
	api, server := newRecorder(t)
	w := newWorld(t, server)
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request){
		"refused":    func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "no", http.StatusBadRequest) },
		"redirected": func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, "/elsewhere", http.StatusFound) },
		"ignored":    func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "plain") },
	} {
		api.set(func(rw http.ResponseWriter, r *http.Request) { api.note(r, ""); answer(rw, r) })
		conn := w.dial()
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n", w.path("/api/v1/namespaces/n/pods/p/exec?command=id"), w.token())
		br := bufio.NewReader(conn)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode == http.StatusSwitchingProtocols || resp.Header.Get("Location") != "" {
			t.Errorf("%s: %d %v", name, resp.StatusCode, resp.Header)
		}
		// What follows is another request to the gateway, never bytes for the API server.
		fmt.Fprintf(conn, "GET /api/v1/secrets HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if resp, err := http.ReadResponse(br, nil); err == nil && resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: then %d", name, resp.StatusCode)
		}
		if got := api.take(); len(got) != 1 || got[0].Header.Get("Upgrade") != "SPDY/3.1" || got[0].Header.Get("Authorization") != "Bearer "+bindingToken {
			t.Errorf("%s: %d requests arrived: %+v", name, len(got), got)
		}
		_ = conn.Close()
	}
}

// Smuggling: what follows a request's body is another request to the gateway.
func TestSmuggling(t *testing.T) {
	api, server := newRecorder(t)
	w := newWorld(t, server)
	target := w.path("/api/v1/namespaces/n/configmaps")
	hidden := "GET /api/v1/secrets HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, raw := range map[string]string{
		"CL.TE":          "POST " + target + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
		"TE.TE":          "POST " + target + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + hidden,
		"spaced header":  "POST " + target + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + hidden,
		"two lengths":    "POST " + target + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n" + hidden,
		"folded header":  "GET " + target + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\nX-A: 1\r\n Impersonate-User: root\r\n\r\n",
		"trailer":        "POST " + target + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\nTransfer-Encoding: chunked\r\nTrailer: Impersonate-User\r\n\r\n0\r\nImpersonate-User: root\r\n\r\n",
		"unsaid trailer": "POST " + target + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nImpersonate-User: root\r\n\r\n",
	} {
		conn := w.dial()
		_, _ = io.WriteString(conn, strings.ReplaceAll(raw, "TOKEN", w.token()))
		_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
		for _, a := range api.take() {
			if strings.Contains(a.URI, "secrets") || a.Header.Get("Impersonate-User") != "" || len(a.Trailer) > 0 {
				t.Errorf("%s: %+v arrived", name, a)
			}
		}
	}
}

func (w *world) dial() *tls.Conn {
	w.t.Helper()
	u, _ := url.Parse(w.front.URL)
	conf := w.front.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	conf.NextProtos, conf.ServerName = []string{"http/1.1"}, "example.com" // httptest's certificate
	conn, err := tls.Dial("tcp", u.Host, conf)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (w *world) path(p string) string { return "/clusters/" + string(clusterUID) + p }

// 100 MB each way through a service, and an answer of 100 MB.
func TestLargeBodies(t *testing.T) {
	api, server := newRecorder(t)
	w := newWorld(t, server)
	const size = 100 << 20
	api.set(func(rw http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if r.Method == http.MethodPost {
			fmt.Fprintf(rw, "%d %v", n, err)
			return
		}
		piece := bytes.Repeat([]byte("x"), 1<<20)
		for range size >> 20 {
			if _, err := rw.Write(piece); err != nil {
				return
			}
		}
	})
	_, body := w.do("POST", "/api/v1/namespaces/n/services/s/proxy/upload", io.LimitReader(zeros{}, size), nil)
	if string(body) != fmt.Sprintf("%d <nil>", size) {
		t.Errorf("up: %s", body)
	}
	resp := w.open("GET", "/api/v1/namespaces/n/services/s/proxy/download", nil, nil)
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
		t.Errorf("down: %d %v", n, err)
	}
}

type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// The agent decides for itself: a gateway that still lets a binding through,
// which the signed state no longer holds, gets nowhere, and what runs ends.
func TestTheAgentEndsWhatItsStateDoesNotHold(t *testing.T) {
	api, server := newRecorder(t)
	w := newWorld(t, server)
	api.set(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, "{}\n")
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done()
	})
	resp := w.open("GET", "/api/v1/namespaces/n/configmaps?watch=1", nil, nil)
	defer resp.Body.Close()
	start := time.Now()
	w.state.set(t)
	if _, err := io.Copy(io.Discard, resp.Body); err == nil || time.Since(start) > inTouch {
		t.Errorf("ended with %v after %v", err, time.Since(start))
	}
	refused, body := w.do("GET", "/api/v1/namespaces/n/configmaps", nil, nil)
	if refused.StatusCode != 403 || refused.Header.Get("Sallyport-Refused") != "" {
		t.Errorf("%d %v %s", refused.StatusCode, refused.Header, body)
	}
	w.eventually("the record says who refused", func() bool { return strings.Contains(w.audit.text(), "refused by the cluster's agent (forbidden)") })
}

// Deleting the binding reaches the API server's side of every stream within a
// second.
func TestTheLastByteAtTheAPIServer(t *testing.T) {
	api, server := newRecorder(t)
	w := newWorld(t, server)
	ended := make(chan struct{})
	api.set(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, "{}\n")
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done()
		close(ended)
	})
	resp := w.open("GET", "/api/v1/namespaces/n/configmaps?watch=1", nil, nil)
	defer resp.Body.Close()
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || line != "{}\n" {
		t.Fatal(line, err)
	}
	start := time.Now()
	w.commit(store.Delete(w.binding().Key(), 0))
	select {
	case <-ended:
		t.Logf("ended at the API server after %v", time.Since(start))
	case <-time.After(inTouch):
		t.Fatal("still running at the API server")
	}
}
