package main

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	helmkube "helm.sh/helm/v4/pkg/kube"

	"github.com/sallyport/sallyport/deploy"
	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/rbac"
)

// Deployments make pods, and what is deleted goes.
var shared = devclustertest.Shared{Config: devcluster.Config{Controllers: true}}

func TestMain(m *testing.M) { os.Exit(shared.Main(m)) }

// scene is a namespace of a real cluster without nodes, whose owner has accepted
// the probe there; the test is its kubelet. The installer has its own rights.
type scene struct {
	*releases
	t         *testing.T
	kube      *devcluster.Cluster
	admin     *kubernetes.Clientset
	namespace string
	stuck     atomic.Value // string: pods with that argument do not come up
	begun     []string     // uids
}

func newScene(t *testing.T, namespace string) *scene {
	t.Helper()
	c := shared.Cluster(t)
	config := func(token string) *rest.Config {
		return &rest.Config{Host: c.URL(), BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAData: c.CA()}, QPS: -1}
	}
	admin, err := kubernetes.NewForConfig(config(c.AdminToken()))
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{t: t, kube: c, admin: admin, namespace: namespace}
	for _, name := range []string{rbac.SystemNamespace, namespace} {
		s.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: " + name + "}\n")
	}
	s.accept(deploy.Accept)
	seconds := int64(3600)
	token, err := admin.CoreV1().ServiceAccounts(rbac.SystemNamespace).CreateToken(t.Context(), rbac.InstallerAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	k, err := newKube(config(token.Status.Token), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	begin := func(_ context.Context, uid string) error { s.begun = append(s.begun, uid); return nil }
	s.releases = &releases{kube: k, begin: begin, timeout: time.Minute, log: slog.New(slog.DiscardHandler)}
	s.stuck.Store("")
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); s.kubelet(ctx) }()
	t.Cleanup(func() { stop(); <-ended })
	return s
}

// accept applies what accepting the probe in the scene's namespace is.
func (s *scene) accept(what func(deploy.Options, deploy.Accepted) ([]rbac.Explained, error)) {
	s.t.Helper()
	der, err := x509.MarshalPKIXPublicKey(signer.Public().(ed25519.PublicKey))
	if err != nil {
		s.t.Fatal(err)
	}
	objects, err := what(deploy.Options{Cluster: cluster, Server: "https://sallyport.example", Image: "installer:1", NoAgents: true,
		MandateKey: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})}, deploy.ProbeOptions{Namespaces: []string{s.namespace}, Image: "agent:1"})
	if err != nil {
		s.t.Fatal(err)
	}
	text, err := deploy.YAML("", objects)
	if err != nil {
		s.t.Fatal(err)
	}
	s.apply(string(text))
}

func (s *scene) apply(text string) {
	s.t.Helper()
	if err := s.kube.Apply(s.t.Context(), text); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) kubectl(args ...string) string {
	s.t.Helper()
	out, err := s.kube.Kubectl(s.t.Context(), args...)
	if err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// kubelet lets pods of the namespace run.
func (s *scene) kubelet(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	pods := s.admin.CoreV1().Pods(s.namespace)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		all, err := pods.List(ctx, metav1.ListOptions{})
		if err != nil {
			continue
		}
		for i := range all.Items {
			p := &all.Items[i]
			if p.Status.Phase == corev1.PodRunning || slices.Contains(p.Spec.Containers[0].Args, s.stuck.Load().(string)) {
				continue
			}
			p.Status.Phase = corev1.PodRunning
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
			_, _ = pods.UpdateStatus(ctx, p, metav1.UpdateOptions{}) // the next round does what failed
		}
	}
}

// probe is the probe as it is wanted in a generation.
func (s *scene) probe(generation int64) mandate.Extension {
	return mandate.Extension{UID: uidA, Name: "Probe", Generation: generation, Type: probeType, Train: "stable", Namespace: s.namespace,
		Settings: map[string]string{"targets.self": "localhost", "interval": "60", "cluster_name": clusterID}}
}

