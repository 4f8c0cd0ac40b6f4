package reconcile

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/mandate"
)

// maxPools bounds what is reported of a cluster whose nodes are all different.
const maxPools = 100

// nodePage is how many nodes one call reads.
const nodePage = 500

// nodes reads all nodes and says how many there are, in which pools.
func (k *kube) nodes(ctx context.Context) (n int, pools []mandate.NodePool, err error) {
	byName := map[string]*mandate.NodePool{}
	for next := ""; ; {
		list, err := k.core.Nodes().List(ctx, metav1.ListOptions{Limit: nodePage, Continue: next})
		if err != nil {
			return 0, nil, fmt.Errorf("list nodes: %w", err)
		}
		n += len(list.Items)
		for i := range list.Items {
			addNode(byName, &list.Items[i])
		}
		if next = list.Continue; next == "" {
			break
		}
	}
	for _, p := range byName {
		slices.Sort(p.Versions)
		pools = append(pools, *p)
	}
	slices.SortFunc(pools, func(a, b mandate.NodePool) int { return cmp.Compare(a.Name, b.Name) })
	return n, pools[:min(len(pools), maxPools)], nil
}

// poolLabels name a node's pool, by who made it: Azure, AWS, Google, DigitalOcean.
var poolLabels = []string{"kubernetes.azure.com/agentpool", "agentpool", "eks.amazonaws.com/nodegroup", "cloud.google.com/gke-nodepool", "doks.digitalocean.com/node-pool"}

// addNode counts a node in its pool: the one that a label names, else that of
// its instance type, else the only one.
func addNode(pools map[string]*mandate.NodePool, node *corev1.Node) {
	instance := node.Labels[corev1.LabelInstanceTypeStable]
	name := cmp.Or(instance, "nodes")
	for _, l := range poolLabels {
		if v := node.Labels[l]; v != "" {
			name = v
			break
		}
	}
	p := pools[name]
	if p == nil {
		p = &mandate.NodePool{Name: name, InstanceType: instance, OS: node.Status.NodeInfo.OperatingSystem, Architecture: node.Status.NodeInfo.Architecture}
		pools[name] = p
	}
	p.Count++
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			p.Ready++
		}
	}
	if v := node.Status.NodeInfo.KubeletVersion; !slices.Contains(p.Versions, v) {
		p.Versions = append(p.Versions, v)
	}
	p.MilliCPU += node.Status.Allocatable.Cpu().MilliValue()
	p.Memory += node.Status.Allocatable.Memory().Value()
	for _, role := range slices.Sorted(maps.Keys(node.Labels)) {
		p.ControlPlane = p.ControlPlane || role == "node-role.kubernetes.io/control-plane"
	}
}
