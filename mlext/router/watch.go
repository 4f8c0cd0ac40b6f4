package router

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
)

// gather is how long changes are gathered before a table is made of them.
const gather = 20 * time.Millisecond

// watch keeps the table as the cluster is, until ctx ends.
func (r *Router) watch(ctx context.Context, wg *sync.WaitGroup) error {
	var synced []cache.InformerSynced
	changed := func(any) { r.change() }
	start := func(i cache.SharedIndexInformer) error {
		if _, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: changed, UpdateFunc: func(_, o any) { changed(o) }, DeleteFunc: changed}); err != nil {
			return fmt.Errorf("follow the cluster: %w", err)
		}
		synced = append(synced, i.HasSynced)
		wg.Go(func() { i.RunWithContext(ctx) })
		return nil
	}
	served := dynamicinformer.NewFilteredDynamicSharedInformerFactory(r.Dynamic, 0, wire.Namespace, nil)
	endpoints, deployments := served.ForResource(mlext.OnlineEndpoints).Informer(), served.ForResource(mlext.OnlineDeployments).Informer()
	all := []cache.SharedIndexInformer{endpoints, deployments}
	var pods []cache.SharedIndexInformer
	for _, ns := range r.Namespaces {
		i := informers.NewSharedInformerFactoryWithOptions(r.Kube, 0, informers.WithNamespace(ns),
			informers.WithTweakListOptions(func(l *metav1.ListOptions) { l.LabelSelector = mlext.DeploymentLabel })).Core().V1().Pods().Informer()
		if err := i.SetTransform(slim); err != nil {
			return fmt.Errorf("follow pods: %w", err)
		}
		pods = append(pods, i)
	}
	for _, i := range append(all, pods...) {
		if err := start(i); err != nil {
			return err
		}
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	e, d := &decoded[mlext.OnlineEndpoint]{}, &decoded[mlext.OnlineDeployment]{}
	for {
		s := &sources{audience: r.Audience, namespaces: r.Namespaces, endpoints: e.all(ctx, endpoints, r), deployments: d.all(ctx, deployments, r)}
		for _, i := range pods {
			for _, o := range i.GetStore().List() {
				if p, ok := o.(*corev1.Pod); ok {
					s.pods = append(s.pods, p)
				}
			}
		}
		r.apply(s)
		r.synced.Store(true)
		timer := time.NewTimer(gather)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.changed:
		}
	}
}

// change asks for a new table.
func (r *Router) change() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// slim keeps of a pod what is looked at.
func slim(o any) (any, error) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	small := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
		DeletionTimestamp: p.DeletionTimestamp, Labels: map[string]string{mlext.DeploymentLabel: p.Labels[mlext.DeploymentLabel]}},
		Status: corev1.PodStatus{Phase: p.Status.Phase, PodIP: p.Status.PodIP, Conditions: p.Status.Conditions}}
	for _, c := range p.Spec.Containers {
		small.Spec.Containers = append(small.Spec.Containers, corev1.Container{Name: c.Name, Ports: c.Ports})
	}
	return small, nil
}

// decoded remembers objects as they were read, by their version.
type decoded[T any] struct{ known map[string]version[T] }

type version[T any] struct {
	resource string
	value    *T
}

// all are the objects of an informer. One that cannot be read is left out.
func (d *decoded[T]) all(ctx context.Context, i cache.SharedIndexInformer, r *Router) []*T {
	now := map[string]version[T]{}
	var out []*T
	for _, o := range i.GetStore().List() {
		u, ok := o.(*unstructured.Unstructured)
		if !ok {
			continue
		}
		v, same := d.known[u.GetName()]
		if !same || v.resource != u.GetResourceVersion() {
			value, err := mlext.FromObject[T](u)
			if err != nil {
				r.Log.WarnContext(ctx, "object not served", "name", u.GetName(), "error", err)
			}
			v = version[T]{u.GetResourceVersion(), value}
		}
		if now[u.GetName()] = v; v.value != nil {
			out = append(out, v.value)
		}
	}
	d.known = now
	return out
}
