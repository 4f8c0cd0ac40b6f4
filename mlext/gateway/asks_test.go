package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

const (
	jobUID = "0b1f6471-1bf0-4dda-aec3-111122223333"
	podUID = "5b1f6471-1bf0-4dda-aec3-111122223333"
)

var owner = mlext.Owner{Workspace: trust.Fold(workspace), Object: "o"}

// cluster is an API server that knows one job, one pod of it, and its token.
type cluster struct {
	review func(*authenticationv1.TokenReview)
	pod    *corev1.Pod
	job    *mlext.TrainingJob
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := func(v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	switch {
	case strings.HasSuffix(r.URL.Path, "/tokenreviews"):
		var t authenticationv1.TokenReview
		_ = json.NewDecoder(r.Body).Decode(&t)
		if t.Spec.Token == "good" {
			t.Status = authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{wire.PodAudience}, User: authenticationv1.UserInfo{
				Username: "system:serviceaccount:training:default", Extra: map[string]authenticationv1.ExtraValue{
					"authentication.kubernetes.io/pod-name": {"p"}, "authentication.kubernetes.io/pod-uid": {podUID}}}}
		}
		if c.review != nil {
			c.review(&t)
		}
		answer(t)
	case strings.HasSuffix(r.URL.Path, "/namespaces/training/pods/p"):
		answer(c.pod)
	case strings.HasSuffix(r.URL.Path, "/trainingjobs/"+mlext.JobName(jobUID)):
		answer(c.job)
	default:
		w.WriteHeader(http.StatusNotFound)
		answer(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Code: 404, Reason: metav1.StatusReasonNotFound})
	}
}

func newCluster(t *testing.T) (*Gateway, *cluster) {
	t.Helper()
	c := &cluster{
		pod: &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Namespace: "training", Name: "p", UID: types.UID(podUID),
			Labels: map[string]string{mlext.JobLabel: jobUID}, Annotations: map[string]string{batchv1.JobCompletionIndexAnnotation: "3"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "Job", Name: "j", Controller: new(bool)}}}},
		job: mlext.NewTrainingJob(mlext.TrainingJobSpec{Owner: owner, Namespace: "training", Job: wire.Job{UID: jobUID, Name: "fit", Mounts: []wire.Mount{{Name: "inputs.a", Way: wire.Read}}}}),
	}
	*c.pod.OwnerReferences[0].Controller = true
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	g := newGateway(t, newSigner(t, "k1"))
	conf := &rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json", AcceptContentTypes: "application/json"}}
	var err error
	if g.Kube, err = kubernetes.NewForConfig(conf); err != nil {
		t.Fatal(err)
	}
	if g.Dynamic, err = dynamic.NewForConfig(conf); err != nil {
		t.Fatal(err)
	}
	g.Namespaces, g.asks = []string{"training"}, newAsks(time.Now)
	return g, c
}

