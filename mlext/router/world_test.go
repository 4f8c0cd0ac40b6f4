package router

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
)

const (
	audience = "https://sallyport.example/extensions/0b9f4b52-4a0c-4c0e-9a35-3c1f6a3f0001"
	ours     = "/subscriptions/s/resourcegroups/g/providers/microsoft.machinelearningservices/workspaces/ours"
	theirs   = "/subscriptions/s/resourcegroups/g/providers/microsoft.machinelearningservices/workspaces/theirs"
)

// world is one cluster as routers see it: objects, and model servers as pods on
// this machine.
type world struct {
	t   *testing.T
	key *ecdsa.PrivateKey
	wg  sync.WaitGroup

	mu      sync.Mutex
	objects sources
	routers []*Router
}

func newWorld(t *testing.T) *world {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, key: key, objects: sources{audience: audience, namespaces: []string{"serving"}}}
	t.Cleanup(w.wg.Wait)
	return w
}

// router starts one that coordinates itself.
func (w *world) router() (*Router, *httptest.Server) {
	w.t.Helper()
	r, server := w.make("router-0", io.Discard)
	ctx, cancel := context.WithCancel(w.t.Context())
	w.t.Cleanup(cancel)
	r.run(ctx, &w.wg)
	r.coordinate(ctx, &w.wg, 1)
	w.eventually("slots are given out", r.seat.ready)
	return r, server
}

// make makes a router with a real server before it.
func (w *world) make(name string, access io.Writer) (*Router, *httptest.Server) {
	w.t.Helper()
	r, err := New(Config{Audience: audience, Issuer: "https://sallyport.example/ml", Key: w.key.Public(), Namespaces: []string{"serving"}, Name: name,
		Access: access, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	server := httptest.NewServer(r)
	w.t.Cleanup(server.Close)
	w.t.Cleanup(r.transport.CloseIdleConnections)
	w.mu.Lock()
	w.routers = append(w.routers, r)
	w.mu.Unlock()
	return r, server
}

// change edits the objects and lets every router see it.
func (w *world) change(edit func(*sources)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if edit != nil {
		edit(&w.objects)
	}
	for _, r := range w.routers {
		s := w.objects
		r.apply(&s)
	}
}

func digestOf(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// endpoint adds one of a workspace.
func (w *world) endpoint(uid, name, workspace string, traffic map[string]int, keys ...string) {
	var digests []string
	for _, k := range keys {
		digests = append(digests, digestOf(k))
	}
	w.change(func(s *sources) {
		s.endpoints = append(s.endpoints, mlext.NewOnlineEndpoint(mlext.OnlineEndpointSpec{Owner: mlext.Owner{Workspace: workspace, Object: "oid of " + workspace}, Namespace: "serving",
			Endpoint: wire.Endpoint{UID: uid, Name: name, Traffic: traffic, Keys: digests}}))
	})
}

// deployment adds one of an endpoint made before.
func (w *world) deployment(uid, name, endpoint string, set func(*wire.Deployment)) {
	d := wire.Deployment{UID: uid, Name: name, Endpoint: endpoint, Scoring: wire.Route{Path: "/score", Port: 5001}, Instances: 1,
		Request: wire.RequestSettings{Timeout: 60_000, MaxConcurrent: 1, MaxQueueWait: 60_000}}
	if set != nil {
		set(&d)
	}
	w.change(func(s *sources) {
		var owner mlext.Owner
		for _, e := range s.endpoints {
			if e.Spec.Endpoint.UID == endpoint {
				owner = e.Spec.Owner
			}
		}
		s.deployments = append(s.deployments, mlext.NewOnlineDeployment(mlext.OnlineDeploymentSpec{Owner: owner, Namespace: "serving", Deployment: d}))
	})
}

// pod is a model server of a deployment.
type pod struct {
	*httptest.Server
	w    *world
	uid  string
	of   string // deployment
	gone sync.Once
}

// pod starts a model server, ready at once.
func (w *world) pod(deployment string, h http.HandlerFunc) *pod {
	w.t.Helper()
	p := w.start(deployment, h)
	p.show()
	return p
}

// start starts a model server that no router sees yet.
func (w *world) start(deployment string, h http.HandlerFunc) *pod {
	w.t.Helper()
	p := &pod{Server: httptest.NewServer(h), w: w, of: deployment}
	w.t.Cleanup(p.kill)
	_, port, err := net.SplitHostPort(p.Listener.Addr().String())
	if err != nil {
		w.t.Fatal(err)
	}
	p.uid = "pod-" + port
	return p
}

// show makes the pod a ready one.
func (p *pod) show() {
	w := p.w
	host, port, err := net.SplitHostPort(p.Listener.Addr().String())
	if err != nil {
		w.t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		w.t.Fatal(err)
	}
	w.change(func(s *sources) {
		s.pods = append(s.pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "serving", Name: p.uid, UID: types.UID(p.uid), Labels: map[string]string{mlext.DeploymentLabel: p.of}},
			Spec:   corev1.PodSpec{Containers: []corev1.Container{{Name: mlext.Server, Ports: []corev1.ContainerPort{{ContainerPort: int32(number)}}}}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: host, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}})
	})
}

// leave takes the pod out of the routers' sight, as its deletion does.
func (p *pod) leave() {
	p.w.change(func(s *sources) {
		var kept []*corev1.Pod
		for _, o := range s.pods {
			if string(o.UID) != p.uid {
				kept = append(kept, o)
			}
		}
		s.pods = kept
	})
}

// kill ends the process, whatever it does.
func (p *pod) kill() {
	p.gone.Do(func() {
		p.CloseClientConnections()
		p.Close()
	})
}

func (w *world) eventually(what string, is func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			w.t.Fatalf("never: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// call is one request; set changes it.
type called struct {
	*http.Response
	body string
}

func (c called) String() string { return fmt.Sprint(c.StatusCode, " ", c.body) }

func do(ctx context.Context, at, path, key, body string, set func(*http.Request)) (called, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at+path, strings.NewReader(body))
	if err != nil {
		return called{}, err
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	if set != nil {
		set(req)
	}
	res, err := client.Do(req)
	if err != nil {
		return called{}, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	return called{res, string(data)}, err
}

var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100, DisableCompression: true}}

func (w *world) call(at, path, key, body string, set func(*http.Request)) called {
	w.t.Helper()
	c, err := do(w.t.Context(), at, path, key, body, set)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, text)
	}
}
