package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/e2e/installation"
	"github.com/sallyport/sallyport/trust"
)

// inTouch is I3's bound for a gateway in touch with the store, from the commit.
const inTouch = time.Second

// starved is what a machine with other work adds to what is measured here, both
// ends of it. The distribution test shows how far within the bound it is.
const starved = 2 * time.Second

// victim is a bound service whose right is about to be taken away.
type victim struct {
	*installation.Service
	token   string
	binding string // resource id
	uid     string // of the binding, where a way needs it
	streams []*stream
}

// way is one of the ways to take a right away (design 5.5). take returns when
// the change is committed: the bound counts from then, but nothing is gained by
// ending earlier, so it is measured from before the call.
type way struct {
	name  string
	bound time.Duration
	make  func(*testing.T, *world) *victim // nil: a service bound with both roles
	take  func(context.Context, *world, *victim) error
	keeps func(kind string) bool // streams that must go on
	back  func(context.Context, *world) error
	// repaired: the reconciler makes it good again, so that new requests are let
	// through. What ran under what was there before ends all the same.
	repaired bool
	// frozen: the gateway can end nothing; what the API server's own audit log says
	// is measured instead.
	frozen bool
	code   int // of the refusal of new requests, where only one will do
}

func deleting(id func(*world, *victim) string, version string) func(context.Context, *world, *victim) error {
	return func(ctx context.Context, w *world, v *victim) error {
		_, err := w.Do(ctx, http.MethodDelete, id(w, v), version, nil)
		return err
	}
}

func ways() []way {
	source := func(_ *world, v *victim) string { return v.ID }
	return []way{
		{name: "binding deleted", bound: inTouch,
			take: deleting(func(_ *world, v *victim) string { return v.binding }, client.ContainerServiceVersion)},
		{name: "role narrowed", bound: inTouch, keeps: func(kind string) bool { return kind == "watch of pods" },
			take: func(ctx context.Context, w *world, v *victim) error {
				_, err := w.Do(ctx, http.MethodPut, v.binding, client.ContainerServiceVersion, client.Binding{Properties: client.BindingProperties{SourceResourceID: v.ID, Roles: []string{reader}}})
				return err
			}},
		{name: "source deleted", bound: inTouch, take: deleting(source, client.SallyportVersion)},
		{name: "source recreated", bound: inTouch, take: func(ctx context.Context, w *world, v *victim) error {
			if _, err := w.Wait(ctx, http.MethodDelete, v.ID, client.SallyportVersion, nil); err != nil {
				return err
			}
			_, err := w.Do(ctx, http.MethodPut, v.ID, client.SallyportVersion, client.Source{Location: "local", Identity: &client.Identity{Type: "SystemAssigned"}})
			return err
		}},
		{name: "identity removed", bound: inTouch, take: func(ctx context.Context, w *world, v *victim) error {
			_, err := w.Do(ctx, http.MethodPut, v.ID, client.SallyportVersion, client.Source{Location: "local", Identity: &client.Identity{Type: "None"}})
			return err
		}},
		{name: "client secret removed", bound: inTouch, take: deleting(func(_ *world, v *victim) string { return v.SecretID }, client.SallyportVersion)},
		{name: "federated credential removed", bound: inTouch, make: federated,
			take: deleting(func(_ *world, v *victim) string { return client.FederatedPath(v.ID) + "/k8s" }, client.SallyportVersion)},
		{name: "group of the source deleted", bound: inTouch, make: elsewhere,
			take: deleting(func(_ *world, v *victim) string { return v.ID[:strings.Index(v.ID, "/providers/")] }, client.ResourcesVersion)},
		{name: "cluster stopped", bound: inTouch,
			take: func(ctx context.Context, w *world, _ *victim) error {
				_, err := w.Do(ctx, http.MethodPost, w.ClusterID()+"/stop", client.ContainerServiceVersion, nil)
				return err
			},
			back: func(ctx context.Context, w *world) error {
				_, err := w.Wait(ctx, http.MethodPost, w.ClusterID()+"/start", client.ContainerServiceVersion, nil)
				return err
			}},
		{name: "owner deletes the ServiceAccount", bound: byOwner, repaired: true, take: owner("serviceaccount", "-n", "sallyport-bindings")},
		// While the reconciler runs, it repairs this before anybody sees it.
		{name: "owner deletes the ClusterRoleBindings, the reconciler is away", bound: byOwner,
			take: func(ctx context.Context, w *world, v *victim) error {
				if err := w.Process(installation.Reconciler).Signal(syscall.SIGSTOP); err != nil {
					return err
				}
				return owner("clusterrolebinding")(ctx, w, v)
			},
			back: func(_ context.Context, w *world) error {
				return w.Process(installation.Reconciler).Signal(syscall.SIGCONT)
			}},
		{name: "owner withdraws the acceptance", bound: byOwner, keeps: func(kind string) bool { return kind == "watch of pods" },
			take: func(ctx context.Context, w *world, _ *victim) error { return w.accept(ctx, "--withdraw") },
			back: func(ctx context.Context, w *world) error { return w.accept(ctx) }},
		{name: "owner deletes the ClusterRole", bound: byOwner, keeps: func(kind string) bool { return kind == "watch of pods" },
			take: func(ctx context.Context, w *world, _ *victim) error {
				out, err := w.Cluster.Kubectl(ctx, "get", "clusterroles", "-o", "name")
				if err != nil {
					return err
				}
				for name := range strings.FieldsSeq(out) {
					if strings.Contains(name, "role:contoso.deployer:deployers:deployer:") {
						_, err = w.Cluster.Kubectl(ctx, "delete", name)
						return err
					}
				}
				return fmt.Errorf("no ClusterRole of the role among %s", out)
			},
			back: func(ctx context.Context, w *world) error { return w.accept(ctx) }},
		{name: "owner deletes the namespace of bindings", bound: byOwner,
			take: func(ctx context.Context, w *world, _ *victim) error {
				if _, err := w.Cluster.Kubectl(ctx, "delete", "namespace", "sallyport-bindings", "--wait=false"); err != nil {
					return err
				}
				// It is taken away when the cluster's namespace controller gets to it.
				_, err := w.Cluster.Kubectl(ctx, "wait", "--for=delete", "serviceaccounts", "--all", "-n", "sallyport-bindings", "--timeout=120s")
				return err
			},
			back: func(ctx context.Context, w *world) error {
				if _, err := w.Cluster.Kubectl(ctx, "wait", "--for=delete", "namespace/sallyport-bindings", "--timeout=180s"); err != nil {
					return err
				}
				return w.register(ctx, w.Name)
			}},
		{name: "cluster deleted", bound: inTouch,
			take: func(ctx context.Context, w *world, _ *victim) error {
				_, err := w.Do(ctx, http.MethodDelete, w.ClusterID(), client.ContainerServiceVersion, nil)
				return err
			},
			back: func(ctx context.Context, w *world) error { return w.again(ctx, w.GroupName()) }},
		{name: "group of the cluster deleted", bound: inTouch,
			take: func(ctx context.Context, w *world, _ *victim) error {
				_, err := w.Do(ctx, http.MethodDelete, w.Group, client.ResourcesVersion, nil)
				return err
			},
			back: func(ctx context.Context, w *world) error { return w.again(ctx, "second") }},
	}
}

