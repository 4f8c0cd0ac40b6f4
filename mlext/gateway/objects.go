package gateway

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
)

// What the gateway was told lies as objects in the extension's namespace, each
// named by its uid and with its owner in it.

// listed are the objects of a kind, of all workspaces.
func listed[T any](ctx context.Context, g *Gateway, kind schema.GroupVersionResource) ([]*T, error) {
	list, err := g.Dynamic.Resource(kind).Namespace(wire.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", kind.Resource, err)
	}
	all := make([]*T, 0, len(list.Items))
	for i := range list.Items {
		v, err := mlext.FromObject[T](&list.Items[i])
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// own is the workspace's object of that uid. Another's is as absent as none.
func own[T any](ctx context.Context, g *Gateway, kind schema.GroupVersionResource, owner mlext.Owner, uid string, name func(string) string, absent error, of func(*T) mlext.Owner) (*T, error) {
	v, err := read[T](ctx, g, kind, uid, name, absent)
	if err == nil && of(v) != owner {
		return nil, absent
	}
	return v, err
}

func read[T any](ctx context.Context, g *Gateway, kind schema.GroupVersionResource, uid string, name func(string) string, absent error) (*T, error) {
	if !uidPattern.MatchString(uid) {
		return nil, absent
	}
	u, err := g.Dynamic.Resource(kind).Namespace(wire.Namespace).Get(ctx, name(uid), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, absent
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", kind.Resource, err)
	}
	return mlext.FromObject[T](u)
}

// write makes an object, or replaces the one that there is.
func (g *Gateway) write(ctx context.Context, kind schema.GroupVersionResource, object any, version string) error {
	u, err := mlext.ToObject(object)
	if err != nil {
		return err
	}
	to := g.Dynamic.Resource(kind).Namespace(wire.Namespace)
	if version == "" {
		_, err = to.Create(ctx, u, metav1.CreateOptions{})
		return err
	}
	unstructured.RemoveNestedField(u.Object, "status") // the operator's
	u.SetResourceVersion(version)
	_, err = to.Update(ctx, u, metav1.UpdateOptions{})
	return err
}

func (g *Gateway) drop(ctx context.Context, kind schema.GroupVersionResource, name string) error {
	err := g.Dynamic.Resource(kind).Namespace(wire.Namespace).Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