func (s *scene) done(x mandate.Extension) mandate.ExtensionState {
	s.t.Helper()
	state, err := s.follow(s.t.Context(), x, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	return state
}

func (s *scene) installed() mandate.ExtensionState {
	s.t.Helper()
	state := s.done(s.probe(1))
	if state.Problem != nil || !state.Present || state.Version != "1.0.0" {
		s.t.Fatalf("%+v, %+v", state, state.Problem)
	}
	return state
}

func code(s mandate.ExtensionState) string {
	if s.Problem == nil {
		return ""
	}
	return s.Problem.Code
}

// A refused update leaves what was there, and that is what is said; where nobody
// can look, that is said.
func TestRefusedUpdateLeavesWhatIsThere(t *testing.T) {
	s := newScene(t, "refused")
	s.installed()
	bad := s.probe(2)
	bad.Settings["interval"] = "never"
	if state := s.done(bad); code(state) != "InvalidConfigurationSettings" || !state.Present || state.Unseen || state.Version != "1.0.0" {
		t.Errorf("settings: %+v, %+v", state, state.Problem)
	}
	consent := []string{"configmap", deploy.ConsentName(probeType), "-n", rbac.SystemNamespace}
	s.kubectl(append([]string{"patch", "-p", `{"data":{"chart":"sha256:0000"}}`}, consent...)...)
	if state := s.done(s.probe(3)); code(state) != mandate.ExtensionDigestRefused || !state.Present || state.Version != "1.0.0" {
		t.Errorf("another chart: %+v, %+v", state, state.Problem)
	}
	s.kubectl(append([]string{"delete"}, consent...)...)
	if state := s.done(s.probe(4)); code(state) != mandate.ExtensionNotAccepted || !state.Present || state.Version != "1.0.0" {
		t.Errorf("no consent: %+v, %+v", state, state.Problem)
	}
	s.kubectl("delete", "rolebinding", rbac.InstallerRole(probeType), "-n", s.namespace)
	if state := s.done(s.probe(5)); code(state) != mandate.ExtensionNotAccepted || !state.Unseen {
		t.Errorf("no rights: %+v, %+v", state, state.Problem)
	}
	if d := s.kubectl("get", "deployment", "sallyport-probe", "-n", s.namespace, "-o", "name"); strings.TrimSpace(d) == "" {
		t.Error("it is gone")
	}
}

// What never put anything into the cluster is removed without the owner's consent,
// if the cluster says so; what did is not. Control is told before it begins.
func TestRemovalOfWhatIsNotThere(t *testing.T) {
	s := newScene(t, "removal")
	gone := s.probe(2)
	gone.Remove = true
	withdraw := func() {
		s.kubectl("delete", "configmap", deploy.ConsentName(probeType), "-n", rbac.SystemNamespace)
	}
	withdraw()
	if state := s.done(s.probe(1)); code(state) != mandate.ExtensionNotAccepted || state.Present || state.Unseen {
		t.Errorf("created: %+v, %+v", state, state.Problem)
	}
	if state := s.done(gone); state.Problem != nil || state.Present || state.Unseen {
		t.Errorf("removed: %+v, %+v", state, state.Problem)
	}
	if len(s.begun) > 0 {
		t.Errorf("begun: %v", s.begun)
	}
	s.accept(deploy.Accept)
	refused := errors.New("it is not wanted any more")
	well := s.begin
	s.begin = func(context.Context, string) error { return refused }
	if _, err := s.follow(t.Context(), s.probe(1), 0); !errors.Is(err, refused) {
		t.Errorf("it began all the same: %v", err)
	}
	if state := s.done(gone); state.Problem != nil || state.Present {
		t.Errorf("%+v, %+v", state, state.Problem)
	}
	s.begin = well
	s.installed()
	if len(s.begun) != 1 || s.begun[0] != uidA {
		t.Errorf("begun: %v", s.begun)
	}
	withdraw()
	if state := s.done(gone); code(state) != mandate.ExtensionNotAccepted || !state.Present {
		t.Errorf("without consent: %+v, %+v", state, state.Problem)
	}
	// Another chart than the accepted one is no reason to keep what is there.
	s.accept(deploy.Accept)
	s.kubectl("patch", "configmap", deploy.ConsentName(probeType), "-n", rbac.SystemNamespace, "-p", `{"data":{"chart":"sha256:0000"}}`)
	if state := s.done(gone); state.Problem != nil || state.Present {
		t.Errorf("%+v, %+v", state, state.Problem)
	}
	if left := s.kubectl("get", "deployments,secrets,configmaps", "-n", s.namespace, "-o", "name"); strings.TrimSpace(left) != "configmap/kube-root-ca.crt" {
		t.Errorf("left: %s", left)
	}
}

// revision is the newest of the release.
func (s *scene) revision() int {
	s.t.Helper()
	h, err := s.releases.kube.helm(s.namespace)
	if err != nil {
		s.t.Fatal(err)
	}
	history, err := revisions(h, "probe")
	if err != nil || len(history) == 0 {
		s.t.Fatalf("%v, %v", history, err)
	}
	return history[len(history)-1].Version
}

func (s *scene) deployment(path string) string {
	s.t.Helper()
	return s.kubectl("get", "deployment", "sallyport-probe", "-n", s.namespace, "-o", "jsonpath={"+path+"}")
}

// eventually follows what is wanted until f holds.
func (s *scene) eventually(what string, f func(mandate.ExtensionState) bool) mandate.ExtensionState {
	s.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		state := s.done(s.probe(1))
		if f(state) {
			return state
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: still %+v, %+v", what, state, state.Problem)
		}
	}
}

