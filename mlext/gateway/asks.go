package gateway

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	authenticationv1 "k8s.io/api/authentication/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

// Bounds of what waits: a pod that asks without end fills nothing.
const (
	maxAsks    = 4096
	maxPodAsks = 8
	// offerAgain is after what time an ask is offered to another poll: the first
	// one may have been lost on its way.
	offerAgain = 10 * time.Second
)

// asks are what pods want of their workspaces' stores. They are in memory only:
// a pod asks again.
type asks struct {
	now func() time.Time

	mu      sync.Mutex // guards what follows
	waiting map[string]*waiting
	changed map[mlext.Owner]chan struct{} // closed when a workspace has a new one
}

// waiting is one ask and who waits for its answer.
type waiting struct {
	wire.Ask
	owner   mlext.Owner
	answer  chan *wire.Answer
	offered time.Time
}

func newAsks(now func() time.Time) *asks {
	return &asks{now: now, waiting: map[string]*waiting{}, changed: map[mlext.Owner]chan struct{}{}}
}

// ask waits for the ML service's answer until ctx ends.
func (a *asks) ask(ctx context.Context, owner mlext.Owner, ask wire.Ask) (*wire.Answer, error) {
	ask.ID = uuid.NewString()
	w := &waiting{Ask: ask, owner: owner, answer: make(chan *wire.Answer, 1)}
	if err := a.add(w); err != nil {
		return nil, err
	}
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.waiting, ask.ID)
	}()
	select {
	case <-ctx.Done():
		return nil, trust.Errorf(trust.Unavailable, "the ML service has not answered: the workspace may have no binding on this cluster now")
	case answer := <-w.answer:
		return answer, nil
	}
}

func (a *asks) add(w *waiting) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	same := 0
	for _, other := range a.waiting {
		if other.Pod == w.Pod && other.owner == w.owner {
			same++
		}
	}
	if same >= maxPodAsks || len(a.waiting) >= maxAsks {
		return trust.Errorf(trust.Unavailable, "too many asks wait for an answer")
	}
	a.waiting[w.ID] = w
	if c := a.changed[w.owner]; c != nil {
		close(c)
		delete(a.changed, w.owner)
	}
	return nil
}

// maxOffered bounds what one poll gets, beside wire.MaxFiles of all together.
const maxOffered = 8

// next are the workspace's asks that nobody is answering; it waits for some.
func (a *asks) next(ctx context.Context, owner mlext.Owner, wait time.Duration) []wire.Ask {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	for {
		all, changed := a.offer(owner)
		if len(all) > 0 {
			return all
		}
		select {
		case <-ctx.Done():
			return all
		case <-deadline.C:
			return all
		case <-changed:
		case <-time.After(offerAgain): // one that was offered may be free again
		}
	}
}

func (a *asks) offer(owner mlext.Owner) ([]wire.Ask, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	all, files := []wire.Ask{}, 0
	for _, w := range a.waiting {
		fits := len(all) == 0 || len(all) < maxOffered && files+len(w.Files) <= wire.MaxFiles
		if w.owner == owner && a.now().Sub(w.offered) >= offerAgain && fits {
			w.offered, files = a.now(), files+len(w.Files)
			all = append(all, w.Ask)
		}
	}
	c := a.changed[owner]
	if c == nil {
		c = make(chan struct{})
		a.changed[owner] = c
	}
	return all, c
}

// answer gives a pod what it waits for. One that does not wait any more, and
// one of another workspace, are not found.
func (a *asks) answer(owner mlext.Owner, id string, answer *wire.Answer) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.waiting[id]
	if w == nil || w.owner != owner {
		return trust.Errorf(trust.NotFound, "nobody waits for this answer")
	}
	select {
	case w.answer <- answer:
	default: // it has one
	}
	return nil
}

