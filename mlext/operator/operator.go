package operator

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

// Config is what Run needs. All fields are required.
type Config struct {
	Kube       kubernetes.Interface
	Dynamic    dynamic.Interface
	Namespaces []string // the owner's consent: nothing runs elsewhere
	Identity   string   // of this process, in the lease
	Image      string   // of this program: what moves the bytes of jobs runs in it
	// NodeSelector is the extension's: what an instance type says is added to it,
	// and must not contradict it.
	NodeSelector map[string]string
	Now          func() time.Time
	Log          *slog.Logger
}

// The lease's times. One operator works at a time.
const (
	leaseLife   = 10 * time.Second
	renewWithin = 6 * time.Second
	renewEvery  = 2 * time.Second
)

// Run works whenever it holds the lease, until ctx ends.
func Run(ctx context.Context, c Config) error {
	lock := &resourcelock.LeaseLock{
		LeaseMeta: metav1.ObjectMeta{Namespace: wire.Namespace, Name: mlext.OperatorLease}, Client: c.Kube.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: c.Identity},
	}
	for ctx.Err() == nil {
		var failed error
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: lock, LeaseDuration: leaseLife, RenewDeadline: renewWithin, RetryPeriod: renewEvery, ReleaseOnCancel: true, Name: mlext.OperatorLease,
			Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) {}, OnStoppedLeading: func() {}},
		})
		if err != nil {
			return fmt.Errorf("operator: %w", err)
		}
		// The elector starts its callback and does not wait for it: the work has
		// a goroutine of ours instead, which ends with the lease.
		term, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		wg.Go(func() {
			for !elector.IsLeader() {
				if !pause(term, 100*time.Millisecond) {
					return
				}
			}
			c.Log.InfoContext(term, "leading")
			failed = newOperator(c).run(term)
		})
		elector.Run(term)
		cancel()
		wg.Wait()
		if failed != nil && ctx.Err() == nil {
			return fmt.Errorf("operator: %w", failed)
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// operator is one term.
type operator struct {
	Config
	jobs  cache.SharedIndexInformer            // TrainingJobs
	batch map[string]cache.SharedIndexInformer // by namespace
	pods  map[string]cache.SharedIndexInformer // of jobs

	deployments cache.SharedIndexInformer            // OnlineDeployments
	apps        map[string]cache.SharedIndexInformer // by namespace
	servers     map[string]cache.SharedIndexInformer // pods of deployments

	mu     sync.Mutex
	closed map[string]time.Time // namespaces where nothing is allowed, since when
}

const byOwner = "owner" // index of pods: the uid that their label names

func newOperator(c Config) *operator {
	none := func() map[string]cache.SharedIndexInformer { return map[string]cache.SharedIndexInformer{} }
	return &operator{Config: c, batch: none(), pods: none(), apps: none(), servers: none(), closed: map[string]time.Time{}}
}

// run reconciles until ctx ends, and waits for what it started.
func (o *operator) run(ctx context.Context) error {
	training, err := o.training()
	if err != nil {
		return err
	}
	serving, err := o.serving()
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() { training.run(ctx) })
	serving.run(ctx)
	wg.Wait()
	return nil
}

