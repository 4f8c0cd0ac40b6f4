package devcluster_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
)

// TestNetNS runs an API server in a network namespace that nothing else reaches.
func TestNetNS(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making a network namespace needs root")
	}
	binary := devclustertest.Binary(t)
	name := fmt.Sprintf("spdtest%d", os.Getpid())
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Skipf("ip netns add: %v %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "delete", name).CombinedOutput(); err != nil {
			t.Errorf("ip netns delete: %v %s", err, out)
		}
	})
	if out, err := exec.Command("ip", "-n", name, "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	c := devclustertest.Start(t, devcluster.Config{Binary: binary, NetNS: name, Controllers: true})
	if out, err := c.Kubectl(t.Context(), "get", "--raw", "/readyz"); out != "ok" || err != nil {
		t.Errorf("from its namespace: %q, %v", out, err)
	}
	addr := strings.TrimPrefix(c.URL(), "https://")
	if conn, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
		conn.Close()
		t.Errorf("%s is reachable from outside its namespace", addr)
	}
	resp, err := c.Client().Get(c.URL() + "/version")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

// TestAssets runs a cluster from a folder of separate binaries.
func TestAssets(t *testing.T) {
	binary := devclustertest.Binary(t)
	dir := t.TempDir()
	for _, name := range []string{"etcd", "kube-apiserver", "kubectl"} {
		if err := os.Symlink(binary, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv(devcluster.EnvBinary, "")
	t.Setenv(devcluster.EnvAssets, dir)
	c := devclustertest.Start(t, devcluster.Config{ExtraEtcdFlags: []string{"--max-txn-ops=256"}})
	if out, err := c.Kubectl(t.Context(), "get", "--raw", "/livez"); out != "ok" || err != nil {
		t.Errorf("livez = %q, %v", out, err)
	}
}

// TestOIDC lets a cluster trust an issuer and nobody anonymous.
func TestOIDC(t *testing.T) {
	binary := devclustertest.Binary(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes() // 4, X, Y
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	issuer := httptest.NewTLSServer(mux)
	defer issuer.Close()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"%s/keys","id_token_signing_alg_values_supported":["ES256"],"response_types_supported":["id_token"],"subject_types_supported":["public"]}`, issuer.URL, issuer.URL)
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"keys":[{"kty":"EC","crv":"P-256","kid":"k","alg":"ES256","use":"sig","x":%q,"y":%q}]}`, b64(point[1:33]), b64(point[33:]))
	})
	ca, err := json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuer.Certificate().Raw})))
	if err != nil {
		t.Fatal(err)
	}
	c := devclustertest.Start(t, devcluster.Config{
		Binary: binary, NoAnonymous: true, NoClientCerts: true,
		AuthenticationConfig: fmt.Appendf(nil, `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer: {url: %q, audiences: [dev], certificateAuthority: %s}
  claimMappings: {username: {claim: sub, prefix: "oidc:"}}
`, issuer.URL, ca),
	})
	claims := fmt.Sprintf(`{"iss":%q,"aud":"dev","sub":"jane","exp":%d,"iat":%d}`, issuer.URL, time.Now().Add(time.Hour).Unix(), time.Now().Unix())
	signed := b64([]byte(`{"alg":"ES256","kid":"k"}`)) + "." + b64([]byte(claims))
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	token := signed + "." + b64(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
	eventually(t, 20*time.Second, func() error { // the API server fetches the keys when it likes
		out, err := c.Kubectl(t.Context(), "--kubeconfig=/dev/null", "--server="+c.URL(), "--certificate-authority="+filepath.Join(c.Dir(), "pki", "ca.crt"),
			"--token="+token, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
		if out != "oidc:jane" {
			return fmt.Errorf("whoami = %q, %w", out, err)
		}
		return nil
	})
}

func b64(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }
