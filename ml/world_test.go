package ml

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/bucket"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/internal/seal"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const (
	tenant      = "11111111-1111-4111-8111-111111111111"
	group       = "/subscriptions/22222222-2222-4222-8222-222222222222/resourceGroups/rg"
	workspace   = group + "/providers/" + Namespace + "/workspaces/w"
	clusterID   = group + "/providers/" + clusterType + "/c"
	clusterUID  = "33333333-3333-4333-8333-333333333333"
	bindingID   = clusterID + "/trustedAccessRoleBindings/b"
	environment = workspace + "/environments/train/versions/1"
)

// world is the service on a real store and real TLS; what is beyond the gateway
// is made up.
type world struct {
	t  *testing.T
	st *store.Store
	ml *ML

	ahead atomic.Int64 // of the service's clock
	late  atomic.Pointer[latePut]

	mu        sync.Mutex // guards what follows
	refuse    func(path string) (status int, body string)
	unhealthy bool
	computes  map[string]wire.Compute
	jobs      map[string]*wire.Status
	submitted map[string]wire.Job
	canceled  map[string]bool
	scoring   string // URL, "": no router
	endpoints map[string]wire.Endpoint
	servers   map[string]wire.Deployment
	serving   map[string]*wire.DeploymentStatus
	told      map[string]int // how often of a deployment, by name
	keys      []wire.Keys    // as handed over
	tokens    int            // generation that the gateway takes
	changed   chan struct{}
	version   int
	asks      []wire.Ask

	registries []wire.Registry // as told last
	answers    map[string]wire.Answer
}

// latePut are PUTs that were sent, and come to the extension when a channel is
// closed.
type latePut struct {
	is    func(path string) bool
	sent  func()
	comes chan struct{}
}

func newWorld(t *testing.T) *world { return newWorldWith(t, nil) }

// newWorldWith is newWorld with a store for workspaces.
func newWorldWith(t *testing.T, storage *bucket.Bucket) *world {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	st, err := store.Open(t.Context(), store.Config{Dir: t.TempDir(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	w := &world{answers: map[string]wire.Answer{}, t: t, st: st, computes: map[string]wire.Compute{}, jobs: map[string]*wire.Status{}, submitted: map[string]wire.Job{}, canceled: map[string]bool{}, changed: make(chan struct{}),
		scoring: "https://score.test", endpoints: map[string]wire.Endpoint{}, servers: map[string]wire.Deployment{}, serving: map[string]*wire.DeploymentStatus{}, told: map[string]int{}}
	server := httptest.NewTLSServer(w)
	t.Cleanup(server.Close)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if w.ml, err = New(Config{Storage: storage, Store: st, Base: server.URL, Trust: client.ServerTrust{CA: string(ca)}, Tenant: tenant, Key: key, Seal: sealer(t), Log: log,
		Now: func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }}); err != nil {
		t.Fatal(err)
	}
	w.ml.again = 10 * time.Millisecond
	runner := operation.New(operation.Config{Store: st, Handlers: w.ml.Handlers(), Replica: "test", Log: log})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, run := range []func(context.Context) error{runner.Run, w.ml.Run} {
		wg.Go(func() {
			if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		server.CloseClientConnections()
		wg.Wait()
	})
	w.put(store.Source{ID: workspace, Type: Namespace + "/workspaces", Location: "local", Properties: json.RawMessage(`{"workspaceId":"44444444-4444-4444-8444-444444444444"}`), State: arm.Succeeded,
		Identity: &store.SystemIdentity{PrincipalID: uuid.NewString(), TenantID: tenant, ClientID: uuid.NewString()}})
	w.put(store.Cluster{ID: clusterID, UID: clusterUID, Location: "local", State: arm.Succeeded})
	return w
}

func sealer(t *testing.T) *seal.Sealer {
	t.Helper()
	s, err := seal.New(make([]byte, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (w *world) put(r store.Record) {
	w.t.Helper()
	if _, err := w.st.Commit(w.t.Context(), store.Put(r)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) source() store.Source {
	w.t.Helper()
	s, err := store.Get[store.Source](w.t.Context(), w.st, store.ResourceKey(workspace))
	if err != nil {
		w.t.Fatal(err)
	}
	return s.Value
}

// bind puts a binding of the workspace in force.
func (w *world) bind(change ...func(*store.Binding)) {
	w.t.Helper()
	s := w.source()
	b := store.Binding{ID: bindingID, UID: trust.BindingUID(uuid.NewString()), ClusterID: clusterID, ClusterUID: clusterUID, SourceID: workspace,
		Source: trust.Principal{Object: s.Identity.PrincipalID}, Roles: []string{role}, Grants: []trust.Grant{{Role: role}}, State: arm.Succeeded}
	for _, c := range change {
		c(&b)
	}
	w.put(b)
}

func (w *world) unbind() {
	w.t.Helper()
	if _, err := w.st.Commit(w.t.Context(), store.Delete(store.ResourceKey(bindingID), 0)); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refuse = func(string) (int, string) { return 403, status("Forbidden", "") } // as a gateway does
	w.wake()
}

func status(message, kind string) string {
	return fmt.Sprintf(`{"kind":"Status","status":"Failure","message":%q,"code":403,"details":{"kind":%q}}`, message, kind)
}

// wake ends long polls; w.mu is held.
func (w *world) wake() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// tell sets what the extension says of a job.
func (w *world) tell(uid string, s wire.Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.version++
	s.Version = fmt.Sprint(w.version)
	w.jobs[uid] = &s
	w.wake()
}

// ServeHTTP is the authority, and all that is behind the gateway.
func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasSuffix(r.URL.Path, "/oauth2/v2.0/token"):
		w.token(rw, r)
	default:
		path, ok := strings.CutPrefix(r.URL.Path, "/clusters/"+clusterUID+wire.ProxyPath+wire.Prefix)
		if !ok || r.Header.Get("Authorization") != "Bearer "+w.tokenFor(w.ml.Base+"/clusters/"+clusterUID) {
			rw.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(rw, status("the token is not valid", ""))
			return
		}
		w.extension(rw, r, path)
	}
}

// token checks ml's own signature and gives a token that says what it is for.
func (w *world) token(rw http.ResponseWriter, r *http.Request) {
	jws, err := jose.ParseSignedCompact(r.FormValue("client_assertion"), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	payload, err := jws.Verify(w.ml.Key.Public())
	var claims struct{ Iss, Sub, Aud string }
	if err != nil || json.Unmarshal(payload, &claims) != nil || claims.Iss != w.ml.Base+"/ml" || claims.Aud != exchangeAudience || claims.Sub == "" {
		http.Error(rw, `{"error":"invalid_client"}`, http.StatusUnauthorized)
		return
	}
	audience := strings.TrimSuffix(r.FormValue("scope"), "/.default")
	_ = json.NewEncoder(rw).Encode(map[string]any{"access_token": w.tokenFor(audience), "expires_in": 900})
}

// tokenFor is the one token for an audience that is good now.
func (w *world) tokenFor(audience string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("for %s %d", audience, w.tokens)
}

func (w *world) extension(rw http.ResponseWriter, r *http.Request, path string) {
	if late := w.late.Load(); late != nil && r.Method == http.MethodPut && late.is(path) {
		late.sent()
		<-late.comes
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse != nil {
		if code, body := w.refuse(path); code != 0 {
			rw.WriteHeader(code)
			fmt.Fprint(rw, body)
			return
		}
	}
	answer := func(code int, v any) {
		rw.WriteHeader(code)
		_ = json.NewEncoder(rw).Encode(v)
	}
	if path == "/keys" {
		answer(w.handed(r))
		return
	}
	if r.Header.Get(wire.TokenHeader) != fmt.Sprintf("for %s %d", wire.Audience(w.ml.Base, clusterUID), w.tokens) {
		answer(401, wire.Error{Code: wire.Unauthenticated, Message: "no"})
		return
	}
	parts := strings.Split(path, "/")
	switch what := r.Method + " " + parts[1]; {
	case what == "GET health":
		h := wire.Health{Operator: !w.unhealthy, Message: "the operator sleeps", Scoring: w.scoring}
		if n := len(w.keys); n > 0 {
			h.Keys = w.keys[n-1].Number
		}
		answer(200, h)
	case what == "PUT computes" && len(parts) > 3:
		w.registries = nil
		_ = json.NewDecoder(r.Body).Decode(&w.registries)
		answer(200, struct{}{})
	case what == "PUT computes":
		var c wire.Compute
		_ = json.NewDecoder(r.Body).Decode(&c)
		if c.Namespace == "nowhere" {
			answer(409, wire.Error{Code: wire.NamespaceNotFound, Message: "namespace nowhere does not exist in the cluster"})
			return
		}
		w.computes[parts[2]] = c
		answer(200, struct{}{})
	case what == "DELETE computes":
		delete(w.computes, parts[2])
		answer(200, struct{}{})
	case what == "GET asks":
		asks := w.asks
		w.asks = nil
		if len(asks) == 0 {
			changed := w.changed
			w.mu.Unlock()
			select {
			case <-changed:
			case <-r.Context().Done():
			}
			w.mu.Lock()
		}
		answer(200, asks)
	case what == "PUT asks":
		var a wire.Answer
		_ = json.NewDecoder(r.Body).Decode(&a)
		w.answers[parts[2]] = a
		answer(200, struct{}{})
	case what == "PUT jobs":
		var j wire.Job
		_ = json.NewDecoder(r.Body).Decode(&j)
		if _, there := w.computes[j.Compute]; !there {
			answer(404, wire.Error{Code: wire.ComputeNotFound, Message: "no"})
			return
		}
		w.submitted[parts[2]] = j
		if w.jobs[parts[2]] == nil {
			w.jobs[parts[2]] = &wire.Status{State: wire.Queued, Version: "0"}
		}
		answer(200, struct{}{})
	case what == "GET jobs":
		s := w.jobs[parts[2]]
		if s != nil && r.FormValue("after") == s.Version {
			changed := w.changed
			w.mu.Unlock()
			select {
			case <-changed:
			case <-r.Context().Done():
			}
			w.mu.Lock()
			s = w.jobs[parts[2]]
			if w.refuse != nil {
				if code, body := w.refuse(path); code != 0 {
					rw.WriteHeader(code)
					fmt.Fprint(rw, body)
					return
				}
			}
		}
		if s == nil {
			answer(404, wire.Error{Code: wire.JobNotFound, Message: "no"})
			return
		}
		answer(200, s)
	case what == "POST jobs":
		w.canceled[parts[2]] = true
		w.version++
		w.jobs[parts[2]] = &wire.Status{State: wire.Canceled, Version: fmt.Sprint(w.version)}
		w.wake()
		answer(200, struct{}{})
	case what == "DELETE jobs":
		delete(w.jobs, parts[2])
		answer(200, struct{}{})
	default:
		w.served(r, parts, answer)
	}
}

// handed takes a key set, if ml has signed it; w.mu is held.
func (w *world) handed(r *http.Request) (int, any) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return 400, wire.Error{Code: wire.Invalid}
	}
	jws, err := jose.ParseSignedCompact(string(body), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return 401, wire.Error{Code: wire.Unauthenticated}
	}
	var doc wire.Keys
	payload, err := jws.Verify(w.ml.Key.Public())
	if err != nil || json.Unmarshal(payload, &doc) != nil || doc.Audience != wire.Audience(w.ml.Base, clusterUID) {
		return 401, wire.Error{Code: wire.Unauthenticated}
	}
	w.keys = append(w.keys, doc)
	return 200, struct{}{}
}

// reply is an answer with its error.
type reply struct {
	*arm.Answer
	err  error
	body map[string]any
}

func (r *reply) at(path string) any {
	var v any = r.body
	for name := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

func (r *reply) code() string {
	var e *trust.Error
	errors.As(r.err, &e)
	if e == nil {
		return ""
	}
	return e.Code
}

// call hands ml what control's front would.
func (w *world) call(method, path string, body any) *reply {
	w.t.Helper()
	u, err := url.Parse(path)
	if err != nil {
		w.t.Fatal(err)
	}
	segments := strings.Split(strings.TrimPrefix(u.Path, workspace+"/"), "/")
	c := &arm.Call{Method: method, Caller: trust.Caller{Principal: trust.Principal{Object: "admin"}}, RequestID: uuid.NewString(), Version: linkVersion,
		Location: "local", Base: w.ml.Base, URL: u, Header: http.Header{}}
	id := u.Path
	if len(segments)%2 == 1 {
		id = id[:strings.LastIndexByte(id, '/')]
		if c.Action = segments[len(segments)-1]; method == http.MethodGet {
			c.List, c.Action = true, ""
		} else {
			segments = segments[:len(segments)-1]
		}
	}
	var types []string
	for i := 0; i < len(segments); i += 2 {
		types = append(types, segments[i])
	}
	c.Type = Namespace + "/" + Tracked + "/" + strings.Join(types, "/")
	if c.ID, err = arm.ParseID(id); err != nil {
		w.t.Fatal(err)
	}
	if body != nil {
		if c.Body, err = json.Marshal(body); err != nil {
			w.t.Fatal(err)
		}
	}
	a, err := w.ml.Serve(w.t.Context(), c)
	r := &reply{Answer: a, err: err}
	if err == nil && a.Body != nil {
		raw, err := json.Marshal(a.Body)
		if err != nil {
			w.t.Fatal(err)
		}
		if err := json.Unmarshal(raw, &r.body); err != nil {
			w.t.Fatal(err)
		}
	}
	return r
}

func (w *world) must(want int, method, path string, body any) *reply {
	w.t.Helper()
	r := w.call(method, path, body)
	if r.err != nil || r.Status != want {
		w.t.Fatalf("%s %s: %+v %v, want %d", method, path, r.Answer, r.err, want)
	}
	return r
}

func props(kv ...any) map[string]any {
	m := map[string]any{}
	for i := 0; i+1 < len(kv); i += 2 {
		m[kv[i].(string)] = kv[i+1]
	}
	return map[string]any{"properties": m}
}

func kubernetes(namespace string) map[string]any {
	return props("computeType", "Kubernetes", "resourceId", clusterID, "properties", map[string]any{"namespace": namespace})
}

func command(kv ...any) map[string]any {
	return props(append([]any{"jobType", "Command", "command", "/train", "environmentId", environment, "computeId", workspace + "/computes/k8s"}, kv...)...)
}

// end waits for the operation that a call began.
func (w *world) end(r *reply) store.Operation {
	w.t.Helper()
	at := r.Header.Get("Azure-AsyncOperation")
	if at == "" {
		at = r.Header.Get("Location")
	}
	u, err := url.Parse(at)
	if err != nil {
		w.t.Fatal(err)
	}
	var op store.Item[store.Operation]
	w.until("the operation has ended", func() bool {
		if op, err = store.Get[store.Operation](w.t.Context(), w.st, store.Operation{ID: u.Path[strings.LastIndexByte(u.Path, '/')+1:]}.Key()); err != nil {
			w.t.Fatal(err)
		}
		return op.Value.Done()
	})
	return op.Value
}

// until waits for a condition.
func (w *world) until(what string, ready func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ready(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("not so after 30 s: %s", what)
		}
	}
}

// locked reads what the extension knows.
func (w *world) locked(read func() bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return read()
}

// away has everything refused, nil lets it through.
func (w *world) away(refuse func(path string) (int, string)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refuse = refuse
	w.wake()
}

// becomes waits for a resource's member.
func (w *world) becomes(path, member, want string) *reply {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		r := w.must(200, "GET", path, nil)
		if r.at(member) == want {
			return r
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s is %v and not %s after 30 s: %v", member, r.at(member), want, r.body)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// scene is a bound workspace with an attached compute and an environment.
func (w *world) scene() *world {
	w.t.Helper()
	w.bind()
	w.must(201, "PUT", environment, props("image", "example.com/train:1"))
	w.must(201, "PUT", workspace+"/computes/k8s", kubernetes("default"))
	w.becomes(workspace+"/computes/k8s", "properties.provisioningState", arm.Succeeded)
	return w
}