// training is the loop over jobs.
func (o *operator) training() (*loop, error) {
	l := newLoop("job", o.Log)
	l.reconcile = o.reconcile
	o.jobs = dynamicinformer.NewFilteredDynamicSharedInformerFactory(o.Dynamic, 0, wire.Namespace, nil).ForResource(mlext.TrainingJobs).Informer()
	if err := l.follow(o.jobs, named("j-")); err != nil {
		return nil, err
	}
	for _, ns := range o.Namespaces {
		factory := o.labelled(ns, mlext.JobLabel)
		o.batch[ns], o.pods[ns] = factory.Batch().V1().Jobs().Informer(), factory.Core().V1().Pods().Informer()
		if err := followBoth(l, mlext.JobLabel, o.batch[ns], o.pods[ns]); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// labelled are informers of what carries a label in a namespace.
func (o *operator) labelled(ns, label string) informers.SharedInformerFactory {
	return informers.NewSharedInformerFactoryWithOptions(o.Kube, 0, informers.WithNamespace(ns),
		informers.WithTweakListOptions(func(l *metav1.ListOptions) { l.LabelSelector = label }))
}

// followBoth follows what was made and its pods, by the uid in their label.
func followBoth(l *loop, label string, made, pods cache.SharedIndexInformer) error {
	owner := func(v any) string {
		if m, ok := v.(metav1.Object); ok {
			return m.GetLabels()[label]
		}
		return ""
	}
	if err := pods.AddIndexers(cache.Indexers{byOwner: func(v any) ([]string, error) { return []string{owner(v)}, nil }}); err != nil {
		return err
	}
	for _, i := range []cache.SharedIndexInformer{made, pods} {
		if err := l.follow(i, owner); err != nil {
			return err
		}
	}
	return nil
}

// named reads the uid off the name of one of the extension's own objects.
func named(prefix string) func(any) string {
	return func(v any) string {
		if u, ok := v.(*unstructured.Unstructured); ok {
			return strings.TrimPrefix(u.GetName(), prefix)
		}
		return ""
	}
}

// reconcile makes one job what its TrainingJob says. again asks for another look.
func (o *operator) reconcile(ctx context.Context, uid string) (again time.Duration, err error) {
	v, there, err := o.jobs.GetStore().GetByKey(wire.Namespace + "/" + mlext.JobName(uid))
	if err != nil || !there {
		return 0, err
	}
	t, err := mlext.FromObject[mlext.TrainingJob](v.(*unstructured.Unstructured))
	if err != nil {
		return 0, err
	}
	switch {
	case t.DeletionTimestamp != nil:
		return 0, o.dissolve(ctx, t)
	case wire.Done(t.Status.State):
		return 0, nil
	case t.Spec.Cancel:
		if err := o.stop(ctx, t); err != nil {
			return 0, err
		}
		s := t.Status
		s.State, s.Code, s.Reason, s.Ended = wire.Canceled, "", "it was canceled", o.Now().UTC().Truncate(time.Second)
		return 0, o.say(ctx, t, s)
	case !slices.Contains(o.Namespaces, t.Spec.Namespace):
		return 0, o.fail(ctx, t, codeNamespace, fmt.Sprintf("the cluster's owner does not let the ML extension into namespace %s", t.Spec.Namespace))
	}
	why, again, err := o.gone(ctx, t.Spec.Namespace)
	switch {
	case err != nil:
		return 0, err
	case why != "":
		return 0, o.fail(ctx, t, codeNamespace, why)
	case again > 0:
		return again, nil
	}
	job, err := o.ensure(ctx, t)
	if err != nil {
		return 0, err
	}
	if job == nil {
		return lookAgain, nil
	}
	if !o.batch[t.Spec.Namespace].HasSynced() || !o.pods[t.Spec.Namespace].HasSynced() {
		return time.Second, nil
	}
	found, err := o.pods[t.Spec.Namespace].GetIndexer().ByIndex(byOwner, uid)
	if err != nil {
		return 0, err
	}
	var pods []*corev1.Pod
	for _, p := range found {
		if pod, ok := p.(*corev1.Pod); ok && metav1.IsControlledBy(pod, job) {
			pods = append(pods, pod)
		}
	}
	again = lookAgain
	var events []corev1.Event
	if len(pods) == 0 {
		list, err := o.Kube.CoreV1().Events(t.Spec.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(job.UID)})
		if err != nil {
			return 0, fmt.Errorf("list events: %w", err)
		}
		events, again = list.Items, 2*time.Second
	}
	return again, o.say(ctx, t, statusOf(job, pods, events))
}

// ensure finds the Job or makes it. nil without an error: it cannot be, and the
// status says so.
func (o *operator) ensure(ctx context.Context, t *mlext.TrainingJob) (*batchv1.Job, error) {
	ns, name := t.Spec.Namespace, nameOf(&t.Spec.Job)
	if v, there, err := o.batch[ns].GetStore().GetByKey(ns + "/" + name); err == nil && there {
		return v.(*batchv1.Job), nil
	}
	jobs := o.Kube.BatchV1().Jobs(ns)
	job, err := jobs.Get(ctx, name, metav1.GetOptions{}) // the informer may be behind
	if err == nil {
		return job, nil
	}
	if !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("read Job: %w", err)
	}
	if t.Status.State != "" && t.Status.Code != codeRefused {
		return nil, o.fail(ctx, t, codeVanished, fmt.Sprintf("the Job %s/%s was deleted in the cluster", ns, name))
	}
	kind, err := o.instanceType(ctx, t.Spec.Job.InstanceType, t.Spec.InstanceTypes)
	if err == nil {
		var claims *corev1.PersistentVolumeClaimList
		if claims, err = o.Kube.CoreV1().PersistentVolumeClaims(ns).List(ctx, metav1.ListOptions{LabelSelector: claimLabel + "=true"}); err != nil {
			return nil, fmt.Errorf("list volume claims: %w", err)
		}
		addresses := []string{"localhost"}
		if t.Spec.Job.Nodes > 1 {
			if addresses, err = o.network(ctx, t); err != nil {
				return nil, err
			}
		}
		var c carrier
		if len(t.Spec.Job.Mounts) > 0 {
			if c, err = o.carrier(ctx); err != nil {
				return nil, err
			}
		}
		job, err = render(t, kind, claims.Items, addresses, c)
	}
	if trust.KindOf(err) == trust.Invalid {
		return nil, o.fail(ctx, t, codeInvalid, err.Error())
	}
	if err != nil {
		return nil, err
	}
	made, err := jobs.Create(ctx, job, metav1.CreateOptions{})
	switch {
	case apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil, o.fail(ctx, t, codeNamespace, "namespace "+ns+" does not exist, or is being deleted")
	case apierrors.IsInvalid(err) || apierrors.IsBadRequest(err):
		return nil, o.fail(ctx, t, codeInvalid, "Kubernetes refuses the Job: "+err.Error())
	case apierrors.IsForbidden(err): // a quota, or a policy: it may change
		return nil, o.say(ctx, t, wire.Status{State: wire.Queued, Code: codeRefused, Reason: "the cluster takes no Job for it now: " + err.Error()})
	case err != nil:
		return nil, fmt.Errorf("make Job: %w", err)
	}
	o.Log.InfoContext(ctx, "job made", "job", t.Spec.Job.UID, "namespace", ns, "name", name)
	return made, nil
}

