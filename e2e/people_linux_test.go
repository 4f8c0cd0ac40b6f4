package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/client"
)

const viewerYAML = `
sourceResourceType: Sallyport.Identity/groups
name: viewer
rules:
- {apiGroups: [""], resources: [pods], verbs: [get, list, watch]}
`

// A person with kubectl and the kubeconfig that get-credentials gives: refused
// with the group and the command, let in by a binding for the group, within its
// role, from where people may come, and refused again when the binding goes, the
// group or the person.
func TestPeople(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	cli := func(args ...string) string {
		t.Helper()
		out, err := w.CLI(ctx, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if err := os.WriteFile(w.Path("server-ca.pem"), []byte(w.Admin.CA), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.Path("viewer.yaml"), []byte(viewerYAML), 0o600); err != nil {
		t.Fatal(err)
	}
	cli("aks", "trustedaccess", "role", "create", "-f", w.Path("viewer.yaml"), "-o", "none")
	cli("cluster", "accept-roles", "-g", w.GroupName(), "-n", w.Name, "--role-file", w.Path("viewer.yaml"), "--kubeconfig", w.Cluster.Kubeconfig(), "--kube-context", "dev", "--apply", "--yes", "-o", "none")
	kim, err := w.NewPerson(ctx, "kim@example.com", "platform")
	if err != nil {
		t.Fatal(err)
	}
	group := cli("ad", "group", "create", "-g", w.GroupName(), "-n", "platform", "--query", "id", "-o", "tsv")
	cli("role", "assignment", "create", "--assignee", group, "--role", "Azure Kubernetes Service Cluster User Role", "--scope", w.ClusterID(), "-o", "none")
	if err := kim.SignIn(ctx); err != nil {
		t.Fatal(err)
	}
	config := w.Path("kim.kubeconfig")
	if _, err := kim.CLI(ctx, "aks", "get-credentials", "-g", w.GroupName(), "-n", w.Name, "-f", config, "--subscription", w.Admin.SubscriptionID); err != nil {
		t.Fatal(err)
	}
	kubectl := func(args ...string) (string, error) {
		return w.Exec(ctx, append(kim.Env(), "KUBECONFIG="+config), w.Cluster.Program("kubectl"), args...)
	}
	// Within the bound of a change, what it says; err is what kubectl said.
	soon := func(what string, ready func(err error) bool) {
		t.Helper()
		eventually(t, what, time.Minute, func(context.Context) error {
			_, err := kubectl("get", "pods")
			if !ready(err) {
				return errors.Join(errors.New("kubectl says otherwise"), err)
			}
			return nil
		})
	}
	refused := func(says ...string) func(error) bool {
		return func(err error) bool {
			for _, s := range says {
				if err == nil || !strings.Contains(err.Error(), s) {
					return false
				}
			}
			return true
		}
	}
	let := func(err error) bool { return err == nil }

	soon("nobody has bound the group: it and the command are named", refused(`"platform"`, "sallyport ad group create -g GROUP -n NAME --group platform --issuer "+w.URL,
		"sallyport aks trustedaccess rolebinding create", "providers/Sallyport.Identity/groups/NAME"))
	bind := []string{"aks", "trustedaccess", "rolebinding", "create", "-g", w.GroupName(), "--cluster-name", w.Name, "-n", "platform", "--source-resource-id", group, "--roles", "Sallyport.Identity/groups/viewer", "-o", "none"}
	cli(bind...)
	soon("bound", let)
	if out, err := kubectl("get", "configmaps"); err == nil || !strings.Contains(err.Error(), "Forbidden") {
		t.Errorf("beyond the role: %q, %v", out, err)
	}
	if out, err := kubectl("get", "pods", "--as", "system:admin"); err == nil {
		t.Errorf("as somebody else: %q", out)
	}

	// From elsewhere than people may come from; a bound service is not limited.
	_, token, _ := w.service(t, reader)
	hc := w.HTTP(2)
	defer hc.CloseIdleConnections()
	w.authorize(t, "198.51.100.0/24")
	soon("not from an authorized address", refused("authorized address ranges"))
	if code, body, err := w.get(ctx, hc, token, "/api/v1/namespaces/default/pods"); code != http.StatusOK || err != nil {
		t.Errorf("a bound service: %d %.200s %v", code, body, err)
	}
	w.authorize(t, "198.51.100.0/24", "127.0.0.0/8")
	soon("from an authorized address", let)
	w.authorize(t)

	cli("aks", "trustedaccess", "rolebinding", "delete", "-g", w.GroupName(), "--cluster-name", w.Name, "-n", "platform", "--yes")
	soon("the binding is gone", refused(`"platform"`))
	cli(bind...)
	soon("bound again", let)
	cli("ad", "user", "update", "--id", kim.Name, "--groups", "others", "-o", "none")
	soon("out of the group: the token names one that kim has left", refused("has left a group", "sallyport login"))
	again := func() {
		t.Helper()
		if err := kim.SignIn(ctx); err != nil {
			t.Fatal(err)
		}
	}
	again()
	soon("signed in again", refused(`"others"`, "has no role binding"))
	cli("ad", "user", "update", "--id", kim.Name, "--groups", "platform", "-o", "none")
	again()
	soon("in the group again", let)
	cli("ad", "user", "update", "--id", kim.Name, "--account-enabled", "false", "-o", "none")
	soon("disabled", func(err error) bool { return err != nil })
}

// authorize says from where people may come; from nowhere named: from anywhere.
func (w *world) authorize(t *testing.T, ranges ...string) {
	t.Helper()
	arm, err := w.ARM()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := arm.Get(t.Context(), w.ClusterID(), client.ContainerServiceVersion)
	if err != nil {
		t.Fatal(err)
	}
	var cluster map[string]any
	if err := json.Unmarshal(raw, &cluster); err != nil {
		t.Fatal(err)
	}
	cluster["properties"].(map[string]any)["apiServerAccessProfile"] = map[string]any{"authorizedIPRanges": append([]string{}, ranges...)}
	if _, err := w.Wait(t.Context(), http.MethodPut, w.ClusterID(), client.ContainerServiceVersion, cluster); err != nil {
		t.Fatal(err)
	}
}
