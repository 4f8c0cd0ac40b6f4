// Controller is an ordinary controller-runtime program, as a consumer of a cluster
// behind the gateway: it knows nothing of Sallyport but its kubeconfig. It owns
// what such a program does with informers, token renewal and refusals; what it is
// expected to do is in the stories one folder up.
//
// For every ConfigMap of the namespace default with the label "copy: from" it keeps
// another one, NAME-copy, with the same data, and says so. When its right to
// watch is taken away it ends with the reason.
package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"

	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
)

func main() {
	log := funcr.New(func(_, args string) { fmt.Fprintln(os.Stderr, args) }, funcr.Options{LogTimestamp: true})
	ctrl.SetLogger(log)
	if err := run(ctrl.SetupSignalHandler()); err != nil {
		fmt.Fprintln(os.Stderr, "stopped:", err)
		os.Exit(1)
	}
}

// run works until ctx ends or the right to watch is gone. The kubeconfig is that
// of KUBECONFIG.
func run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Metrics: metricsserver.Options{BindAddress: "0"},
		Cache: cache.Options{
			DefaultNamespaces: map[string]cache.Config{metav1.NamespaceDefault: {}},
			// An informer tries for ever by itself.
			DefaultWatchErrorHandler: func(ctx context.Context, r *toolscache.Reflector, err error) {
				toolscache.DefaultWatchErrorHandler(ctx, r, err)
				if apierrors.IsForbidden(err) {
					stop(err)
				}
			},
		},
	})
	if err != nil {
		return err
	}
	labelled := predicate.NewPredicateFuncs(func(o client.Object) bool { return o.GetLabels()["copy"] == "from" })
	if err := ctrl.NewControllerManagedBy(manager).For(&corev1.ConfigMap{}, builder.WithPredicates(labelled)).
		Complete(&copier{manager.GetClient()}); err != nil {
		return err
	}
	err = manager.Start(ctx)
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return errors.Join(cause, err)
	}
	return err
}

// copier keeps the copies.
type copier struct{ client.Client }

// Reconcile implements reconcile.Reconciler.
func (c *copier) Reconcile(ctx context.Context, r ctrl.Request) (ctrl.Result, error) {
	var from corev1.ConfigMap
	if err := c.Get(ctx, r.NamespacedName, &from); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	to := corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: from.Name + "-copy", Namespace: from.Namespace}}
	done, err := controllerutil.CreateOrUpdate(ctx, c.Client, &to, func() error {
		to.Data = maps.Clone(from.Data)
		return nil
	})
	if err != nil {
		return ctrl.Result{}, err
	}
	fmt.Println("copy", to.Name, done)
	return ctrl.Result{}, nil
}