// network makes the Services of a job of several nodes and gives their
// addresses.
func (o *operator) network(ctx context.Context, t *mlext.TrainingJob) ([]string, error) {
	kube := o.Kube.CoreV1().Services(t.Spec.Namespace)
	names, own := services(t)
	if _, err := kube.Create(ctx, names, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("make Service: %w", err)
	}
	addresses := make([]string, 0, len(own))
	for _, s := range own {
		made, err := kube.Create(ctx, s, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			made, err = kube.Get(ctx, s.Name, metav1.GetOptions{})
		}
		if err != nil {
			return nil, fmt.Errorf("make Service: %w", err)
		}
		addresses = append(addresses, made.Spec.ClusterIP)
	}
	return addresses, nil
}

// instanceType finds what a pod gets: the compute's own types first, then the
// cluster's, then the default.
func (o *operator) instanceType(ctx context.Context, name string, own map[string]wire.InstanceType) (wire.InstanceType, error) {
	kind, err := o.namedType(ctx, name, own)
	if err != nil || len(o.NodeSelector) == 0 {
		return kind, err
	}
	selector := maps.Clone(o.NodeSelector)
	for key, value := range kind.NodeSelector {
		if had, there := selector[key]; there && had != value {
			return kind, trust.Errorf(trust.Invalid, "instance type %s is for nodes with %s=%s, and the extension was installed for those with %s=%s", name, key, value, key, had)
		}
		selector[key] = value
	}
	kind.NodeSelector = selector
	return kind, nil
}

