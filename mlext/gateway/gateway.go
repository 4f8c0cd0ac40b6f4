package gateway

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

// Config is what New needs. All fields are required.
type Config struct {
	Issuer     string           // of the tokens, byte for byte
	Tenant     string           // GUID
	Audience   string           // of this cluster's extension, see wire.Audience
	RefreshKey crypto.PublicKey // the ML service's: signs newer key sets
	Namespaces []string         // that may be attached: the owner's consent
	NoTraining bool             // the owner has the extension serve only
	Version    string           // of this program, for people

	Kube    kubernetes.Interface
	Dynamic dynamic.Interface
	Logs    LogConfig
	Now     func() time.Time
	Log     *slog.Logger
}

// Gateway serves the ML service. Run must be running.
type Gateway struct {
	Config
	keys    *keys
	logs    *collector
	changed *waker // by name of a TrainingJob or OnlineDeployment
	asks    *asks
}

// New reads the keys that were handed over.
func New(ctx context.Context, c Config) (*Gateway, error) {
	if c.Issuer == "" || c.Tenant == "" || c.Audience == "" || c.RefreshKey == nil {
		return nil, errors.New("the gateway needs issuer, tenant, audience and the ML service's key")
	}
	g := &Gateway{Config: c, changed: newWaker(), asks: newAsks(c.Now), keys: &keys{issuer: c.Issuer, audience: c.Audience, refresh: c.RefreshKey,
		maps: c.Kube.CoreV1().ConfigMaps(wire.Namespace), now: c.Now, log: c.Log}}
	var err error
	if g.logs, err = newCollector(c.Logs, c.Kube, c.Namespaces, c.Now, c.Log); err != nil {
		return nil, err
	}
	g.logs.keep = g.keepLog
	return g, g.keys.load(ctx)
}

// Run follows jobs, deployments and logs until ctx ends.
func (g *Gateway) Run(ctx context.Context) error {
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(g.Dynamic, 0, wire.Namespace, nil)
	changed := func(o any) {
		if t, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = t.Obj
		}
		if u, ok := o.(*unstructured.Unstructured); ok {
			g.changed.wake(u.GetName())
		}
	}
	var informers []cache.SharedIndexInformer
	for _, kind := range []schema.GroupVersionResource{mlext.TrainingJobs, mlext.OnlineDeployments} {
		informer := factory.ForResource(kind).Informer()
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: changed, UpdateFunc: func(_, o any) { changed(o) }, DeleteFunc: changed}); err != nil {
			return fmt.Errorf("follow %s: %w", kind.Resource, err)
		}
		informers = append(informers, informer)
	}
	var wg sync.WaitGroup
	for _, i := range informers {
		wg.Go(func() { i.RunWithContext(ctx) })
	}
	err := g.logs.run(ctx)
	wg.Wait()
	return err
}

var uidPattern = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// health is for whoever is a workspace at all.
func (g *Gateway) health(ctx context.Context) wire.Health {
	_, number := g.keys.current()
	h := wire.Health{Version: g.Version, Namespaces: g.Namespaces, Keys: number}
	h.Message = g.operatorSilent(ctx)
	h.Operator = h.Message == ""
	h.Scoring, h.ScoringMessage = g.scoring(ctx)
	return h
}

// operatorSilent says why nothing is known of what runs, "" if the operator
// lives.
func (g *Gateway) operatorSilent(ctx context.Context) string {
	lease, err := g.Kube.CoordinationV1().Leases(wire.Namespace).Get(ctx, mlext.OperatorLease, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "the operator has not started yet"
	case err != nil:
		return "the operator's lease cannot be read"
	case lease.Spec.RenewTime == nil || g.Now().Sub(lease.Spec.RenewTime.Time) > operatorSilence:
		return "the operator has not been heard of for a while: kubectl get pods -n " + wire.Namespace
	}
	return ""
}

// scoring is where endpoints are scored.
func (g *Gateway) scoring(ctx context.Context) (base, why string) {
	s, err := g.Kube.CoreV1().Services(wire.Namespace).Get(ctx, mlext.RouterService, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", "" // no address is missing, but a router
	case err != nil:
		return "", "the router's Service cannot be read"
	}
	return mlext.ScoringBase(s)
}

// operatorSilence after which the operator counts as dead; it renews every 2 s.
const operatorSilence = 20 * time.Second

