package azureclients

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/client"
)

// oldestNode is what the packages of js/package.json ask for.
const oldestNode = 20

// nodeModules installs the packages of the lock file, unless they are there,
// and returns the folder that holds them. It skips the test where there is no
// Node that can run them.
func nodeModules(ctx context.Context, t *testing.T) string {
	t.Helper()
	version, err := exec.CommandContext(ctx, "node", "--version").Output()
	if err != nil {
		t.Skipf("Node.js %d or newer and npm are needed for Azure's JavaScript clients: %v", oldestNode, err)
	}
	major, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(version)), "v"), ".")
	if n, err := strconv.Atoi(major); err != nil || n < oldestNode {
		t.Skipf("Node.js %d or newer is needed for Azure's JavaScript clients, this is %s", oldestNode, version)
	}
	dir, err := filepath.Abs("js")
	if err != nil {
		t.Fatal(err)
	}
	// npm writes its own copy of the lock file when it has installed everything.
	lock, err := os.Stat(filepath.Join(dir, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	installed, err := os.Stat(filepath.Join(dir, "node_modules", ".package-lock.json"))
	if err == nil && installed.ModTime().After(lock.ModTime()) {
		return dir
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skipf("npm is needed for Azure's JavaScript clients: %v", err)
	}
	install := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	return dir
}

// Azure's JavaScript clients, run by Node: js/clients.test.mjs says what they do.
func TestJavaScript(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	dir := nodeModules(ctx, t)
	const in = "JavaScript"
	source := scene(t, in)
	own := the.own(t)
	defer own.Close()
	if _, err := own.PutCluster(ctx, clusterID(in, "Blue"), client.Cluster{Location: "westeurope"}); err != nil {
		t.Fatal(err)
	}
	runAgents(t, clusterID(in, "Blue"), mlworkload, inference)
	token := filepath.Join(t.TempDir(), "token")
	workload := newIssuer(t, "https://workload.example.com/"+rand.Text())
	federate(t, own, source, workload, "js")
	assertion, err := workload.token(exchangeAudience, "js")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(token, []byte(assertion), 0o600); err != nil {
		t.Fatal(err)
	}
	// Set up as "client-setup js" says, in an environment that has nothing else:
	// a credential of the machine's own must not be found.
	p := newPerson(ctx, t, "SERVER="+the.admin.Server, "SUBSCRIPTION="+the.admin.SubscriptionID, "GROUP="+in, "CLUSTER=Blue", "SOURCE="+source.ID,
		"WORKLOAD_CLIENT_ID="+source.Identity.ClientID, "WORKLOAD_TOKEN_FILE="+token)
	managed := serveIdentity(ctx, t, p, source)
	p.env = append(p.env, "MANAGED_ENDPOINT="+managed["IDENTITY_ENDPOINT"], "MANAGED_HEADER="+managed["IDENTITY_HEADER"])
	out := p.must(ctx, `sallyport client-setup js > setup.sh; source ./setup.sh; cd "`+dir+`"; node --test --test-reporter=tap clients.test.mjs || true`)
	if ran := "# pass 5\n# fail 0\n"; !strings.Contains(strings.ReplaceAll(out, "# suites 0\n", ""), ran) {
		t.Errorf("not all tests ran and passed:\n%s", out)
	}
}
