package router

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
)

const at = "/api/v1/endpoint/iris/score"

func TestTheKeyDecidesWhoseEndpointIsScored(t *testing.T) {
	w := newWorld(t)
	w.endpoint("e1", "iris", ours, map[string]int{"blue": 100}, "our-first", "our-second")
	w.endpoint("e2", "iris", theirs, map[string]int{"blue": 100}, "their-first")
	w.deployment("d1", "blue", "e1", nil)
	w.deployment("d2", "blue", "e2", nil)
	// Written by nobody but a thief of the gateway: it belongs to another's endpoint.
	w.change(func(s *sources) {
		s.deployments = append(s.deployments, mlext.NewOnlineDeployment(mlext.OnlineDeploymentSpec{Owner: mlext.Owner{Workspace: theirs, Object: "oid of " + theirs}, Namespace: "serving",
			Deployment: wire.Deployment{UID: "d3", Name: "spy", Endpoint: "e1"}}))
	})
	w.pod("d1", says("ours"))
	w.pod("d2", says("theirs"))
	_, server := w.router()
	w.change(nil)
	for key, want := range map[string]string{"our-first": "200 ours", "our-second": "200 ours", "their-first": "200 theirs"} {
		for _, path := range []string{at, "/api/v1/service/iris/score", "/api/v1/endpoint/IRIS/score"} {
			if got := w.call(server.URL, path, key, "{}", nil); got.String() != want {
				t.Errorf("%s with %s: %v, want %s", path, key, got, want)
			}
		}
	}
	if got := w.call(server.URL, at, "our-first", "{}", func(r *http.Request) { r.Header.Set(deploymentHeader, "spy") }); got.StatusCode != 404 {
		t.Errorf("a deployment of another workspace: %v", got)
	}
	// Whether an endpoint exists is nobody's business without its key.
	missing := w.call(server.URL, "/api/v1/endpoint/other/score", "our-first", "{}", nil)
	wrong := w.call(server.URL, at, "wrong", "{}", nil)
	if missing.StatusCode != 401 || missing.body != wrong.body || wrong.StatusCode != 401 || wrong.Header.Get("Www-Authenticate") != "Bearer" {
		t.Errorf("missing: %v, wrong key: %v", missing, wrong)
	}
	for name, set := range map[string]func(*http.Request){
		"none": nil, "empty": func(r *http.Request) { r.Header.Set("Authorization", "Bearer ") },
		"basic": func(r *http.Request) { r.SetBasicAuth("a", "our-first") },
		"two": func(r *http.Request) {
			r.Header["Authorization"] = []string{"Bearer our-first", "Bearer our-second"}
		},
		"the digest":  func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+digestOf("our-first")) },
		"a query":     func(r *http.Request) { r.URL.RawQuery = "key=our-first" },
		"a blank":     func(r *http.Request) { r.Header.Set("Authorization", "Bearer  our-first") },
		"a long one":  func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+strings.Repeat("x", 20<<10)) },
		"another way": func(r *http.Request) { r.Header.Set("X-Authorization", "Bearer our-first") },
	} {
		if got := w.call(server.URL, at, "", "{}", set); got.StatusCode != 401 {
			t.Errorf("%s: %v", name, got)
		}
	}
	// A key that two workspaces set is good for neither.
	w.endpoint("e3", "iris", theirs, map[string]int{"blue": 100}, "our-first")
	if got := w.call(server.URL, at, "our-first", "{}", nil); got.StatusCode != 401 {
		t.Errorf("ambiguous: %v", got)
	}
}

func TestAnswersOfTheRouterItself(t *testing.T) {
	w := newWorld(t)
	w.endpoint("e", "iris", ours, map[string]int{"blue": 100}, "key")
	w.endpoint("idle", "idle", ours, map[string]int{"blue": 0}, "key")
	w.endpoint("lost", "lost", ours, map[string]int{"gone": 100}, "key")
	quick := func(d *wire.Deployment) { d.Request = wire.RequestSettings{Timeout: 60_000, MaxConcurrent: 1} }
	w.deployment("d", "blue", "e", quick)
	w.deployment("green", "green", "e", quick)
	w.deployment("slow", "slow", "e", func(d *wire.Deployment) { d.Request = wire.RequestSettings{Timeout: 20, MaxConcurrent: 1} })
	release := make(chan struct{})
	defer close(release)
	w.pod("d", says("fine"))
	w.pod("slow", func(http.ResponseWriter, *http.Request) { <-release })
	r, server := w.router()
	r.MaxBody = 1 << 20
	w.change(nil)
	to := func(name string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(deploymentHeader, name) }
	}
	for name, c := range map[string]struct {
		path, key, body string
		set             func(*http.Request)
		status          int
		says            string
	}{
		"found":             {at, "key", "{}", nil, 200, "fine"},
		"no scoring path":   {"/api/v1/endpoint/iris", "key", "{}", nil, 404, "POST /api/v1/endpoint/NAME/score"},
		"root":              {"/", "", "", nil, 404, "POST /api/v1/endpoint/NAME/score"},
		"escaped":           {"/api/v1/endpoint/ir%69s%2f/score", "key", "{}", nil, 404, ""},
		"method":            {at, "key", "", func(r *http.Request) { r.Method = "GET" }, 405, "by POST"},
		"method, no key":    {at, "", "", func(r *http.Request) { r.Method = "GET" }, 401, ""},
		"no traffic":        {"/api/v1/endpoint/idle/score", "key", "{}", nil, 404, "traffic to no deployment"},
		"traffic to nobody": {"/api/v1/endpoint/lost/score", "key", "{}", nil, 503, "not in the cluster"},
		"no deployment":     {at, "key", "{}", to("red"), 404, "no deployment"},
		"two deployments":   {at, "key", "{}", func(r *http.Request) { r.Header[deploymentHeader] = []string{"blue", "green"} }, 404, ""},
		"no replica":        {at, "key", "{}", to("green"), 503, "no replica that is ready"},
		"too slow":          {at, "key", "{}", to("slow"), 504, "request_timeout_ms"},
		"too large":         {at, "key", strings.Repeat("x", 2<<20), nil, 413, "the limit is 1048576"},
		"too large, chunked": {at, "key", strings.Repeat("x", 2<<20), func(r *http.Request) {
			r.ContentLength, r.Body = -1, io.NopCloser(strings.NewReader(strings.Repeat("x", 2<<20)))
		}, 413, ""},
	} {
		got := w.call(server.URL, c.path, c.key, c.body, c.set)
		if got.StatusCode != c.status || !strings.Contains(got.body, c.says) {
			t.Errorf("%s: %v, want %d %q", name, got, c.status, c.says)
		}
		if (got.StatusCode == 503) != (got.Header.Get("Retry-After") != "") {
			t.Errorf("%s: Retry-After %q", name, got.Header.Get("Retry-After"))
		}
		if len(got.Header.Get("X-Request-Id")) != 36 {
			t.Errorf("%s: x-request-id %q", name, got.Header.Get("X-Request-Id"))
		}
	}
	w.eventually("the slot of what timed out is free", func() bool {
		_, _, busy, _ := r.table.Load().deployments["slow"].pool.current()
		return busy == 0
	})
}

// A body that trickles in holds no slot, and ends in 408.
func TestASlowBodyHoldsNoSlot(t *testing.T) {
	w := newWorld(t)
	w.endpoint("e", "iris", ours, map[string]int{"blue": 100}, "key")
	w.deployment("d", "blue", "e", nil)
	w.pod("d", says("fine"))
	r, server := w.router()
	w.change(nil)
	r.bodyTimeout = 300 * time.Millisecond
	slow, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	fmt.Fprintf(slow, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key\r\nContent-Length: 10\r\n\r\n{", at)
	if got := w.call(server.URL, at, "key", "{}", nil); got.String() != "200 fine" {
		t.Errorf("beside it: %v", got)
	}
	res, err := http.ReadResponse(bufio.NewReader(slow), nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 408 {
		t.Errorf("%d, want 408", res.StatusCode)
	}
}

// Whoever announces a body and does not send it gets the answer, and holds nothing.
func TestAnAnswerDoesNotWaitForTheBody(t *testing.T) {
	w := newWorld(t)
	w.endpoint("e", "iris", ours, map[string]int{"blue": 100}, "key")
	w.deployment("d", "blue", "e", nil)
	w.pod("d", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) }) // reads nothing
	_, server := w.router()
	w.change(nil)
	for name, tt := range map[string]struct {
		head, body string
		status     int
	}{
		"a wrong key":     {"POST " + at + " HTTP/1.1\r\nAuthorization: Bearer wrong\r\nContent-Length: 100\r\n", "", 401},
		"no such path":    {"POST / HTTP/1.1\r\nContent-Length: 100\r\n", "", 404},
		"an early answer": {"POST " + at + " HTTP/1.1\r\nAuthorization: Bearer key\r\nContent-Length: 10000000\r\n", strings.Repeat("x", buffered+1), http.StatusTeapot},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(c, "%sHost: x\r\n\r\n%s", tt.head, tt.body)
			in := bufio.NewReader(c)
			res, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != tt.status {
				t.Errorf("%d, want %d", res.StatusCode, tt.status)
			}
			if _, err := io.Copy(io.Discard, in); err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the connection is still open: %v", err)
			}
		})
	}
}

