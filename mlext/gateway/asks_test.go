package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
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

	"github.com/sallyport/sallyport/bucket"
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

// 500 files with the longest names, and the URLs that a store's signer makes of
// them, fit into an ask and an answer.
func TestTheLongestNamesFit(t *testing.T) {
	b, err := bucket.Open(bucket.Config{Endpoint: "https://objects.a-rather-long-region-name.example.com:9000", Bucket: strings.Repeat("b", 63), Prefix: strings.Repeat("p", 100), PathStyle: true,
		AccessKeyID: strings.Repeat("A", 32), SecretKey: "s"})
	if err != nil {
		t.Fatal(err)
	}
	const most = 900 // bytes of a key, see bucket.ValidKey
	at := "44444444-4444-4444-8444-444444444444/models/" + jobUID + "/"
	segment := strings.Repeat("<", 250) // the worst of JSON and of a URL
	ask := wire.Ask{Mount: "inputs.a"}
	answer := wire.Answer{}
	for i := range wire.MaxFiles {
		path := strings.Join([]string{segment, segment, segment, ""}, "/")
		path += strings.Repeat("<", most-len(at)-len(path)-3) + fmt.Sprintf("%03d", i)
		file := wire.File{Path: path, Size: wire.MaxFileSize, SHA256: strings.Repeat("a", 64)}
		url, header, err := b.Put(t.Context(), at+path, bucket.Upload{Size: file.Size, SHA256: file.SHA256}, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		ask.Files, answer.Files = append(ask.Files, file), append(answer.Files, wire.SignedFile{File: file, URL: url, Header: header})
	}
	authority := newSigner(t, "k1")
	g, _ := newCluster(t)
	if err := g.keys.set(20, authority.set()); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(g.Handler())
	t.Cleanup(server.Close)
	send := func(method, path string, header http.Header, body, into any) int {
		t.Helper()
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		if len(raw) > wire.MaxTransfer {
			t.Errorf("%s %s has %d bytes, more than %d", method, path, len(raw), wire.MaxTransfer)
		}
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+wire.Prefix+path, bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = header
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			return 0
		}
		defer res.Body.Close()
		if err := json.NewDecoder(res.Body).Decode(into); err != nil {
			t.Error(err)
		}
		return res.StatusCode
	}
	own := http.Header{wire.TokenHeader: {authority.token(nil)}}
	var got wire.Answer
	done := make(chan int, 1)
	go func() {
		done <- send(http.MethodPost, "/pods/asks", http.Header{"Authorization": {"Bearer good"}}, ask, &got)
	}()
	var asks []wire.Ask
	if status := send(http.MethodGet, "/asks?wait=20", own, nil, &asks); status != 200 || len(asks) != 1 || len(asks[0].Files) != wire.MaxFiles {
		t.Fatalf("%d: %d asks", status, len(asks))
	}
	if status := send(http.MethodPut, "/asks/"+asks[0].ID, own, answer, &struct{}{}); status != 200 {
		t.Errorf("the answer: %d", status)
	}
	if status := <-done; status != 200 || len(got.Files) != wire.MaxFiles || got.Files[499].Path != ask.Files[499].Path {
		t.Errorf("the pod: %d, %d files", status, len(got.Files))
	}
}

// One poll does not get more files than an answer may have.
func TestAPollGetsWhatFits(t *testing.T) {
	a := newAsks(time.Now)
	for _, n := range []int{300, 300, 100} {
		w := &waiting{Ask: wire.Ask{ID: fmt.Sprint("id-", len(a.waiting)), Files: make([]wire.File, n)}, owner: owner}
		if err := a.add(w); err != nil {
			t.Fatal(err)
		}
	}
	seen := 0
	for seen < 3 {
		asks := a.next(t.Context(), owner, 0)
		files := 0
		for _, ask := range asks {
			files += len(ask.Files)
		}
		if files > wire.MaxFiles || len(asks) == 0 {
			t.Fatalf("%d asks with %d files", len(asks), files)
		}
		seen += len(asks)
	}
}
