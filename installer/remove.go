package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"helm.sh/helm/v4/pkg/action"

	"github.com/sallyport/sallyport/deploy"
	"github.com/sallyport/sallyport/mandate"
)

// drainBound is how long an extension's parts get to let go of what was made for
// it; then it is let go of without them.
const drainBound = time.Minute

// remove takes an extension out of the cluster: first the objects of its kinds,
// while what has to let go of them still runs, then the release, at last what its
// parts left.
func (r *releases) remove(ctx context.Context, h *action.Configuration, a *accepted, state *mandate.ExtensionState) error {
	kinds, left, err := deploy.Removal(a.Type)
	if err != nil {
		return err
	}
	failed := func(err error) error {
		if ctx.Err() != nil || passing(err) {
			return err
		}
		state.Problem = problem(codeUnknown, "The extension could not be removed: %s.", hidden(err.Error(), a.Extension))
		return nil
	}
	forced, err := r.drain(ctx, a.place, kinds)
	if err != nil {
		return failed(err)
	}
	if err := r.uninstall(ctx, h, a); err != nil {
		return failed(err)
	}
	left = append(slices.Clone(left), deploy.Left{GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, Name: healthReport})
	for _, l := range left {
		err := r.kube.dynamic.Resource(l.GroupVersionResource).Namespace(a.place).Delete(ctx, l.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return failed(fmt.Errorf("remove %s %s: %w", l.Resource, l.Name, err))
		}
	}
	present(state, nil)
	if forced {
		state.Statuses = []mandate.ExtensionStatus{{Code: "NotDrained", Level: "Warning",
			Message: fmt.Sprintf("The extension's own parts did not let go of what was made for it within %s, so what runs for it in attached namespaces may be left.", drainBound)}}
	}
	return nil
}

// drain removes all objects of kinds in a namespace and waits until they are gone.
// forced says that finalizers had to be taken away: what holds them does not run.
func (r *releases) drain(ctx context.Context, namespace string, kinds []schema.GroupVersionResource) (forced bool, err error) {
	deadline := time.Now().Add(drainBound)
	for {
		n := 0
		for _, kind := range kinds {
			client := r.kube.dynamic.Resource(kind).Namespace(namespace)
			list, err := client.List(ctx, metav1.ListOptions{})
			if apierrors.IsNotFound(err) {
				continue // the owner has removed the kind, and all of it with that
			}
			if err != nil {
				return forced, fmt.Errorf("list %s: %w", kind.Resource, err)
			}
			for _, o := range list.Items {
				n++
				if o.GetDeletionTimestamp() == nil {
					err = client.Delete(ctx, o.GetName(), metav1.DeleteOptions{})
				} else if time.Now().After(deadline) && len(o.GetFinalizers()) > 0 {
					forced = true
					_, err = client.Patch(ctx, o.GetName(), types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
				}
				if err != nil && !apierrors.IsNotFound(err) {
					return forced, fmt.Errorf("remove %s %s: %w", kind.Resource, o.GetName(), err)
				}
			}
		}
		if n == 0 {
			return forced, nil
		}
		timer := time.NewTimer(200 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return forced, ctx.Err()
		case <-timer.C:
		}
	}
}
