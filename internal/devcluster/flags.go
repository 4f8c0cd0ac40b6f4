package devcluster

import (
	"fmt"
	"path/filepath"
)

// etcdSocket is relative to the cluster's folder, where etcd and the API server
// run: no port, no TLS, and no path too long for a socket. The file is "etcd:0".
const etcdSocket = "unix://etcd:0"

func (c *Cluster) etcdFlags() []string {
	return append([]string{
		"etcd",
		"--name=dev",
		"--data-dir=" + filepath.Join(c.dir, dirEtcd),
		"--listen-client-urls=" + etcdSocket, "--advertise-client-urls=" + etcdSocket,
		"--listen-peer-urls=unix://etcd-peer:0", "--initial-advertise-peer-urls=unix://etcd-peer:0",
		"--initial-cluster=dev=unix://etcd-peer:0",
		// Nothing here survives a power cut on purpose; fsync is most of a write's time.
		"--unsafe-no-fsync=true",
		"--snapshot-count=5000",
		"--log-level=warn",
	}, c.cfg.ExtraEtcdFlags...)
}

func (c *Cluster) apiServerFlags() []string {
	pki := func(name string) string { return filepath.Join(c.dir, dirPKI, name) }
	flags := []string{
		"kube-apiserver",
		"--bind-address=" + c.addr.Addr().String(),
		fmt.Sprintf("--secure-port=%d", c.addr.Port()),
		"--permit-port-sharing=true", // with reservePort
		"--etcd-servers=" + etcdSocket,
		"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
		"--token-auth-file=" + pki("tokens.csv"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--service-cluster-ip-range=" + c.net.services.String(),
		"--service-account-issuer=" + c.ServiceAccountIssuer(),
		"--service-account-jwks-uri=" + c.ServiceAccountIssuer() + "/openid/v1/jwks",
		"--service-account-key-file=" + pki("sa.pub"),
		"--service-account-signing-key-file=" + pki("sa.key"),
		"--kubelet-certificate-authority=" + pki("ca.crt"),
		"--kubelet-client-certificate=" + pki("kubelet-client.crt"),
		"--kubelet-client-key=" + pki("kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + pki("front-proxy-ca.crt"),
		"--requestheader-allowed-names=" + userFrontProxy,
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + pki("front-proxy-client.crt"),
		"--proxy-client-key-file=" + pki("front-proxy-client.key"),
		"--profiling=false",
	}
	if !c.cfg.NoClientCerts {
		flags = append(flags, "--client-ca-file="+pki("ca.crt"))
	}
	if c.cfg.NoAnonymous {
		flags = append(flags, "--anonymous-auth=false")
	}
	if len(c.cfg.AuthenticationConfig) > 0 {
		flags = append(flags, "--authentication-config="+filepath.Join(c.dir, dirConf, "authentication.yaml"))
	}
	if c.cfg.AuditLevel != "" {
		flags = append(flags,
			"--audit-policy-file="+filepath.Join(c.dir, dirConf, "audit-policy.yaml"),
			"--audit-log-path="+c.AuditLogPath(),
			"--audit-log-mode=blocking", // on disk before the answer
		)
	}
	if c.cfg.Nodes > 0 {
		flags = append(flags,
			"--advertise-address="+c.addr.Addr().String(),
			// The API server's machine has no kube-proxy: it calls webhooks and
			// aggregated APIs at their endpoints.
			"--enable-aggregator-routing=true",
		)
	} else {
		// A loopback address may not be published as an endpoint.
		flags = append(flags, "--advertise-address="+c.addr.Addr().String(), "--endpoint-reconciler-type=none")
	}
	return append(flags, c.cfg.ExtraAPIServerFlags...)
}

func (c *Cluster) controllerManagerFlags() []string {
	pki := func(name string) string { return filepath.Join(c.dir, dirPKI, name) }
	return []string{
		"kube-controller-manager",
		"--kubeconfig=" + c.componentKubeconfig(userControllerManager),
		"--secure-port=0", "--leader-elect=false", "--profiling=false",
		"--use-service-account-credentials=true",
		"--root-ca-file=" + pki("ca.crt"),
		"--service-account-private-key-file=" + pki("sa.key"),
		"--cluster-signing-cert-file=" + pki("ca.crt"),
		"--cluster-signing-key-file=" + pki("ca.key"),
	}
}

func (c *Cluster) schedulerFlags() []string {
	return []string{
		"kube-scheduler",
		"--kubeconfig=" + c.componentKubeconfig(userScheduler),
		"--secure-port=0", "--leader-elect=false", "--profiling=false",
	}
}
