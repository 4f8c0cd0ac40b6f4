package reconcile

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/sallyport/sallyport/rbac"
)

// watcher opens a watch; an event of it means only that it is time to look.
type watcher func(context.Context, metav1.ListOptions) (watch.Interface, error)

// watch pokes the loop at each change of what is ours, until ctx ends: accepted
// roles, bindings, identities, and role bindings in each namespace that roles
// are accepted for.
func (r *Reconciler) watch(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { r.follow(ctx, "cluster role bindings", r.kube.rbac.ClusterRoleBindings().Watch, r.poke) })
	all.Go(func() {
		r.follow(ctx, "ServiceAccounts", r.kube.core.ServiceAccounts(rbac.BindingsNamespace).Watch, r.poke)
	})
	roles := make(chan struct{}, 1)
	all.Go(func() {
		r.follow(ctx, "accepted roles", r.kube.rbac.ClusterRoles().Watch, func() {
			r.poke()
			select {
			case roles <- struct{}{}:
			default:
			}
		})
	})
	following := map[string]context.CancelFunc{}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-roles:
		}
		list, err := r.kube.rbac.ClusterRoles().List(ctx, metav1.ListOptions{LabelSelector: rbac.ClusterLabel + "=" + string(r.c.Cluster)})
		if err != nil {
			if ctx.Err() == nil {
				r.log.Warn("cannot list accepted roles", "error", err)
			}
			continue // the next event or the re-check
		}
		now := namespaces(rbac.Acceptances(r.c.Cluster, list.Items))
		for _, ns := range now {
			if following[ns] == nil {
				inner, stop := context.WithCancel(ctx)
				following[ns] = stop
				all.Go(func() { r.follow(inner, "role bindings in "+ns, r.kube.rbac.RoleBindings(ns).Watch, r.poke) })
			}
		}
		for _, ns := range slices.Collect(maps.Keys(following)) {
			if !slices.Contains(now, ns) {
				following[ns]()
				delete(following, ns)
			}
		}
	}
}

// follow keeps a watch open. Without a resourceVersion it begins with what is
// there, so that nothing between two watches is missed.
func (r *Reconciler) follow(ctx context.Context, what string, open watcher, changed func()) {
	wait := r.c.Retry
	for ctx.Err() == nil {
		w, err := open(ctx, metav1.ListOptions{LabelSelector: rbac.ClusterLabel + "=" + string(r.c.Cluster)})
		if err == nil {
			err = drain(ctx, w, func() { wait = r.c.Retry; changed() })
		}
		if ctx.Err() != nil {
			return
		}
		changed() // it may have ended with something unsaid
		if err != nil {
			r.log.Warn("watch ended", "of", what, "error", err, "retry", wait)
		}
		if sleep(ctx, wait) != nil {
			return
		}
		wait = min(2*wait, maxRetry)
	}
}

func drain(ctx context.Context, w watch.Interface, changed func()) error {
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.ResultChan():
			switch {
			case !ok:
				return nil
			case e.Type == watch.Error:
				return fmt.Errorf("watch: %v", e.Object)
			}
			changed()
		}
	}
}
