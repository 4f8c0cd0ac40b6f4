package ml

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// balances plays a cloud's controller of load balancers until the test ends: a
// Service of type LoadBalancer gets the addresses of the nodes that are ready,
// where kube-proxy takes what comes to the Service.
func (m *ml) balances() {
	m.t.Helper()
	conf, err := clientcmd.BuildConfigFromFlags("", m.Cluster.Kubeconfig())
	m.must(err)
	kube, err := kubernetes.NewForConfig(conf)
	m.must(err)
	ctx, stop := context.WithCancel(context.WithoutCancel(m.t.Context()))
	factory := informers.NewSharedInformerFactory(kube, 0)
	b := &balancer{kube: kube, services: factory.Core().V1().Services().Informer(), nodes: factory.Core().V1().Nodes().Informer(), changed: make(chan struct{}, 1)}
	for _, i := range []cache.SharedIndexInformer{b.services, b.nodes} {
		_, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: b.change, UpdateFunc: func(_, o any) { b.change(o) }, DeleteFunc: b.change})
		m.must(err)
	}
	var work sync.WaitGroup
	work.Go(func() { b.run(ctx) })
	factory.StartWithContext(ctx)
	m.t.Cleanup(func() {
		stop()
		work.Wait()
		factory.Shutdown()
	})
}

type balancer struct {
	kube            kubernetes.Interface
	services, nodes cache.SharedIndexInformer
	changed         chan struct{}
}

func (b *balancer) change(any) {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// run gives addresses whenever something has changed; what fails is tried again.
func (b *balancer) run(ctx context.Context) {
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.changed:
		case <-again.C:
		}
		var ready []corev1.LoadBalancerIngress
		for _, o := range b.nodes.GetStore().List() {
			if n, ok := o.(*corev1.Node); ok {
				ready = append(ready, addressesOf(n)...)
			}
		}
		slices.SortFunc(ready, func(a, b corev1.LoadBalancerIngress) int { return strings.Compare(a.IP, b.IP) })
		for _, o := range b.services.GetStore().List() {
			s, ok := o.(*corev1.Service)
			if !ok || s.Spec.Type != corev1.ServiceTypeLoadBalancer || len(ready) == 0 || slices.EqualFunc(s.Status.LoadBalancer.Ingress, ready, func(a, b corev1.LoadBalancerIngress) bool { return a.IP == b.IP }) {
				continue
			}
			s = s.DeepCopy()
			s.Status.LoadBalancer.Ingress = ready
			_, _ = b.kube.CoreV1().Services(s.Namespace).UpdateStatus(ctx, s, metav1.UpdateOptions{}) // or in a second
		}
	}
}

// addressesOf a node, if it is ready.
func addressesOf(n *corev1.Node) (all []corev1.LoadBalancerIngress) {
	if !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	}) {
		return nil
	}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			all = append(all, corev1.LoadBalancerIngress{IP: a.Address})
		}
	}
	return all
}
