package reconcile

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
	appsclient "k8s.io/client-go/kubernetes/typed/apps/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	rbacclient "k8s.io/client-go/kubernetes/typed/rbac/v1"
	"k8s.io/client-go/rest"

	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

// callTimeout bounds one call to the API server; a watch has none.
const callTimeout = 15 * time.Second

// kube is the API server as the reconciler uses it.
type kube struct {
	core          coreclient.CoreV1Interface
	rbac          rbacclient.RbacV1Interface
	authorization authorizationclient.AuthorizationV1Interface
	apps          appsclient.AppsV1Interface
}

func newKube(c *rest.Config) (*kube, error) {
	c = rest.CopyConfig(c)
	c.QPS = -1 // no limiter of the client's own: a plan is short and must be quick
	c.ContentType = "application/json"
	hc, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	core, err := coreclient.NewForConfigAndClient(c, hc)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	roles, err := rbacclient.NewForConfigAndClient(c, hc)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	reviews, err := authorizationclient.NewForConfigAndClient(c, hc)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	apps, err := appsclient.NewForConfigAndClient(c, hc)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	return &kube{core: core, rbac: roles, authorization: reviews, apps: apps}, nil
}

// checkRights fails with kind Forbidden if the agent's own identity holds a
// right that it does not need.
func (k *kube) checkRights(ctx context.Context) error {
	for _, a := range rbac.Forbidden(rbac.ReconcilerAccount) {
		review, err := k.authorization.SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: a.Verb, Group: a.APIGroup, Resource: a.Resource, Subresource: a.Subresource, Namespace: a.Namespace,
			}},
		}, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("check rights: %w", err)
		}
		if !review.Status.Allowed {
			continue
		}
		what := a.Verb + " " + a.Resource
		if a.Subresource != "" {
			what += "/" + a.Subresource
		}
		if a.Namespace != "" {
			what += " in namespace " + a.Namespace
		}
		e := trust.Errorf(trust.Forbidden, "this agent refuses to run with a right that it does not need: its ServiceAccount may %s", what)
		e.Hint = "find the binding that gives it: kubectl get clusterrolebindings,rolebindings -A -o wide | grep " + rbac.ReconcilerAccount
		return e
	}
	return nil
}

func (k *kube) version(ctx context.Context) (version.Info, error) {
	var v version.Info
	data, err := k.core.RESTClient().Get().AbsPath("/version").Do(ctx).Raw()
	if err != nil {
		return v, fmt.Errorf("ask the API server's version: %w", err)
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return v, fmt.Errorf("read the API server's version: %w", err)
	}
	return v, nil
}

// observed is what the cluster holds of ours.
type observed struct {
	accepted []rbac.Acceptance
	objects  []rbac.Object
}

// observe lists everything with our label. What it cannot see it reports as an
// error: a plan from half a view would delete or make the wrong things.
func (k *kube) observe(ctx context.Context, cluster trust.ClusterUID) (observed, error) {
	ours := metav1.ListOptions{LabelSelector: rbac.ClusterLabel + "=" + string(cluster)}
	var o observed
	roles, err := k.rbac.ClusterRoles().List(ctx, ours)
	if err != nil {
		return o, fmt.Errorf("list accepted roles: %w", err)
	}
	o.accepted = rbac.Acceptances(cluster, roles.Items)
	bindings, err := k.rbac.ClusterRoleBindings().List(ctx, ours)
	if err != nil {
		return o, fmt.Errorf("list cluster role bindings: %w", err)
	}
	for i := range bindings.Items {
		o.objects = append(o.objects, &bindings.Items[i])
	}
	accounts, err := k.core.ServiceAccounts(rbac.BindingsNamespace).List(ctx, ours)
	if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
		accounts, err = &corev1.ServiceAccountList{}, nil // the kill switch took the namespace, and this agent's Role in it
	}
	if err != nil {
		return o, fmt.Errorf("list ServiceAccounts: %w", err)
	}
	for i := range accounts.Items {
		o.objects = append(o.objects, &accounts.Items[i])
	}
	for _, ns := range namespaces(o.accepted) {
		list, err := k.rbac.RoleBindings(ns).List(ctx, ours)
		if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
			continue // the owner's annotation says more than its Role: nothing of ours can be there
		}
		if err != nil {
			return o, fmt.Errorf("list role bindings in %s: %w", ns, err)
		}
		for i := range list.Items {
			o.objects = append(o.objects, &list.Items[i])
		}
	}
	return o, nil
}

// namespaces are all that any role was accepted for.
func namespaces(accepted []rbac.Acceptance) []string {
	seen := map[string]bool{}
	var all []string
	for _, a := range accepted {
		for _, ns := range a.Namespaces {
			if !seen[ns] {
				seen[ns] = true
				all = append(all, ns)
			}
		}
	}
	return all
}

// do makes one write. What is there already under the name is made ours or
// replaced; what is gone already is no error.
func (k *kube) do(ctx context.Context, s rbac.Step, dryRun bool) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var err error
	switch o := s.Object.(type) {
	case *corev1.ServiceAccount:
		err = write(ctx, s.Verb, o, k.core.ServiceAccounts(o.Namespace), dryRun)
	case *rbacv1.ClusterRoleBinding:
		err = write(ctx, s.Verb, o, k.rbac.ClusterRoleBindings(), dryRun)
	case *rbacv1.RoleBinding:
		err = write(ctx, s.Verb, o, k.rbac.RoleBindings(o.Namespace), dryRun)
	default:
		return fmt.Errorf("%s is of a kind that the reconciler does not write", rbac.Key(s.Object))
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", s.Verb, rbac.Key(s.Object), err)
	}
	return nil
}

// get reads what is there under an object's name.
func (k *kube) get(ctx context.Context, o rbac.Object) (rbac.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	switch o := o.(type) {
	case *corev1.ServiceAccount:
		return k.core.ServiceAccounts(o.Namespace).Get(ctx, o.Name, metav1.GetOptions{})
	case *rbacv1.ClusterRoleBinding:
		return k.rbac.ClusterRoleBindings().Get(ctx, o.Name, metav1.GetOptions{})
	case *rbacv1.RoleBinding:
		return k.rbac.RoleBindings(o.Namespace).Get(ctx, o.Name, metav1.GetOptions{})
	}
	return nil, fmt.Errorf("%s is of a kind that the reconciler does not read", rbac.Key(o))
}

// typed is what client-go's typed clients have in common.
type typed[T any] interface {
	Create(context.Context, T, metav1.CreateOptions) (T, error)
	Update(context.Context, T, metav1.UpdateOptions) (T, error)
	Delete(context.Context, string, metav1.DeleteOptions) error
}

func write[T rbac.Object](ctx context.Context, verb rbac.Verb, o T, c typed[T], dryRun bool) error {
	var dry []string
	if dryRun {
		dry = []string{metav1.DryRunAll}
	}
	var err error
	switch verb {
	case rbac.Create:
		_, err = c.Create(ctx, o, metav1.CreateOptions{DryRun: dry})
	case rbac.Update:
		_, err = c.Update(ctx, o, metav1.UpdateOptions{DryRun: dry})
	case rbac.Delete:
		options := metav1.DeleteOptions{DryRun: dry}
		if uid := o.GetUID(); uid != "" {
			options.Preconditions = &metav1.Preconditions{UID: &uid} // never its successor
		}
		if err = c.Delete(ctx, o.GetName(), options); !dryRun && apierrors.IsNotFound(err) {
			err = nil
		}
	default:
		err = fmt.Errorf("the reconciler does not %s", verb)
	}
	return err
}