// An installer that starts changes nothing that is as it shall be; it says what
// does not run, and puts right what was changed.
func TestStartChangesNothing(t *testing.T) {
	s := newScene(t, "start")
	s.installed()
	if s.installed(); s.revision() != 1 {
		t.Errorf("nothing had changed, and there is revision %d", s.revision())
	}
	s.stuck.Store("probe")
	s.kubectl("delete", "pods", "--all", "-n", s.namespace)
	if state := s.eventually("its pods are gone", func(x mandate.ExtensionState) bool { return code(x) == codeUnhealthy }); !state.Present || state.Version != "1.0.0" {
		t.Errorf("%+v", state)
	}
	if s.revision() != 1 {
		t.Errorf("it is not well, which no upgrade changes, and there is revision %d", s.revision())
	}
	s.stuck.Store("")
	s.eventually("its pods are back", func(x mandate.ExtensionState) bool { return x.Problem == nil })

	for i, change := range [][]string{
		{"delete", "deployment", "sallyport-probe"},
		{"set", "image", "deployment/sallyport-probe", "probe=other:1"},
		{"delete", "role", "--selector=app.kubernetes.io/name=sallyport-probe"},
	} {
		s.kubectl(append(change, "-n", s.namespace)...)
		s.installed()
		if s.revision() != i+2 {
			t.Errorf("%v: revision %d", change, s.revision())
		}
		if image := s.deployment(".spec.template.spec.containers[0].image"); image != "agent:1" {
			t.Errorf("%v: image %q", change, image)
		}
	}
	before := s.revision()
	s.kubectl("patch", "configmap", deploy.ConsentName(probeType), "-n", rbac.SystemNamespace, "-p", `{"data":{"owner.yaml":"image: agent:2"}}`)
	s.installed()
	if image := s.deployment(".spec.template.spec.containers[0].image"); image != "agent:2" || s.revision() != before+1 {
		t.Errorf("the owner accepted another image, and it is %q in revision %d", image, s.revision())
	}
}

// An update that failed is not tried again before it is asked for again, and why it
// failed is not forgotten.
func TestFailedUpdateIsTriedOnce(t *testing.T) {
	s := newScene(t, "once")
	s.installed()
	s.stuck.Store("--every=90s")
	s.timeout = 10 * time.Second
	wanted := s.probe(2)
	wanted.Settings["interval"] = "90"
	first := s.done(wanted)
	if first.Problem == nil || !strings.Contains(first.Problem.Message, "rolled back") || !first.Present || first.Version != "1.0.0" {
		t.Fatalf("%+v, %+v", first, first.Problem)
	}
	before := s.revision()
	s.stuck.Store("")
	again := s.done(wanted)
	if s.revision() != before || !again.Present || code(again) != code(first) || again.Problem.Message != first.Problem.Message {
		t.Errorf("revision %d after %d: %+v, %+v", s.revision(), before, again, again.Problem)
	}
	wanted.Generation = 3
	if state := s.done(wanted); state.Problem != nil || !strings.Contains(s.deployment(".spec.template.spec.containers[0].args"), "--every=90s") {
		t.Errorf("asked for again: %+v, %+v", state, state.Problem)
	}
}

// A release of the extension's name that somebody else made is neither updated nor
// removed.
func TestReleasesOfOthersStay(t *testing.T) {
	s := newScene(t, "others")
	theirs, err := loader.LoadFiles([]*archive.BufferedFile{
		{Name: "Chart.yaml", Data: []byte("apiVersion: v2\nname: theirs\nversion: 9.0.0\n")},
		{Name: "templates/cm.yaml", Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: theirs}\n")},
	})
	if err != nil {
		t.Fatal(err)
	}
	h, err := s.releases.kube.helm(s.namespace)
	if err != nil {
		t.Fatal(err)
	}
	install := action.NewInstall(h)
	install.ReleaseName, install.Namespace, install.WaitStrategy = "probe", s.namespace, helmkube.HookOnlyStrategy
	if _, err := install.Run(theirs, nil); err != nil {
		t.Fatal(err)
	}
	if state := s.done(s.probe(1)); code(state) != codeUnknown || !strings.Contains(state.Problem.Message, "helm uninstall probe -n others") || state.Present {
		t.Errorf("%+v, %+v", state, state.Problem)
	}
	gone := s.probe(2)
	gone.Remove = true
	if state := s.done(gone); state.Problem != nil || state.Present {
		t.Errorf("%+v, %+v", state, state.Problem)
	}
	s.kubectl("get", "configmap", "theirs", "-n", s.namespace)
	if s.revision() != 1 {
		t.Errorf("revision %d", s.revision())
	}
}