// putCompute keeps a compute; the same one again changes it.
func (g *Gateway) putCompute(ctx context.Context, owner mlext.Owner, c wire.Compute) error {
	if !uidPattern.MatchString(c.UID) || c.Name == "" || c.Namespace == "" {
		return trust.Errorf(trust.Invalid, "a compute needs uid, name and namespace")
	}
	if !slices.Contains(g.Namespaces, c.Namespace) {
		// Not found first: only the allowed ones can be looked at.
		return coded(trust.Conflict, wire.NamespaceRefused, "the cluster's owner has not let the ML extension into namespace %s (it may use: %v)", c.Namespace, g.Namespaces)
	}
	if err := g.namespace(ctx, c.Namespace); err != nil {
		return err
	}
	all, err := listed[mlext.Compute](ctx, g, mlext.Computes)
	if err != nil {
		return err
	}
	for _, other := range all {
		if other.Spec.Owner == owner && other.Spec.UID != c.UID && trust.Fold(other.Spec.Name) == trust.Fold(c.Name) {
			return coded(trust.Conflict, wire.NameTaken, "this workspace has attached another compute named %s here", c.Name)
		}
	}
	object, version := mlext.NewCompute(owner, c), ""
	switch old, err := g.compute(ctx, owner, c.UID); {
	case err == nil:
		version, object.Spec.PullSecret = old.ResourceVersion, old.Spec.PullSecret
	case trust.KindOf(err) != trust.NotFound:
		return err
	}
	err = g.write(ctx, mlext.Computes, object, version)
	if version == "" && apierrors.IsAlreadyExists(err) { // another workspace's, since we did not find it
		return coded(trust.Conflict, wire.NameTaken, "the compute's uid is taken")
	}
	return err
}

// namespace tells whether a namespace that may be attached is there. The right
// to look at one lies in it and goes with it.
func (g *Gateway) namespace(ctx context.Context, name string) error {
	ns, err := g.Kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return coded(trust.Conflict, wire.NamespaceNotFound, "namespace %s does not exist in the cluster", name)
	case apierrors.IsForbidden(err):
		return coded(trust.Conflict, wire.NamespaceNotFound, "namespace %s does not exist in the cluster, or was made anew and the extension's manifest was not applied again since", name)
	case err != nil:
		return fmt.Errorf("read namespace: %w", err)
	case ns.DeletionTimestamp != nil:
		return coded(trust.Conflict, wire.NamespaceNotFound, "namespace %s is being deleted from the cluster", name)
	}
	return nil
}

// compute is the workspace's own of that uid.
func (g *Gateway) compute(ctx context.Context, owner mlext.Owner, uid string) (*mlext.Compute, error) {
	return own(ctx, g, mlext.Computes, owner, uid, wire.ComputeName, coded(trust.NotFound, wire.ComputeNotFound, "the compute is not attached here"),
		func(c *mlext.Compute) mlext.Owner { return c.Spec.Owner })
}

func (g *Gateway) removeCompute(ctx context.Context, owner mlext.Owner, uid string) error {
	c, err := g.compute(ctx, owner, uid)
	if err != nil {
		return err
	}
	if c.Spec.PullSecret {
		// Where the owner has taken the right to Secrets back, or the namespace is
		// gone, nothing here can take the Secret away any more.
		if err := g.keepRegistries(ctx, c, nil); apierrors.IsForbidden(err) {
			g.Log.WarnContext(ctx, "registry credentials stay", "namespace", c.Spec.Namespace, "secret", mlext.PullSecretName(uid), "error", err)
		} else if err != nil {
			return err
		}
	}
	return g.drop(ctx, mlext.Computes, wire.ComputeName(uid))
}

// job is the workspace's own of that uid.
func (g *Gateway) job(ctx context.Context, owner mlext.Owner, uid string) (*mlext.TrainingJob, error) {
	return own(ctx, g, mlext.TrainingJobs, owner, uid, mlext.JobName, coded(trust.NotFound, wire.JobNotFound, "the job is not here"),
		func(j *mlext.TrainingJob) mlext.Owner { return j.Spec.Owner })
}

