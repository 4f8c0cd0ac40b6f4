// Package devcluster makes real Kubernetes clusters for "sallyport up", the
// demo and the tests: etcd, kube-apiserver, and when asked for the controller
// manager, the scheduler and up to three nodes that run real containers.
//
// It owns the cluster's folder, certificates, ports, processes, node networks
// and images, and leaves nothing behind after [Cluster.Stop]. It builds the
// Kubernetes binary (module devcluster/) into a cache, see [Build]. It knows
// nothing of Sallyport: no binding, tunnel or agent is started here. It links
// neither Kubernetes nor client-go nor etcd: they are other processes.
//
// A test that needs an API server uses [devclustertest], which builds or finds
// the binary, names the reason when it must skip, and stops the cluster:
//
//	var shared devclustertest.Shared // one API server for this package's tests
//
//	func TestMain(m *testing.M) { os.Exit(shared.Main(m)) }
//
//	func TestGet(t *testing.T) {
//		c := shared.Cluster(t) // started at the first call
//		out, err := c.Kubectl(t.Context(), "get", "namespaces", "-o", "name")
//		...
//	}
//
// A cluster of one's own, with everything said:
//
//	binary, err := devcluster.Build(ctx, devcluster.Options{}, func(p devcluster.Progress) { log.Print(p) })
//	c, err := devcluster.Start(ctx, devcluster.Config{
//		Binary: binary, Dir: dir, Nodes: 1, AuditLevel: "Metadata",
//	})
//	defer c.Stop(context.Background())
//	req.Header.Set("Authorization", "Bearer "+c.AdminToken()) // to c.URL(), with c.CA()
//
// By default a test is skipped while the binary is not in the cache; with
// SALLYPORT_TEST_DEVCLUSTER=build it is built, with =require it is built and
// a test that cannot have its cluster fails. SALLYPORT_DEVCLUSTER names a
// prebuilt binary, KUBEBUILDER_ASSETS a folder of separate ones.
//
// A cluster that stays when its launcher ends: Config.Detached, then
// [Cluster.Release]; [Recover] with the same folder ends it. Recover is also
// what makes a folder good again after kill -9.
//
// A node (root, containerd, runc, CNI plugins, iptables: see [CanRunNodes]) is a
// process tree in namespaces of its own, so the machine's mounts, packet filter
// and sysctls are not touched. There is no DNS server in the cluster; pods find
// services by ClusterIP. [ToolImage] is there from the start, [Cluster.AddImage]
// brings others.
//
// Linux only; elsewhere [Start] says so.
//
// [devclustertest]: https://pkg.go.dev/github.com/sallyport/sallyport/internal/devcluster/devclustertest
package devcluster
