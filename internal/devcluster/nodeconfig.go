package devcluster

import "fmt"

// containerdSocket is inside the node.
const containerdSocket = "/run/containerd/containerd.sock"

// kubeletSysctls are what a kubelet sets on its machine. They belong to the
// whole kernel, so the node is shown files with these values instead (see
// setupKernelTunables in Kubernetes' pkg/kubelet/cm).
var kubeletSysctls = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// nodeFiles are the configuration files of a node, by name.
func (c *Cluster) nodeFiles(n *Node) map[string][]byte {
	cni, _ := cniFolder() // CanRunNodes found it
	cgroup := c.cgroup() + "/" + n.name
	return map[string][]byte{
		"containerd.toml": fmt.Appendf(nil, containerdConfig, containerdSocket, pauseImage, c.snapshotter(), cni),
		"kubelet.yaml":    fmt.Appendf(nil, kubeletConfig, cgroup, containerdSocket),
		"kube-proxy.yaml": fmt.Appendf(nil, proxyConfig, c.net.pods),
		"10-dev.conflist": fmt.Appendf(nil, cniConfig, n.pods.String()),
		// No DNS server runs here. Asking one that refuses is quicker than
		// waiting for one that is silent.
		"resolv.conf": []byte("nameserver 127.0.0.1\n"),
	}
}

// snapshotter is what containerd keeps layers with: overlayfs cannot lie on
// another overlayfs, as in a container.
func (c *Cluster) snapshotter() string {
	if onOverlay(c.dir) {
		return "native"
	}
	return "overlayfs"
}

// containerdConfig: the oom score may not be lowered without CAP_SYS_RESOURCE,
// and an AppArmor profile would stay in the machine's kernel.
const containerdConfig = `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = %q
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = %q
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = "/node/conf"
`

// kubeletConfig: images are imported by hand, so they must never be collected.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: /node/conf/ca.crt}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: %s
cgroupsPerQOS: true
clusterDNS: [127.0.0.1]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix://%s
enforceNodeAllocatable: []
evictionHard: {}
failCgroupV1: false
failSwapOn: false
imageGCHighThresholdPercent: 100
resolvConf: /node/conf/resolv.conf
tlsCertFile: /node/conf/kubelet.crt
tlsPrivateKeyFile: /node/conf/kubelet.key
volumePluginDir: /var/lib/kubelet/volumeplugins
`

const proxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: %s
clientConnection: {kubeconfig: /node/conf/kube-proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
nodePortAddresses: [primary]
iptables: {localhostNodePorts: false}
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
`

// cniConfig joins a pod to its node by a link and a route: without a bridge,
// answers cannot pass by kube-proxy's translation.
const cniConfig = `{
  "cniVersion": "0.4.0",
  "name": "dev",
  "plugins": [
    {
      "type": "ptp",
      "ipMasq": false,
      "ipam": {
        "type": "host-local",
        "dataDir": "/var/lib/cni/networks",
        "ranges": [[{"subnet": %q}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`