func TestWhatTheModelServerGetsAndTheCallerSees(t *testing.T) {
	w := newWorld(t)
	w.endpoint("e", "iris", ours, map[string]int{"blue": 100}, "key")
	w.deployment("d", "blue", "e", func(d *wire.Deployment) { d.Scoring.Path = "v1/predict" })
	var got http.Header
	var target string
	w.pod("d", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got, target = r.Header.Clone(), r.Method+" "+r.RequestURI+" "+r.Host+" "+string(body)
		h := w.Header()
		h.Set("Connection", "X-Hop")
		h.Set("X-Hop", "1")
		h.Set("X-Request-Id", "the model's")
		h.Set("X-Ms-Request-Id", "the model's")
		h.Set("Azureml-Model-Deployment", "another")
		h.Set("X-Model", "kept")
		h.Set("Content-Type", "application/json")
		w.WriteHeader(201)
		_, _ = io.WriteString(w, `{"ok":true}`)
	})
	_, server := w.router()
	w.change(nil)
	res := w.call(server.URL, at+"?a=b&c", "key", `{"x":1}`, func(r *http.Request) {
		h := r.Header
		h.Set("Content-Type", "application/json")
		h.Set("Connection", "X-Secret-Hop, Azureml-Model-Deployment, X-Request-Id")
		h.Set("X-Secret-Hop", "1")
		h.Set("X-Forwarded-For", "1.2.3.4")
		h.Set("Forwarded", "for=1.2.3.4")
		h.Set("Proxy-Authorization", "Basic x")
		h.Set("X-Request-Id", "mine")
		h.Set("X-Ms-Client-Request-Id", strings.Repeat("a-_9", 20))
		h.Set("Te", "trailers")
		h.Set("Idempotency-Key", "again")
		h.Set("X-Mine", "kept")
		h.Set("User-Agent", "test")
		r.Host = "score.example"
	})
	if target != `POST /v1/predict?a=b&c score.example {"x":1}` {
		t.Errorf("the model server got %s", target)
	}
	id := res.Header.Get("X-Request-Id")
	clientID := strings.Repeat("a-_9", 10)
	want := http.Header{"Content-Type": {"application/json"}, "Content-Length": {"7"}, "X-Request-Id": {id}, "X-Ms-Client-Request-Id": {clientID},
		"Azureml-Model-Deployment": {"blue"}, "X-Mine": {"kept"}, "User-Agent": {"test"}, "Idempotency-Key": {"again"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("headers at the model server: -want +got\n%s", diff)
	}
	date := res.Header.Get("Date")
	wantBack := http.Header{"Content-Type": {"application/json"}, "Content-Length": {"11"}, "X-Request-Id": {id}, "X-Ms-Request-Id": {id},
		"X-Ms-Client-Request-Id": {clientID}, "Azureml-Model-Deployment": {"blue"}, "X-Model": {"kept"}, "Date": {date}}
	if diff := cmp.Diff(wantBack, res.Header); diff != "" || res.StatusCode != 201 || res.body != `{"ok":true}` || len(id) != 36 {
		t.Errorf("%v: -want +got\n%s", res, diff)
	}
	res = w.call(server.URL, at, "key", "", func(r *http.Request) { r.Header.Set("X-Ms-Client-Request-Id", "a b"); r.Header.Del("User-Agent") })
	if got.Get("X-Ms-Client-Request-Id") != "" || res.Header.Get("X-Ms-Client-Request-Id") != "" {
		t.Error("a client request id with a blank was kept")
	}
}

// A fault of the model is 502, as Azure's routers have it; what it says passes.
func TestFaultsOfTheModel(t *testing.T) {
	w := newWorld(t)
	w.endpoint("e", "iris", ours, map[string]int{"blue": 100}, "key")
	w.deployment("d", "blue", "e", nil)
	status, breaks := 500, false
	var runs atomic.Int32
	w.pod("d", func(w http.ResponseWriter, r *http.Request) {
		runs.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		if breaks {
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				c.Close()
			}
			return
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "no such feature")
	})
	_, server := w.router()
	w.change(nil)
	got := w.call(server.URL, at, "key", "{}", nil)
	if got.String() != "502 no such feature" || got.Header.Get("Ms-Azureml-Model-Error-Statuscode") != "500" || got.Header.Get("Ms-Azureml-Model-Error-Reason") != "model_error" {
		t.Errorf("%v %v", got, got.Header)
	}
	status = 422
	if got := w.call(server.URL, at, "key", "{}", nil); got.String() != "422 no such feature" || got.Header.Get("Ms-Azureml-Model-Error-Statuscode") != "" {
		t.Errorf("%v %v", got, got.Header)
	}
	// One that breaks after it was sent ran once, whatever the caller says of it.
	breaks = true
	for _, body := range []string{"{}", ""} {
		runs.Store(0)
		got = w.call(server.URL, at, "key", body, func(r *http.Request) { r.Header.Set("Idempotency-Key", "1"); r.Header.Set("X-Idempotency-Key", "1") })
		if got.StatusCode != 502 || !strings.Contains(got.body, "connection broke") || runs.Load() != 1 {
			t.Errorf("%v after %d runs", got, runs.Load())
		}
	}
}

func TestTrafficIsSplitExactly(t *testing.T) {
	w := newWorld(t)
	w.endpoint("e", "iris", ours, map[string]int{"blue": 73, "green": 20, "red": 7}, "key")
	for _, name := range []string{"blue", "green", "red", "dark"} {
		w.deployment(name, name, "e", func(d *wire.Deployment) { d.Request.MaxConcurrent = 100 })
		w.pod(name, says(name))
	}
	_, server := w.router()
	w.change(nil)
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 250 {
				got, err := do(t.Context(), server.URL, at, "key", "{}", nil)
				if err != nil || got.StatusCode != 200 || got.Header.Get(deploymentHeader) != got.body {
					t.Errorf("%v %v", got, err)
					return
				}
				mu.Lock()
				seen[got.body]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if diff := cmp.Diff(map[string]int{"blue": 1460, "green": 400, "red": 140}, seen); diff != "" {
		t.Error(diff)
	}
	if got := w.call(server.URL, at, "key", "{}", func(r *http.Request) { r.Header.Set(deploymentHeader, "Dark") }); got.String() != "200 dark" {
		t.Errorf("a deployment without traffic, asked for: %v", got)
	}
}

func TestTheSplitOfEveryHundredIsExact(t *testing.T) {
	traffic := map[string]int{"a": 1, "b": 33, "c": 66, "d": 0}
	s := newSplit(traffic)
	for range 50 {
		seen := map[string]int{"d": 0}
		for range 100 {
			seen[s.next()]++
		}
		if diff := cmp.Diff(traffic, seen); diff != "" {
			t.Fatal(diff)
		}
	}
}

// busyServer counts how many requests it has at once.
type busyServer struct {
	now, most, runs atomic.Int32
	work            func()
}

func (b *busyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := b.now.Add(1)
	defer b.now.Add(-1)
	b.runs.Add(1)
	for most := b.most.Load(); n > most && !b.most.CompareAndSwap(most, n); most = b.most.Load() {
	}
	_, _ = io.Copy(w, r.Body)
	if b.work != nil {
		b.work()
	}
}

func TestAReplicaIsNeverAskedMoreThanItTakes(t *testing.T) {
	w := newWorld(t)
	w.endpoint("e", "iris", ours, map[string]int{"blue": 100}, "key")
	w.deployment("d", "blue", "e", func(d *wire.Deployment) { d.Request.MaxConcurrent = 3 })
	var servers []*busyServer
	for range 2 {
		b := &busyServer{work: func() { time.Sleep(time.Millisecond) }}
		servers = append(servers, b)
		w.pod("d", b.ServeHTTP)
	}
	_, server := w.router()
	w.change(nil)
	burden(t, []string{server.URL}, 32, 30, nil)
	for i, b := range servers {
		if b.most.Load() != 3 || b.runs.Load() < 300 {
			t.Errorf("replica %d had %d at once and %d in all", i, b.most.Load(), b.runs.Load())
		}
	}
}

// burden makes callers × each requests, each with a body of its own that must come
// back.
func burden(t *testing.T, at []string, callers, each int, more func(*http.Request)) {
	t.Helper()
	var wg sync.WaitGroup
	var failed atomic.Int32
	for c := range callers {
		wg.Go(func() {
			for n := range each {
				body := fmt.Sprintf("%d/%d", c, n)
				got, err := do(t.Context(), at[(c+n)%len(at)], "/api/v1/endpoint/iris/score", "key", body, more)
				if err != nil || got.StatusCode != 200 || got.body != body {
					if failed.Add(1) <= 5 {
						t.Errorf("%s: %v %v", body, got, err)
					}
				}
			}
		})
	}
	wg.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of %d requests lost", n, callers*each)
	}
}

func TestTheQueueIsBoundedInTime(t *testing.T) {
	w := newWorld(t)
	w.endpoint("e", "iris", ours, map[string]int{"blue": 100}, "key")
	w.deployment("d", "blue", "e", func(d *wire.Deployment) { d.Request.MaxQueueWait = 100 })
	release := make(chan struct{})
	started := make(chan struct{}, 10)
	w.pod("d", func(w http.ResponseWriter, _ *http.Request) { started <- struct{}{}; <-release })
	r, server := w.router()
	w.change(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		if got, err := do(t.Context(), server.URL, at, "key", "{}", nil); err != nil || got.StatusCode != 200 {
			t.Errorf("the first: %v %v", got, err)
		}
	})
	<-started
	if got := w.call(server.URL, at, "key", "{}", nil); got.StatusCode != 503 || !strings.Contains(got.body, "within 100ms") {
		t.Errorf("the second: %v", got)
	}
	// A caller that leaves the queue leaves no trace.
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() { _, _ = do(ctx, server.URL, at, "key", "{}", nil) })
	p := r.table.Load().deployments["d"].pool
	w.eventually("it waits", func() bool { _, _, _, waiting := p.current(); return waiting == 1 })
	cancel()
	w.eventually("it left", func() bool { _, _, _, waiting := p.current(); return waiting == 0 })
	close(release)
	wg.Wait()
	if got := w.call(server.URL, at, "key", "{}", nil); got.StatusCode != 200 {
		t.Errorf("after it: %v", got)
	}
}

func TestStreamsFlowAndEndWithTheirCaller(t *testing.T) {
	w := newWorld(t)
	w.endpoint("e", "iris", ours, map[string]int{"blue": 100}, "key")
	w.deployment("d", "blue", "e", nil)
	next, ended := make(chan string), make(chan struct{})
	w.pod("d", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for {
			select {
			case <-r.Context().Done():
				close(ended)
				return
			case text := <-next:
				_, _ = io.WriteString(w, text)
				_ = http.NewResponseController(w).Flush()
			}
		}
	})
	r, server := w.router()
	w.change(nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+at, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer key")
	go func() { next <- "one\n" }()
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	for _, want := range []string{"one\n", "two\n"} {
		if got, err := lines.ReadString('\n'); err != nil || got != want {
			t.Fatalf("%q, %v, want %q", got, err, want)
		}
		if want == "one\n" {
			next <- "two\n"
		}
	}
	cancel()
	<-ended // the model server was told
	w.eventually("its slot is free", func() bool {
		_, _, busy, _ := r.table.Load().deployments["d"].pool.current()
		return busy == 0
	})
}

// An answer that breaks in the middle must not look whole.
func TestABrokenAnswerIsSeenAsBroken(t *testing.T) {
	w := newWorld(t)
	w.endpoint("e", "iris", ours, map[string]int{"blue": 100}, "key")
	w.deployment("d", "blue", "e", nil)
	w.pod("d", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, strings.Repeat("x", 100_000))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	_, server := w.router()
	w.change(nil)
	if got, err := do(t.Context(), server.URL, at, "key", "{}", nil); err == nil {
		t.Errorf("%d bytes without an error", len(got.body))
	}
}