// byOwner is the bound where the agent finds out by asking the API server, which
// itself remembers a token's check for ten seconds.
const byOwner = 15 * time.Second

func owner(args ...string) func(context.Context, *world, *victim) error {
	return func(ctx context.Context, w *world, v *victim) error {
		uid, err := w.bindingUID(ctx, v.binding)
		if err != nil {
			return err
		}
		_, err = w.Cluster.Kubectl(ctx, append(append([]string{"delete"}, args...), "-l", "sallyport.dev/binding="+uid)...)
		return err
	}
}

// bindingUID is the uid that a binding's objects carry.
func (w *world) bindingUID(ctx context.Context, id string) (string, error) {
	out, err := w.Cluster.Kubectl(ctx, "get", "serviceaccounts", "-n", "sallyport-bindings", "-o", "json", "-l", "sallyport.dev/binding")
	if err != nil {
		return "", err
	}
	var list struct {
		Items []struct {
			Metadata struct{ Labels, Annotations map[string]string }
		}
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return "", err
	}
	for _, i := range list.Items {
		for _, a := range i.Metadata.Annotations {
			if strings.EqualFold(a, id) {
				return i.Metadata.Labels["sallyport.dev/binding"], nil
			}
		}
	}
	return "", fmt.Errorf("no ServiceAccount of %s in %s", id, out)
}

// accept accepts the wide role as the cluster's owner, or withdraws it.
func (w *world) accept(ctx context.Context, args ...string) error {
	_, err := w.CLI(ctx, append([]string{"cluster", "accept-roles", "-g", w.GroupName(), "-n", w.Name, "--kubeconfig", w.Cluster.Kubeconfig(), "--kube-context", "dev",
		"--role-file", w.Path("deployer.yaml"), "--outlives-revocation", "--apply", "--yes", "-o", "none"}, args...)...)
	return err
}

