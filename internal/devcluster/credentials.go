package devcluster

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// The users Kubernetes' own RBAC rules know.
const (
	userAdmin             = "kubernetes-admin"
	userControllerManager = "system:kube-controller-manager"
	userScheduler         = "system:kube-scheduler"
	userProxy             = "system:kube-proxy"
	userFrontProxy        = "front-proxy-client"

	groupMasters = "system:masters"
	groupNodes   = "system:nodes"
)

func nodeUser(node string) string { return "system:node:" + node }

// writeCredentials makes certificates, tokens and kubeconfigs. The components
// use tokens, so that client certificates can be turned off for everybody.
func (c *Cluster) writeCredentials() error {
	f := &pkiFiles{dir: filepath.Join(c.dir, dirPKI)}
	ca, front := f.authority("ca"), f.authority("front-proxy-ca")
	f.issue(ca, "apiserver", identity{
		user: "kube-apiserver",
		dns: []string{
			"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc.cluster.local",
		},
		ips: []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), c.addr.Addr(), c.net.services.Addr().Next()},
	})
	f.issue(ca, "kubelet-client", identity{user: "kube-apiserver-kubelet-client", groups: []string{groupMasters}})
	f.issue(front, "front-proxy-client", identity{user: userFrontProxy})
	adminCert, adminKey := f.issue(ca, "admin", identity{user: userAdmin, groups: []string{groupMasters}})
	for _, n := range c.nodes {
		f.issue(ca, "kubelet-"+n.name, identity{
			user: nodeUser(n.name), groups: []string{groupNodes}, dns: []string{n.name}, ips: []netip.Addr{n.addr},
		})
	}
	f.serviceAccountKey()
	f.write("tokens.csv", c.makeTokens())
	if f.err != nil {
		return fmt.Errorf("make certificates: %w", f.err)
	}
	c.ca = ca.pem

	for user := range c.tokens {
		path := c.componentKubeconfig(user)
		if err := os.WriteFile(path, c.kubeconfig(user, fmt.Sprintf("token: %q", c.tokens[user])), 0o600); err != nil {
			return err
		}
	}
	credentials := fmt.Sprintf("token: %q", c.AdminToken())
	if !c.cfg.NoClientCerts {
		credentials = fmt.Sprintf("client-certificate-data: %s\n    client-key-data: %s",
			base64.StdEncoding.EncodeToString(adminCert), base64.StdEncoding.EncodeToString(adminKey))
	}
	return os.WriteFile(c.Kubeconfig(), c.kubeconfig(userAdmin, credentials), 0o600)
}

// makeTokens returns the API server's token file: token,user,uid,"groups".
func (c *Cluster) makeTokens() []byte {
	groups := map[string]string{
		userAdmin: groupMasters, userControllerManager: "", userScheduler: "", userProxy: "",
	}
	for _, n := range c.nodes {
		groups[nodeUser(n.name)] = groupNodes
	}
	c.tokens = make(map[string]string, len(groups))
	var b strings.Builder
	for user, group := range groups {
		c.tokens[user] = rand.Text()
		fmt.Fprintf(&b, "%s,%s,%s,%q\n", c.tokens[user], user, user, group)
	}
	return []byte(b.String())
}

func (c *Cluster) componentKubeconfig(user string) string {
	return filepath.Join(c.dir, dirConf, strings.ReplaceAll(user, ":", "-")+".kubeconfig")
}

func (c *Cluster) kubeconfig(user, credentials string) []byte {
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: dev
clusters:
- name: dev
  cluster:
    server: %s
    certificate-authority-data: %s
users:
- name: %q
  user:
    %s
contexts:
- name: dev
  context:
    cluster: dev
    user: %q
`, c.URL(), base64.StdEncoding.EncodeToString(c.ca), user, credentials, user)
}