// putJob submits a job to one of the workspace's own computes. The same one
// again changes nothing.
func (g *Gateway) putJob(ctx context.Context, owner mlext.Owner, j wire.Job) error {
	if !uidPattern.MatchString(j.UID) || j.Image == "" || j.Command == "" || j.Nodes < 1 || j.Nodes > maxNodes || j.Retries < 0 || j.Timeout < 0 {
		return trust.Errorf(trust.Invalid, "a job needs uid, image, command and 1 to %d nodes", maxNodes)
	}
	if g.NoTraining {
		return coded(trust.Conflict, wire.TrainingNotEnabled, "training is not enabled in the cluster's ML extension")
	}
	c, err := g.compute(ctx, owner, j.Compute)
	if err != nil {
		return err
	}
	if err := g.admits(c.Spec.Namespace); err != nil {
		return err
	}
	if err := g.namespace(ctx, c.Spec.Namespace); err != nil {
		return err
	}
	if j.InstanceType == "" {
		j.InstanceType = c.Spec.DefaultInstanceType
	}
	u, err := mlext.ToObject(mlext.NewTrainingJob(mlext.TrainingJobSpec{Owner: owner, Job: j, Namespace: c.Spec.Namespace, InstanceTypes: c.Spec.InstanceTypes,
		PullSecret: c.PullSecret(), Compute: c.Spec.Name}))
	if err != nil {
		return err
	}
	_, err = g.Dynamic.Resource(mlext.TrainingJobs).Namespace(wire.Namespace).Create(ctx, u, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = g.job(ctx, owner, j.UID)
	}
	return err
}

// admits tells whether the owner still lets the extension into a namespace.
func (g *Gateway) admits(namespace string) error {
	if !slices.Contains(g.Namespaces, namespace) {
		return coded(trust.Conflict, wire.NamespaceRefused, "the cluster's owner does not let the ML extension into namespace %s any more", namespace)
	}
	return nil
}

// maxNodes of one job.
const maxNodes = 1000

func (g *Gateway) cancelJob(ctx context.Context, owner mlext.Owner, uid string) error {
	if _, err := g.job(ctx, owner, uid); err != nil {
		return err
	}
	_, err := g.Dynamic.Resource(mlext.TrainingJobs).Namespace(wire.Namespace).Patch(ctx, mlext.JobName(uid),
		"application/merge-patch+json", []byte(`{"spec":{"cancel":true}}`), metav1.PatchOptions{})
	return err
}

func (g *Gateway) removeJob(ctx context.Context, owner mlext.Owner, uid string) error {
	if _, err := g.job(ctx, owner, uid); err != nil {
		return err
	}
	if err := g.drop(ctx, mlext.TrainingJobs, mlext.JobName(uid)); err != nil {
		return err
	}
	return g.logs.remove(uid)
}

// status waits until the job's version is another than after, or wait is over.
func (g *Gateway) status(ctx context.Context, owner mlext.Owner, uid, after string, wait time.Duration) (*wire.Status, error) {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	for {
		woken := g.changed.next(mlext.JobName(uid)) // before reading, so that no change is missed
		j, err := g.job(ctx, owner, uid)
		if err != nil {
			return nil, err
		}
		s := j.Status
		if s.Version = j.ResourceVersion; s.State == "" {
			s.State = wire.Queued
		}
		if wire.Done(s.State) {
			return &s, nil
		}
		// What an operator that is gone has said last may not be true any more.
		if why := g.operatorSilent(ctx); why != "" {
			return nil, coded(trust.Unavailable, wire.OperatorSilent, "%s", why)
		}
		if after != s.Version {
			return &s, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-deadline.C:
			return &s, nil
		case <-woken:
		}
	}
}

// waker tells those who wait for something by its name.
type waker struct {
	mu      sync.Mutex
	waiting map[string]chan struct{}
}

func newWaker() *waker { return &waker{waiting: map[string]chan struct{}{}} }

// next is closed at the next wake of that name.
func (w *waker) next(name string) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.waiting[name]
	if c == nil {
		c = make(chan struct{})
		w.waiting[name] = c
	}
	return c
}

func (w *waker) wake(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.waiting[name]; c != nil {
		close(c)
		delete(w.waiting, name)
	}
}

func coded(kind trust.Kind, code, format string, args ...any) *trust.Error {
	e := trust.Errorf(kind, format, args...)
	e.Code = code
	return e
}

var statusOf = map[trust.Kind]int{
	trust.Invalid: http.StatusBadRequest, trust.Unauthenticated: http.StatusUnauthorized, trust.Forbidden: http.StatusForbidden,
	trust.NotFound: http.StatusNotFound, trust.Conflict: http.StatusConflict, trust.Unavailable: http.StatusServiceUnavailable,
	trust.TooLarge: http.StatusRequestEntityTooLarge,
}
