package ml

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
)

// Registry credentials of a workspace reach its pods and nobody else, and the
// gateway that writes them can write no other Secret.
func TestRegistryCredentials(t *testing.T) {
	m := start(t)
	file := m.Path("registry.yml")
	m.must(os.WriteFile(file, []byte("name: images\ntype: container_registry\ntarget: registry.example.com\ncredentials: {type: username_password, username: robot, password: hush-hush}\n"), 0o600))
	m.afterwards("the connection", func(ctx context.Context) error {
		if !t.Failed() {
			return nil
		}
		_, err := m.CLI(ctx, m.in("trainer", "ml", "connection", "delete", "-n", "images", "--yes")...)
		return err
	})
	if out := m.cli(m.in("trainer", "ml", "connection", "create", "-f", file)...); strings.Contains(out, "hush") {
		t.Errorf("shown: %s", out)
	}
	secrets := func() string {
		return m.kubectl("get", "secrets", "-n", "training", "-o", `jsonpath={range .items[*]}{.metadata.name} {.type}{"\n"}{end}`)
	}
	name, _, _ := strings.Cut(secrets(), " ")
	if all := secrets(); !strings.HasPrefix(all, mlext.PullSecrets) || !strings.Contains(all, "kubernetes.io/dockerconfigjson") {
		t.Fatalf("secrets %q", all)
	}
	m.submit("pulls", "/train -steps 1", "")
	m.until("pulls", "Completed", "")
	if got := m.kubectl("get", "pods", "-n", "training", "-l", "ml.sallyport.dev/job", "-o", `jsonpath={.items[*].spec.imagePullSecrets[*].name}`); !strings.Contains(got, name) {
		t.Errorf("pods pull with %q, want %s", got, name)
	}

	gateway := "system:serviceaccount:" + wire.Namespace + ":" + mlext.GatewayAccount
	m.kubectl("create", "secret", "generic", "of-somebody", "-n", "training", "--from-literal=a=b")
	for what, args := range map[string][]string{
		"making one of another name": {"create", "secret", "generic", "stray", "-n", "training", "--from-literal=a=b"},
		"one of another type":        {"create", "secret", "generic", mlext.PullSecrets + "x", "-n", "training", "--from-literal=a=b"},
		"deleting somebody's":        {"delete", "secret", "of-somebody", "-n", "training"},
		"reading somebody's":         {"get", "secret", "of-somebody", "-n", "training"},
		"reading its own":            {"get", "secret", name, "-n", "training"},
	} {
		if out, err := m.Cluster.Kubectl(t.Context(), append(args, "--as", gateway)...); err == nil {
			t.Errorf("%s: %s", what, out)
		}
	}
	// Nor may it change one: not somebody's, not one that only has the right name,
	// and in its own namespace the trust's only.
	m.kubectl("create", "secret", "generic", mlext.PullSecrets+"of-somebody", "-n", "training", "--from-literal=a=b")
	m.kubectl("create", "secret", "generic", "of-somebody", "-n", wire.Namespace, "--from-literal=a=b")
	for _, at := range []string{"training/of-somebody", "training/" + mlext.PullSecrets + "of-somebody", wire.Namespace + "/of-somebody"} {
		namespace, name, _ := strings.Cut(at, "/")
		file := m.file("replace.json", fmt.Sprintf(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":%q,"namespace":%q},"stringData":{"a":"stolen"}}`, name, namespace))
		out, err := m.Cluster.Kubectl(t.Context(), "replace", "--raw", "/api/v1/namespaces/"+namespace+"/secrets/"+name, "-f", file, "--as", gateway)
		if err == nil || !strings.Contains(err.Error()+out, "forbidden") && !strings.Contains(err.Error()+out, "Forbidden") && !strings.Contains(err.Error()+out, "writes no Secrets") {
			t.Errorf("changing %s: %s %v", at, out, err)
		}
		m.kubectl("delete", "secret", name, "-n", namespace)
	}
	m.cli(m.in("trainer", "ml", "connection", "delete", "-n", "images", "--yes")...)
	if all := secrets(); all != "" {
		t.Errorf("left: %s", all)
	}
}