func TestLargeBodiesPass(t *testing.T) {
	w := newWorld(t)
	w.endpoint("e", "iris", ours, map[string]int{"blue": 100}, "key")
	w.deployment("d", "blue", "e", nil)
	w.pod("d", func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		fmt.Fprint(w, len(data), err)
		_, _ = w.Write(data)
	})
	_, server := w.router()
	w.change(nil)
	for _, n := range []int{0, 1, small, small + 1, buffered - 1, buffered, buffered + 1, 5 << 20} {
		body := bytes.Repeat([]byte("y"), n)
		for _, chunked := range []bool{false, true} {
			got := w.call(server.URL, at, "key", string(body), func(r *http.Request) {
				if chunked {
					r.ContentLength, r.Body = -1, io.NopCloser(bytes.NewReader(body))
				}
			})
			if want := fmt.Sprint(n, error(nil)) + string(body); got.StatusCode != 200 || got.body != want {
				t.Errorf("%d bytes, chunked %v: %d, %d bytes", n, chunked, got.StatusCode, len(got.body))
			}
		}
	}
}

// Replicas come and go under load as a rolling deployment makes them: a new one is
// ready, an old one is taken out of sight and ends when what it had is done. None
// is lost, none runs twice. SALLYPORT_TEST_REQUESTS is how many there are.
func TestNoRequestIsLostOrRunTwiceWhileReplicasRoll(t *testing.T) {
	w := newWorld(t)
	w.endpoint("e", "iris", ours, map[string]int{"blue": 100}, "key")
	w.deployment("d", "blue", "e", func(d *wire.Deployment) { d.Request.MaxConcurrent = 2 })
	var mu sync.Mutex
	ran := map[string]int{}
	serve := func() *pod {
		return w.pod("d", func(w http.ResponseWriter, r *http.Request) {
			data, _ := io.ReadAll(r.Body)
			mu.Lock()
			ran[string(data)]++
			mu.Unlock()
			_, _ = w.Write(data)
		})
	}
	r, server := w.router()
	first := serve()
	w.change(nil)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	rolled := 0
	wg.Go(func() {
		p := r.table.Load().deployments["d"].pool
		for {
			select {
			case <-stop:
				return
			default:
			}
			next, ghost := serve(), w.start("d", says("never"))
			ghost.kill()
			ghost.show() // gone before routers see it: it refuses, and others are asked
			first.leave()
			w.eventually("the old one is let go", func() bool {
				p.mu.Lock()
				defer p.mu.Unlock()
				return p.replicas[first.uid+"/"+first.Listener.Addr().String()] == nil
			})
			first.kill()
			ghost.leave()
			first = next
			rolled++
		}
	})
	const callers = 16
	each := 400
	if n, err := strconv.Atoi(os.Getenv("SALLYPORT_TEST_REQUESTS")); err == nil && n > 0 {
		each = (n + callers - 1) / callers
	}
	burden(t, []string{server.URL}, callers, each, nil)
	close(stop)
	wg.Wait()
	if rolled < 10 {
		t.Errorf("rolled %d times only", rolled)
	}
	if len(ran) != callers*each {
		t.Errorf("%d requests ran, want %d", len(ran), callers*each)
	}
	t.Logf("%d requests, %d rolls", len(ran), rolled)
	for body, n := range ran {
		if n != 1 {
			t.Errorf("%s ran %d times", body, n)
		}
	}
}

// A router that ends serves what comes, and has callers connect elsewhere.
func TestARouterThatEndsSendsItsCallersAway(t *testing.T) {
	w := newWorld(t)
	w.endpoint("e", "iris", ours, map[string]int{"blue": 100}, "key")
	w.deployment("d", "blue", "e", nil)
	w.pod("d", says("fine"))
	r, server := w.router()
	w.change(nil)
	if got := w.call(server.URL, at, "key", "{}", nil); got.String() != "200 fine" || got.Close {
		t.Errorf("before: %v, close %v", got, got.Close)
	}
	r.Drain()
	if got := w.call(server.URL, at, "key", "{}", nil); got.String() != "200 fine" || !got.Close || r.Ready() {
		t.Errorf("while it ends: %v, close %v, ready %v", got, got.Close, r.Ready())
	}
}