func (o *operator) namedType(ctx context.Context, name string, own map[string]wire.InstanceType) (wire.InstanceType, error) {
	if name == "" {
		name = mlext.DefaultInstanceType
	}
	if kind, ok := own[name]; ok {
		return kind, nil
	}
	u, err := o.Dynamic.Resource(mlext.InstanceTypes).Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		kind, err := mlext.FromObject[mlext.InstanceType](u)
		if err != nil {
			return wire.InstanceType{}, trust.Errorf(trust.Invalid, "the instance type %s cannot be read", name).Because(err)
		}
		return kind.Spec, nil
	}
	if !apierrors.IsNotFound(err) {
		return wire.InstanceType{}, fmt.Errorf("read instance type: %w", err)
	}
	if name == mlext.DefaultInstanceType {
		return mlext.Default, nil
	}
	known := slices.Sorted(maps.Keys(own))
	if list, err := o.Dynamic.Resource(mlext.InstanceTypes).List(ctx, metav1.ListOptions{}); err == nil {
		for i := range list.Items {
			known = append(known, list.Items[i].GetName())
		}
	}
	known = append(known, mlext.DefaultInstanceType)
	return wire.InstanceType{}, trust.Errorf(trust.Invalid, "there is no instance type %s: there are %s", name, strings.Join(known, ", "))
}

// stop removes what runs.
func (o *operator) stop(ctx context.Context, t *mlext.TrainingJob) error {
	if !slices.Contains(o.Namespaces, t.Spec.Namespace) {
		return nil // nothing of ours can be there, and nothing may be done there
	}
	name, how := nameOf(&t.Spec.Job), metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationBackground)}
	err := o.Kube.BatchV1().Jobs(t.Spec.Namespace).Delete(ctx, name, how)
	if apierrors.IsForbidden(err) {
		return nil // the same: the right went with the namespace, or the owner took it back
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete Job: %w", err)
	}
	if t.Spec.Job.Nodes > 1 {
		names, own := services(t)
		for _, s := range append(own, names) {
			if err := o.Kube.CoreV1().Services(t.Spec.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("delete Service: %w", err)
			}
		}
	}
	return nil
}

// dissolve removes what runs and lets the TrainingJob go.
func (o *operator) dissolve(ctx context.Context, t *mlext.TrainingJob) error {
	if !slices.Contains(t.Finalizers, mlext.Finalizer) {
		return nil
	}
	if err := o.stop(ctx, t); err != nil {
		return err
	}
	_, err := o.Dynamic.Resource(mlext.TrainingJobs).Namespace(wire.Namespace).Patch(ctx, t.Name, "application/merge-patch+json",
		[]byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (o *operator) fail(ctx context.Context, t *mlext.TrainingJob, code, reason string) error {
	s := t.Status
	s.State, s.Code, s.Reason, s.Ended = wire.Failed, code, reason, o.Now().UTC().Truncate(time.Second)
	return o.say(ctx, t, s)
}

// say writes the status, if it is another.
func (o *operator) say(ctx context.Context, t *mlext.TrainingJob, s wire.Status) error {
	s.Command = next(t, &s)
	if s.Started.IsZero() {
		s.Started = t.Status.Started
	}
	if len(s.Nodes) == 0 { // Kubernetes removes the pods of a Job that ran too long
		s.Nodes, s.Metrics = t.Status.Nodes, t.Status.Metrics
	}
	if reflect.DeepEqual(s, t.Status) {
		return nil
	}
	t.Status = s
	u, err := mlext.ToObject(t)
	if err != nil {
		return err
	}
	_, err = o.Dynamic.Resource(mlext.TrainingJobs).Namespace(wire.Namespace).UpdateStatus(ctx, u, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}
