package deploy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/router"
	"github.com/sallyport/sallyport/mlext/wire"
)

// live is the extension's manifest applied, and routers with the rights that it
// gives them, before a model server on this machine.
type live struct {
	t       *testing.T
	c       *devcluster.Cluster
	key     *ecdsa.PrivateKey
	kube    kubernetes.Interface // with the router's token
	dynamic dynamic.Interface
	model   *httptest.Server
	busy    atomic.Int32
	most    atomic.Int32
	hold    atomic.Pointer[chan struct{}]
}

type liveRouter struct {
	*router.Router
	url  string
	stop context.CancelFunc
	done chan struct{}
}

func (l *live) kubectl(args ...string) string {
	l.t.Helper()
	out, err := l.c.Kubectl(l.t.Context(), args...)
	if err != nil {
		l.t.Fatalf("kubectl %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(out)
}

// apply gives kubectl an object, or text.
func (l *live) apply(v any) {
	l.t.Helper()
	data, ok := v.([]byte)
	if !ok {
		var err error
		if data, err = json.Marshal(v); err != nil {
			l.t.Fatal(err)
		}
	}
	file := filepath.Join(l.t.TempDir(), "object")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.kubectl("apply", "--validate=strict", "-f", file)
}

func (l *live) eventually(what string, is func() bool) {
	l.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !is() {
		if time.Now().After(deadline) {
			l.t.Fatalf("never: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

const liveAudience = "https://sallyport.example/extensions/" + string(uid)

func startLive(t *testing.T) *live {
	l := &live{t: t, c: shared.Cluster(t)}
	var err error
	if l.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(l.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range []string{"serving"} {
		l.kubectl("create", "namespace", ns)
		l.kubectl("create", "serviceaccount", "default", "-n", ns) // its controller does not run here
	}
	o := mlOptions(&MLRouter{ServiceType: "ClusterIP", Insecure: true})
	o.Audience, o.MLKey = liveAudience, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	objects, err := ML(o)
	if err != nil {
		t.Fatal(err)
	}
	text, err := YAML("the extension", objects)
	if err != nil {
		t.Fatal(err)
	}
	l.apply(text)
	conf := &rest.Config{Host: l.c.URL(), TLSClientConfig: rest.TLSClientConfig{CAData: l.c.CA()}, QPS: 100, Burst: 200,
		BearerToken: l.kubectl("create", "token", mlext.RouterAccount, "-n", wire.Namespace, "--duration=1h")}
	if l.kube, err = kubernetes.NewForConfig(conf); err != nil {
		t.Fatal(err)
	}
	if l.dynamic, err = dynamic.NewForConfig(conf); err != nil {
		t.Fatal(err)
	}
	l.model = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := l.busy.Add(1)
		defer l.busy.Add(-1)
		for most := l.most.Load(); n > most && !l.most.CompareAndSwap(most, n); most = l.most.Load() {
		}
		if hold := l.hold.Load(); hold != nil {
			<-*hold
		}
		_, _ = io.Copy(w, r.Body)
	}))
	t.Cleanup(l.model.Close)
	return l
}

// serve makes an endpoint with one deployment of one replica, the model server.
func (l *live) serve() {
	l.t.Helper()
	_, port, err := net.SplitHostPort(l.model.Listener.Addr().String())
	if err != nil {
		l.t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("key"))
	owner := mlext.Owner{Workspace: "/w", Object: "o"}
	l.apply(mlext.NewOnlineEndpoint(mlext.OnlineEndpointSpec{Owner: owner, Namespace: "serving", Endpoint: wire.Endpoint{UID: "e", Name: "iris",
		Keys: []string{hex.EncodeToString(digest[:])}, Traffic: map[string]int{"blue": 100}}}))
	l.apply(mlext.NewOnlineDeployment(mlext.OnlineDeploymentSpec{Owner: owner, Namespace: "serving", Deployment: wire.Deployment{UID: "d", Name: "blue", Endpoint: "e", Instances: 1,
		Scale: &wire.Scale{Min: 1, Max: 4, Target: 70, PollingSecs: 1}, Scoring: wire.Route{Path: "/score", Port: 1},
		Request: wire.RequestSettings{Timeout: 60_000, MaxConcurrent: 1, MaxQueueWait: 60_000}}}))
	l.apply([]byte(fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"namespace":"serving","name":"p","labels":{%q:"d"}},
"spec":{"containers":[{"name":"server","image":"x","ports":[{"containerPort":%s}]}]}}`, mlext.DeploymentLabel, port)))
	l.kubectl("patch", "pod", "p", "-n", "serving", "--subresource=status", "--type=merge", "-p",
		`{"status":{"phase":"Running","podIP":"127.0.0.1","podIPs":[{"ip":"127.0.0.1"}],"conditions":[{"type":"Ready","status":"True"}]}}`)
}

func (l *live) router(name string) *liveRouter {
	l.t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(l.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	r, err := router.New(router.Config{Audience: liveAudience, Issuer: wire.Issuer("https://sallyport.example"), Key: l.key.Public(), Namespaces: []string{"serving"},
		Name: name, Peers: listener.Addr().String(), Kube: l.kube, Dynamic: l.dynamic, Now: time.Now, Log: slog.New(slog.NewTextHandler(l.t.Output(), nil))})
	if err != nil {
		l.t.Fatal(err)
	}
	server := httptest.NewServer(r)
	ctx, cancel := context.WithCancel(context.Background())
	out := &liveRouter{Router: r, url: server.URL, stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(out.done)
		if err := r.Run(ctx, listener); err != nil {
			l.t.Error(err)
		}
	}()
	l.t.Cleanup(func() { cancel(); <-out.done; server.Close() })
	return out
}

func (l *live) score(ctx context.Context, at, key string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at+wire.ScorePath("iris"), strings.NewReader("{}"))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	return res.StatusCode, string(data), err
}

// burden scores n times through each of the routers at once; none may fail.
func (l *live) burden(n int, routers ...*liveRouter) {
	l.t.Helper()
	var wg sync.WaitGroup
	for _, r := range routers {
		for range 3 {
			wg.Go(func() {
				for range n {
					if status, body, err := l.score(l.t.Context(), r.url, "key"); err != nil || status != 200 {
						l.t.Errorf("%s: %d %s %v", r.Name, status, body, err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
}

func (l *live) leader() string {
	return l.kubectl("get", "lease", "-n", wire.Namespace, mlext.RouterLease, "-o", "jsonpath={.spec.holderIdentity}")
}

// Three routers with the manifest's rights and nothing else: they find each other,
// share one replica's one slot, scale, and go on when the one that leads ends.
func TestTheRouterOnARealAPIServer(t *testing.T) {
	l := startLive(t)
	l.serve()
	var all []*liveRouter
	for i := range 3 {
		all = append(all, l.router(fmt.Sprint("router-", i)))
	}
	for _, r := range all {
		l.eventually(r.Name+" is ready", r.Ready)
	}
	l.burden(30, all...)
	if most := l.most.Load(); most != 1 {
		t.Errorf("the replica had %d requests at once, it takes 1", most)
	}
	if status, _, err := l.score(t.Context(), all[0].url, "guess"); err != nil || status != 401 {
		t.Errorf("without the key: %d %v", status, err)
	}
	l.scales(all)
	l.confined()

	lead := l.leader()
	var left []*liveRouter
	for _, r := range all {
		if r.Name != lead {
			left = append(left, r)
		}
	}
	for _, r := range all {
		if r.Name == lead {
			r.Drain()
			if r.Ready() {
				t.Error("a router that drains says that it is ready")
			}
			var wg sync.WaitGroup
			wg.Go(func() { l.burden(30, left...) })
			l.eventually("another leads", func() bool { next := l.leader(); return next != lead && next != "" })
			l.burden(3, r) // it still serves what comes
			r.stop()
			<-r.done
			wg.Wait()
		}
	}
	l.burden(10, left...)
	if most := l.most.Load(); most != 1 {
		t.Errorf("the replica had %d requests at once, it takes 1", most)
	}
	if roster := l.kubectl("get", "configmap", "-n", wire.Namespace, mlext.RoutersConfigMap, "-o", "jsonpath={.data}"); strings.Contains(roster, lead) || strings.Count(roster, "address") != 2 {
		t.Errorf("the roster is %s", roster)
	}
}

// scales has requests wait: more replicas are asked for, through the subresource.
func (l *live) scales(all []*liveRouter) {
	l.t.Helper()
	hold := make(chan struct{})
	l.hold.Store(&hold)
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			if status, _, err := l.score(l.t.Context(), all[i%len(all)].url, "key"); err != nil || status != 200 {
				l.t.Errorf("%d %v", status, err)
			}
		})
	}
	l.eventually("more replicas are wanted", func() bool {
		n := l.kubectl("get", "onlinedeployment", "-n", wire.Namespace, mlext.DeploymentName("d"), "-o", "jsonpath={.spec.scaled}")
		return n != "0" && n != "1" && n != ""
	})
	l.hold.Store(nil)
	close(hold)
	wg.Wait()
	if image := l.kubectl("get", "onlinedeployment", "-n", wire.Namespace, mlext.DeploymentName("d"), "-o", "jsonpath={.spec.deployment.scoring.path}"); image != "/score" {
		l.t.Errorf("scaling changed more than a number: %s", image)
	}
}

// confined tries what a thief of the router's token would.
func (l *live) confined() {
	l.t.Helper()
	ctx := l.t.Context()
	of := l.dynamic.Resource(mlext.OnlineDeployments).Namespace(wire.Namespace)
	_, patched := of.Patch(ctx, mlext.DeploymentName("d"), types.MergePatchType, []byte(`{"spec":{"deployment":{"image":"evil"}}}`), metav1.PatchOptions{})
	_, secrets := l.kube.CoreV1().Secrets(wire.Namespace).List(ctx, metav1.ListOptions{})
	_, keys := l.kube.CoreV1().ConfigMaps(wire.Namespace).Get(ctx, mlext.KeysConfigMap, metav1.GetOptions{})
	_, logs := l.kube.CoreV1().Pods("serving").GetLogs("p", &corev1.PodLogOptions{}).DoRaw(ctx)
	lease := l.kube.CoordinationV1().Leases(wire.Namespace).Delete(ctx, mlext.OperatorLease, metav1.DeleteOptions{})
	for name, err := range map[string]error{"change a deployment": patched, "read Secrets": secrets, "read keys": keys, "read logs": logs, "take the operator's Lease": lease} {
		if !apierrors.IsForbidden(err) {
			l.t.Errorf("%s: %v, want Forbidden", name, err)
		}
	}
	// Through scale only the number: what else stands in it is not heard.
	if _, err := of.Patch(ctx, mlext.DeploymentName("d"), types.MergePatchType, []byte(`{"spec":{"replicas":2,"deployment":{"image":"evil"}},"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{}, "scale"); err == nil {
		if got := l.kubectl("get", "onlinedeployment", "-n", wire.Namespace, mlext.DeploymentName("d"), "-o", "jsonpath={.spec.deployment.image}{.metadata.labels.a}"); got != "" {
			l.t.Errorf("through scale: %q", got)
		}
	}
}