// A pod that vanished takes no connection: the request goes elsewhere.
func TestARefusedConnectionIsTriedElsewhere(t *testing.T) {
	w := newWorld(t)
	w.endpoint("e", "iris", ours, map[string]int{"blue": 100}, "key")
	w.deployment("d", "blue", "e", func(d *wire.Deployment) { d.Request.MaxConcurrent = 4 })
	dead := w.pod("d", says("never"))
	w.pod("d", says("alive"))
	r, server := w.router()
	w.change(nil)
	dead.kill()
	for range 20 {
		if got := w.call(server.URL, at, "key", "{}", nil); got.String() != "200 alive" {
			t.Fatal(got)
		}
	}
	if _, _, busy, _ := r.table.Load().deployments["d"].pool.current(); busy != 0 {
		t.Errorf("%d slots are still busy", busy)
	}
}

func TestTheAccessLogNamesNoSecret(t *testing.T) {
	w := newWorld(t)
	w.endpoint("e", "iris", ours, map[string]int{"blue": 100}, "a-secret-key")
	w.deployment("d", "blue", "e", nil)
	w.pod("d", says("a-secret-answer"))
	var out lockedBuffer
	r, server := w.make("router-0", &out)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	r.run(ctx, &wg)
	r.coordinate(ctx, &wg, 1)
	w.change(nil)
	w.call(server.URL, at+"?token=a-secret-query", "a-secret-key", "a-secret-body", func(r *http.Request) { r.Header.Set("X-Ms-Client-Request-Id", "mine") })
	w.call(server.URL, at, "a-secret-guess", "", nil)
	cancel()
	wg.Wait()
	text := out.String()
	if strings.Contains(text, "secret") || strings.Contains(text, digestOf("a-secret-key")) {
		t.Errorf("the log has a secret:\n%s", text)
	}
	for _, want := range []string{`"status":200`, `"endpoint":"iris"`, `"deployment":"blue"`, `"workspace":"` + ours, `"client_request_id":"mine"`, `"status":401`, `"failure":"Unauthorized"`} {
		if !strings.Contains(text, want) {
			t.Errorf("the log lacks %s:\n%s", want, text)
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Whatever comes, the router answers, lets nobody in without the key, and tells
// the model server nothing that is not the caller's to say.
func FuzzRequests(f *testing.F) {
	f.Add("/api/v1/endpoint/iris/score", "Bearer key", "a", "blue", "close")
	f.Add("/api/v1/endpoint/../iris/score", "bearer  key", "\x00", "BLUE", "X-Request-Id, \x00,,")
	f.Add("/api/v1/service/%69ris/score?x", "Basic a2V5", strings.Repeat("x", 50), "", "Azureml-Model-Deployment")
	f.Fuzz(func(t *testing.T, path, authorization, id, deployment, connection string) {
		if name, ok := endpointOf(path); ok && (!isName(name) || !strings.HasSuffix(path, "/"+name+"/score")) {
			t.Errorf("%q names %q", path, name)
		}
		h := http.Header{"Authorization": {authorization}, clientRequestIDHeader: {id}, deploymentHeader: {deployment}, "Connection": {connection}, "X-Forwarded-For": {id}}
		key, err := credential(h)
		if err == nil && (key == "" || !strings.HasSuffix(authorization, key) || len(authorization) > maxCredential) {
			t.Errorf("%q holds %q", authorization, key)
		}
		kept := clientRequestID(h)
		if len(kept) > maxClientRequestID || !strings.HasPrefix(id, kept) || kept != "" && !isName(strings.Repeat("a", 1)+kept[:1]) {
			t.Errorf("%q is kept as %q", id, kept)
		}
		outgoing(h, "id", kept, "chosen")
		if h.Get("Authorization") != "" || h.Get("X-Forwarded-For") != "" || h.Get("Connection") != "" || h.Get(requestIDHeader) != "id" || h.Get(deploymentHeader) != "chosen" || h.Get(clientRequestIDHeader) != kept {
			t.Errorf("%v", h)
		}
		r := &Router{Config: Config{Now: time.Now}, metrics: newMetrics(nil, nil)}
		r.table.Store(&table{})
		req := httptest.NewRequest(http.MethodPost, "/", nil)
		req.URL.Path = path
		req.Header = http.Header{"Authorization": {authorization}}
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		if w.Code != 401 && w.Code != 404 {
			t.Errorf("%d", w.Code)
		}
	})
}

func TestErrorsHaveStatuses(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{{errTimedOut, 504}, {errLeft, 499}, {context.Canceled, 499}, {errSlowBody, 408}, {&modelError{"x", io.EOF}, 502}, {errors.New("x"), 500}, {fmt.Errorf("x: %w", errCredential), 401}} {
		if got := failureOf(c.err).status; got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
}