// routeAsks are the two sides of asks.
func (g *Gateway) routeAsks(mux *http.ServeMux, on func(string, func(*call) (any, error))) {
	at := wire.Prefix
	on("GET "+at+"/asks", func(c *call) (any, error) { return g.asks.next(c.ctx, c.owner, wait(c.r)), nil })
	on("PUT "+at+"/asks/{id}", func(c *call) (any, error) {
		answer, err := decodeUpTo[wire.Answer](c.r, wire.MaxTransfer)
		if err != nil {
			return nil, err
		}
		return nil, g.asks.answer(c.owner, c.r.PathValue("id"), answer)
	})
	pod := func(pattern string, do func(*http.Request, *podCaller) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			p, err := g.pod(r)
			var body any
			if err == nil {
				body, err = do(r, p)
			} else {
				p = &podCaller{}
			}
			g.answer(w, r, p.owner, body, err)
		})
	}
	pod("POST "+at+"/pods/asks", func(r *http.Request, p *podCaller) (any, error) {
		ask, err := decodeUpTo[wire.Ask](r, wire.MaxTransfer)
		if err != nil {
			return nil, err
		}
		if len(ask.Files) > wire.MaxFiles {
			return nil, trust.Errorf(trust.Invalid, "at most %d files are asked for at once", wire.MaxFiles)
		}
		if !slices.Contains(p.mounts, ask.Mount) {
			return nil, trust.Errorf(trust.Forbidden, "the pod has no mount %.100q", ask.Mount)
		}
		ctx, cancel := context.WithTimeout(r.Context(), wire.MaxWait*time.Second)
		defer cancel()
		ask.Job, ask.Deployment, ask.Resource, ask.Node, ask.Pod = p.job, p.deployment, p.resource, p.node, p.pod.Name
		return g.asks.ask(ctx, p.owner, *ask)
	})
	pod("GET "+at+"/pods/ended", func(r *http.Request, p *podCaller) (any, error) { return g.programEnded(r, p.pod) })
}

// podCaller is a pod that has proved itself, and for whom it runs.
type podCaller struct {
	pod             *corev1.Pod
	owner           mlext.Owner
	job, deployment string // uid
	resource        string
	node            int
	mounts          []string
}

// pod authenticates a pod by a token that Kubernetes has bound to it, made for
// this audience. It must be in a namespace that the owner has let the extension
// into, and be made by a Job or a ReplicaSet: nobody else writes its labels.
func (g *Gateway) pod(r *http.Request) (*podCaller, error) {
	given := r.Header.Values("Authorization")
	token, bearer := "", false
	if len(given) == 1 {
		token, bearer = strings.CutPrefix(given[0], "Bearer ")
	}
	if !bearer || token == "" {
		return nil, trust.Errorf(trust.Unauthenticated, "send the pod's token")
	}
	review, err := g.Kube.AuthenticationV1().TokenReviews().Create(r.Context(), &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{wire.PodAudience}}}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("review a pod's token: %w", err)
	}
	s := review.Status
	account := strings.Split(s.User.Username, ":") // system:serviceaccount:<namespace>:<name>
	name, uid := s.User.Extra["authentication.kubernetes.io/pod-name"], s.User.Extra["authentication.kubernetes.io/pod-uid"]
	if !s.Authenticated || !slices.Equal(s.Audiences, []string{wire.PodAudience}) || len(account) != 4 || account[1] != "serviceaccount" || len(name) != 1 || len(uid) != 1 {
		return nil, trust.Errorf(trust.Unauthenticated, "the token is not a pod's, made for %s", wire.PodAudience)
	}
	refused := trust.Errorf(trust.Forbidden, "the pod is of no job or deployment of this extension")
	if !slices.Contains(g.Namespaces, account[2]) {
		return nil, refused
	}
	pod, err := g.Kube.CoreV1().Pods(account[2]).Get(r.Context(), name[0], metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, refused
	}
	if err != nil {
		return nil, fmt.Errorf("read a pod: %w", err)
	}
	made := metav1.GetControllerOf(pod)
	if string(pod.UID) != uid[0] || made == nil || made.Kind != "Job" && made.Kind != "ReplicaSet" {
		return nil, refused
	}
	return g.whose(r.Context(), pod, refused)
}