func from(token string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

func TestOnlyAPodOfAJobMayAsk(t *testing.T) {
	g, _ := newCluster(t)
	p, err := g.pod(from("good"))
	if err != nil || p.owner != owner || p.job != jobUID || p.node != 3 || p.resource != "jobs/fit" || len(p.mounts) != 1 {
		t.Fatalf("the pod: %+v, %v", p, err)
	}
	for what, change := range map[string]func(*Gateway, *cluster){
		"another audience": func(_ *Gateway, c *cluster) {
			c.review = func(t *authenticationv1.TokenReview) { t.Status.Audiences = []string{"https://kubernetes"} }
		},
		"no pod's token": func(_ *Gateway, c *cluster) {
			c.review = func(t *authenticationv1.TokenReview) { t.Status.User.Extra = nil }
		},
		"a person's": func(_ *Gateway, c *cluster) {
			c.review = func(t *authenticationv1.TokenReview) { t.Status.User.Username = "alice" }
		},
		"refused": func(_ *Gateway, c *cluster) {
			c.review = func(t *authenticationv1.TokenReview) { t.Status.Authenticated = false }
		},
		"an earlier pod's":  func(_ *Gateway, c *cluster) { c.pod.UID = "another" },
		"made by nobody":    func(_ *Gateway, c *cluster) { c.pod.OwnerReferences = nil },
		"of no job":         func(_ *Gateway, c *cluster) { c.pod.Labels = nil },
		"of a job and more": func(_ *Gateway, c *cluster) { c.pod.Labels[mlext.DeploymentLabel] = jobUID },
		"of another's job":  func(_ *Gateway, c *cluster) { c.pod.Labels[mlext.JobLabel] = strings.Replace(jobUID, "0b", "1b", 1) },
		"beside its job":    func(_ *Gateway, c *cluster) { c.job.Spec.Namespace = "elsewhere" },
		"not let in there":  func(g *Gateway, _ *cluster) { g.Namespaces = nil },
		"without an index":  func(_ *Gateway, c *cluster) { c.pod.Annotations = nil },
	} {
		g, c := newCluster(t)
		change(g, c)
		if p, err := g.pod(from("good")); trust.KindOf(err) != trust.Unauthenticated && trust.KindOf(err) != trust.Forbidden {
			t.Errorf("%s: %+v, %v", what, p, err)
		}
	}
	for _, token := range []string{"", "bad"} {
		if _, err := g.pod(from(token)); trust.KindOf(err) != trust.Unauthenticated {
			t.Errorf("token %q: %v", token, err)
		}
	}
}

func TestAsksGoToTheirWorkspaceOnly(t *testing.T) {
	now := time.Now()
	a := newAsks(func() time.Time { return now })
	other := mlext.Owner{Workspace: owner.Workspace, Object: "made anew"}
	type got struct {
		answer *wire.Answer
		err    error
	}
	done := make(chan got, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		answer, err := a.ask(ctx, owner, wire.Ask{Job: jobUID, Pod: "p", Mount: "inputs.a"})
		done <- got{answer, err}
	}()
	asks := a.next(t.Context(), owner, time.Minute)
	if len(asks) != 1 || asks[0].Mount != "inputs.a" || asks[0].ID == "" {
		t.Fatalf("asks %+v", asks)
	}
	if stolen := a.next(t.Context(), other, 0); len(stolen) != 0 {
		t.Errorf("another identity gets %+v", stolen)
	}
	if again := a.next(t.Context(), owner, 0); len(again) != 0 {
		t.Errorf("two polls get %+v", again)
	}
	now = now.Add(offerAgain) // the first poll was lost
	if again := a.next(t.Context(), owner, 0); len(again) != 1 {
		t.Errorf("offered again: %+v", again)
	}
	if err := a.answer(other, asks[0].ID, &wire.Answer{Next: "forged"}); trust.KindOf(err) != trust.NotFound {
		t.Errorf("another identity answers: %v", err)
	}
	if err := a.answer(owner, asks[0].ID, &wire.Answer{Next: "n"}); err != nil {
		t.Error(err)
	}
	if g := <-done; g.err != nil || g.answer.Next != "n" {
		t.Errorf("got %+v, %v", g.answer, g.err)
	}
	if err := a.answer(owner, asks[0].ID, &wire.Answer{}); trust.KindOf(err) != trust.NotFound {
		t.Errorf("nobody waits any more: %v", err)
	}
	for range maxPodAsks {
		go func() { _, _ = a.ask(ctx, owner, wire.Ask{Pod: "greedy"}) }()
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		a.mu.Lock()
		n := len(a.waiting)
		a.mu.Unlock()
		if n == maxPodAsks {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("they do not wait")
		}
	}
	if _, err := a.ask(ctx, owner, wire.Ask{Pod: "greedy"}); trust.KindOf(err) != trust.Unavailable {
		t.Errorf("a pod asks without end: %v", err)
	}
	last, stop := context.WithTimeout(t.Context(), time.Millisecond)
	defer stop()
	if _, err := a.ask(last, owner, wire.Ask{Pod: "patient"}); trust.KindOf(err) != trust.Unavailable || !strings.Contains(err.Error(), "binding") {
		t.Errorf("nobody answers: %v", err)
	}
}