// leave takes the agents and everything of ours out of the cluster.
func (w *world) leave(ctx context.Context) error {
	var agents errgroup.Group
	for _, name := range []string{installation.Proxy, installation.Reconciler} {
		if p := w.Process(name); p != nil { // it may never have started
			agents.Go(func() error { return p.Stop(time.Minute) })
		}
	}
	if err := agents.Wait(); err != nil {
		return err
	}
	// What "cluster disconnect" prints for an owner whose agents are gone, at once:
	// namespaces take their time.
	g, ctx := errgroup.WithContext(ctx)
	for _, args := range [][]string{
		{"namespaces", "sallyport-bindings", "sallyport-system", "--ignore-not-found"},
		{"clusterrolebindings,clusterroles,validatingadmissionpolicybindings,validatingadmissionpolicies", "-l", "sallyport.dev/cluster=" + w.UID},
		{"rolebindings,roles", "--all-namespaces", "-l", "sallyport.dev/cluster=" + w.UID},
	} {
		g.Go(func() error {
			_, err := w.Cluster.Kubectl(ctx, append([]string{"delete"}, args...)...)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	w.UID = ""
	return nil
}

// again waits until the registration is gone and connects the cluster anew.
func (w *world) again(ctx context.Context, group string) error {
	if err := installation.Eventually(ctx, "the registration is gone", time.Minute, func(ctx context.Context) error {
		arm, err := w.ARM()
		if err != nil {
			return err
		}
		if _, err = arm.Cluster(ctx, w.ClusterID()); trust.KindOf(err) == trust.NotFound {
			return nil
		}
		return fmt.Errorf("it is there, or %w", err)
	}); err != nil {
		return err
	}
	if err := w.leave(ctx); err != nil {
		return err
	}
	if err := w.Login(ctx, group); err != nil {
		return err
	}
	if err := w.register(ctx, "private-"+group); err != nil {
		return err
	}
	return w.StartAgents(ctx, installation.Agents{})
}

func bound(t *testing.T, w *world) *victim {
	s, token, binding := w.service(t, deployer, reader)
	return &victim{Service: s, token: token, binding: binding}
}

// federated is a service that proves itself with the cluster's own token of one
// of its ServiceAccounts.
func federated(t *testing.T, w *world) *victim {
	ctx := t.Context()
	v := bound(t, w)
	keys, err := w.Cluster.Kubectl(ctx, "get", "--raw", "/openid/v1/jwks")
	if err != nil {
		t.Fatal(err)
	}
	token, err := w.Cluster.Kubectl(ctx, "create", "token", "default", "-n", "default", "--audience", "api://AzureADTokenExchange")
	if err != nil {
		t.Fatal(err)
	}
	file := w.Path("federated.token")
	if err := os.WriteFile(file, []byte(strings.TrimSpace(token)), 0o600); err != nil {
		t.Fatal(err)
	}
	var f client.FederatedCredential
	f.Properties.Issuer, f.Properties.Subject = w.Cluster.ServiceAccountIssuer(), "system:serviceaccount:default:default"
	f.Properties.Audiences, f.Properties.Keys = []string{"api://AzureADTokenExchange"}, json.RawMessage(keys)
	if _, err := w.Wait(ctx, http.MethodPut, client.FederatedPath(v.ID)+"/k8s", client.SallyportVersion, f); err != nil {
		t.Fatal(err)
	}
	v.Service = v.Federated(file)
	if v.token, err = v.Token(ctx); err != nil {
		t.Fatal(err)
	}
	return v
}

// elsewhere is a service in a resource group of its own.
func elsewhere(t *testing.T, w *world) *victim {
	home := w.Group
	defer func() { w.Group = home }()
	out, err := w.CLI(t.Context(), "group", "create", "-n", "elsewhere", "-l", "local", "--query", "id", "-o", "tsv")
	if err != nil {
		t.Fatal(err)
	}
	w.Group = out
	s, err := w.NewService(t.Context(), deployers, "moved")
	if err != nil {
		t.Fatal(err)
	}
	w.Group = home
	if err := s.Bind(t.Context(), "moved", deployer, reader); err != nil {
		t.Fatal(err)
	}
	token, err := s.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &victim{Service: s, token: token, binding: w.BindingID("moved")}
}

// Every way to take a right away ends every kind of stream and refuses new
// requests.
func TestEveryWayEndsEveryStream(t *testing.T) {
	w := start(t)
	for _, c := range ways() {
		t.Run(c.name, func(t *testing.T) { c.run(t, w) })
	}
}

func (c way) run(t *testing.T, w *world) {
	create := c.make
	if create == nil {
		create = bound
	}
	v := create(t, w)
	if c.frozen {
		var err error
		if v.uid, err = w.bindingUID(t.Context(), v.binding); err != nil {
			t.Fatal(err)
		}
	}
	shapes := w.available()
	streams := w.openAll(t, v.token, shapes)
	v.streams = streams
	p := w.probe(t, v.token)
	eventually(t, "the request is let through", time.Minute, func(context.Context) error {
		if ok, _, _ := p.seen(); ok.IsZero() {
			return errors.New("not yet")
		}
		return nil
	})
	for _, st := range streams {
		if !st.alive() {
			t.Fatalf("%s ended before anything was taken away", st.kind)
		}
	}
	began := time.Now()
	if err := c.take(t.Context(), w, v); err != nil {
		t.Fatal(err)
	}
	if c.back != nil {
		t.Cleanup(func() {
			if err := c.back(context.WithoutCancel(t.Context()), w); err != nil {
				t.Error(err)
			}
		})
	}
	answered := time.Since(began)
	if c.frozen {
		c.endedAtTheServer(t, w, v, len(streams), began, answered)
		return
	}
	var lines []string
	deadline := began.Add(answered + c.bound + 5*time.Second)
	for n, st := range streams {
		if c.keeps != nil && c.keeps(shapes[n].kind) {
			continue
		}
		at, err := st.ended(time.Until(deadline))
		if err != nil {
			t.Error(err)
			continue
		}
		took, last := at.Sub(began), time.Duration(0)
		if l := st.last.Load(); l > began.UnixNano() {
			last = time.Unix(0, l).Sub(began)
		}
		lines = append(lines, fmt.Sprintf("%-24s ended %6.1f ms, last byte %6.1f ms", st.kind, ms(took), ms(last)))
		if took > answered+c.bound+starved {
			t.Errorf("%s ended %s after the change was asked for, which was answered after %s: the bound is %s", st.kind, took, answered, c.bound)
		}
	}
	if c.repaired {
		t.Logf("answered after %.1f ms\n%s", ms(answered), strings.Join(lines, "\n"))
		return
	}
	eventually(t, "new requests are refused", c.bound+10*time.Second, func(context.Context) error {
		if _, code, _ := p.seen(); code == 0 {
			return errors.New("they are let through")
		}
		return nil
	})
	time.AfterFunc(300*time.Millisecond, p.cancel)
	<-p.finished
	lastOK, code, total := p.seen()
	late := lastOK.Sub(began)
	if late > answered+c.bound+starved {
		t.Errorf("a request that began %s after the change was asked for was let through", late)
	}
	if code != http.StatusForbidden && code != http.StatusUnauthorized && code != http.StatusServiceUnavailable && code != http.StatusNotFound {
		t.Errorf("refused with %d", code)
	}
	if c.code != 0 && code != c.code {
		t.Errorf("refused with %d, want %d", code, c.code)
	}
	for n, st := range streams {
		if c.keeps != nil && c.keeps(shapes[n].kind) && !st.alive() {
			t.Errorf("%s ended although it is still allowed", st.kind)
		}
	}
	t.Logf("answered after %.1f ms, the last of %d requests was let in at %.1f ms, then %d\n%s", ms(answered), total, ms(late), code, strings.Join(lines, "\n"))
}

// endedAtTheServer reads in the API server's own audit log when the streams of a
// binding were over there.
func (c way) endedAtTheServer(t *testing.T, w *world, v *victim, streams int, began time.Time, answered time.Duration) {
	t.Helper()
	var last time.Time
	eventually(t, "the API server has seen every stream's end", c.bound+10*time.Second, func(context.Context) error {
		ended, err := w.streamsEnded(v.uid)
		if err == nil && len(ended) < streams {
			err = fmt.Errorf("%d of %d", len(ended), streams)
		}
		for _, at := range ended {
			if at.After(last) {
				last = at
			}
		}
		return err
	})
	if took := last.Sub(began); took > answered+c.bound+starved {
		t.Errorf("the API server wrote to a stream for %s; the bound is %s", took, c.bound)
	}
	t.Logf("answered after %.1f ms, %d streams were over at the API server after %.1f ms", ms(answered), streams, ms(last.Sub(began)))
}

// streamsEnded is when each of a binding's long requests was over, as the API
// server saw it.
func (w *world) streamsEnded(uid string) (map[string]time.Time, error) {
	data, err := os.ReadFile(w.Cluster.AuditLogPath())
	if err != nil {
		return nil, err
	}
	ended := map[string]time.Time{}
	for line := range strings.Lines(string(data)) {
		if !strings.Contains(line, "binding-"+uid) {
			continue
		}
		var e struct {
			AuditID, Stage, Verb string
			ObjectRef            struct{ Subresource string }
			StageTimestamp       time.Time
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return nil, err
		}
		if e.Stage == "ResponseComplete" && (e.Verb == "watch" || e.ObjectRef.Subresource != "" && e.ObjectRef.Subresource != "token") {
			ended[e.AuditID] = e.StageTimestamp
		}
	}
	return ended, nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
