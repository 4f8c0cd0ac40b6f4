package reconcile

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/mandate"
)

func TestNodesAreCountedByPool(t *testing.T) {
	t.Parallel()
	node := func(version string, ready corev1.ConditionStatus, labels map[string]string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Status: corev1.NodeStatus{
			NodeInfo:    corev1.NodeSystemInfo{KubeletVersion: version, OperatingSystem: "linux", Architecture: "amd64"},
			Conditions:  []corev1.NodeCondition{{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionTrue}, {Type: corev1.NodeReady, Status: ready}},
			Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m"), corev1.ResourceMemory: resource.MustParse("1Gi")},
		}}
	}
	d4 := map[string]string{"agentpool": "gpu", corev1.LabelInstanceTypeStable: "D4"}
	pools := map[string]*mandate.NodePool{}
	addNode(pools, node("v1.36.1", corev1.ConditionTrue, d4))
	addNode(pools, node("v1.36.3", corev1.ConditionUnknown, d4))
	addNode(pools, node("v1.36.1", corev1.ConditionTrue, d4))
	addNode(pools, node("v1.36.3", corev1.ConditionTrue, map[string]string{corev1.LabelInstanceTypeStable: "D2"}))
	addNode(pools, node("v1.36.3", corev1.ConditionFalse, map[string]string{"node-role.kubernetes.io/control-plane": ""}))
	const gi = 1 << 30
	want := map[string]*mandate.NodePool{
		"gpu":   {Name: "gpu", InstanceType: "D4", OS: "linux", Architecture: "amd64", Versions: []string{"v1.36.1", "v1.36.3"}, Count: 3, Ready: 2, MilliCPU: 4500, Memory: 3 * gi},
		"D2":    {Name: "D2", InstanceType: "D2", OS: "linux", Architecture: "amd64", Versions: []string{"v1.36.3"}, Count: 1, Ready: 1, MilliCPU: 1500, Memory: gi},
		"nodes": {Name: "nodes", OS: "linux", Architecture: "amd64", Versions: []string{"v1.36.3"}, Count: 1, MilliCPU: 1500, Memory: gi, ControlPlane: true},
	}
	if d := cmp.Diff(want, pools); d != "" {
		t.Error(d)
	}
}