// whose tells for whom a pod runs: its labels name the job or deployment, whose
// object must be of the same namespace.
func (g *Gateway) whose(ctx context.Context, pod *corev1.Pod, refused error) (*podCaller, error) {
	p := &podCaller{pod: pod, job: pod.Labels[mlext.JobLabel], deployment: pod.Labels[mlext.DeploymentLabel]}
	var mounts []wire.Mount
	var namespace string
	switch {
	case uidPattern.MatchString(p.job) && p.deployment == "":
		u, err := g.Dynamic.Resource(mlext.TrainingJobs).Namespace(wire.Namespace).Get(ctx, mlext.JobName(p.job), metav1.GetOptions{})
		if err != nil {
			return nil, orRefused(err, refused)
		}
		t, err := mlext.FromObject[mlext.TrainingJob](u)
		if err != nil {
			return nil, err
		}
		p.owner, namespace, mounts, p.resource = t.Spec.Owner, t.Spec.Namespace, t.Spec.Job.Mounts, "jobs/"+t.Spec.Job.Name
		if p.node, err = strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation]); err != nil {
			return nil, refused
		}
	case uidPattern.MatchString(p.deployment) && p.job == "":
		u, err := g.Dynamic.Resource(mlext.OnlineDeployments).Namespace(wire.Namespace).Get(ctx, mlext.DeploymentName(p.deployment), metav1.GetOptions{})
		if err != nil {
			return nil, orRefused(err, refused)
		}
		d, err := mlext.FromObject[mlext.OnlineDeployment](u)
		if err != nil {
			return nil, err
		}
		if u, err = g.Dynamic.Resource(mlext.OnlineEndpoints).Namespace(wire.Namespace).Get(ctx, mlext.EndpointName(d.Spec.Deployment.Endpoint), metav1.GetOptions{}); err != nil {
			return nil, orRefused(err, refused)
		}
		e, err := mlext.FromObject[mlext.OnlineEndpoint](u)
		if err != nil {
			return nil, err
		}
		p.owner, namespace, mounts = d.Spec.Owner, d.Spec.Namespace, d.Spec.Deployment.Mounts
		p.resource = "onlineEndpoints/" + e.Spec.Endpoint.Name + "/deployments/" + d.Spec.Deployment.Name
	default:
		return nil, refused
	}
	if namespace != pod.Namespace {
		return nil, refused
	}
	for _, m := range mounts {
		p.mounts = append(p.mounts, m.Name)
	}
	return p, nil
}

func orRefused(err, refused error) error {
	if apierrors.IsNotFound(err) {
		return refused
	}
	return fmt.Errorf("read whose a pod is: %w", err)
}

// programEnded waits until the pod's program has ended, or wait is over.
func (g *Gateway) programEnded(r *http.Request, pod *corev1.Pod) (*wire.Ended, error) {
	deadline := time.NewTimer(wait(r))
	defer deadline.Stop()
	for {
		woken := g.logs.changed.next(string(pod.UID)) // before reading, so that no change is missed
		now, err := g.Kube.CoreV1().Pods(pod.Namespace).Get(r.Context(), pod.Name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("read a pod: %w", err)
		}
		for _, c := range now.Status.ContainerStatuses {
			if t := c.State.Terminated; c.Name == mlext.Container && t != nil {
				return &wire.Ended{Ended: true, ExitCode: t.ExitCode}, nil
			}
		}
		select {
		case <-r.Context().Done():
			return nil, r.Context().Err()
		case <-deadline.C:
			return &wire.Ended{}, nil
		case <-woken:
		}
	}
}
