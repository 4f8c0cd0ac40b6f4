package azureclients

import (
	"context"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"

	"github.com/sallyport/sallyport/client"
)

// serveIdentity runs "sallyport identity serve" for a source until the test
// ends, and returns what programs beside it have in their environment.
func serveIdentity(ctx context.Context, t *testing.T, p *person, source *client.Source) map[string]string {
	t.Helper()
	p.must(ctx, "sallyport identity secret create --ids "+source.ID+" --file secret -o none")
	path, err := commandLine()
	if err != nil {
		t.Fatal(err)
	}
	envFile := filepath.Join(p.home, "identity.env")
	serve := exec.CommandContext(ctx, path, "identity", "serve", "--client-id", source.Identity.ClientID, "--client-secret-file", "secret", "--env-file", envFile)
	serve.Dir, serve.Env = p.home, p.env
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := serve.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		_ = serve.Wait() // it was told to stop
	})
	env := map[string]string{}
	eventually(t, "the identity endpoint says where it is", func(context.Context) bool {
		data, err := os.ReadFile(envFile)
		for line := range strings.Lines(string(data)) {
			if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
				env[name] = value
			}
		}
		return err == nil && len(env) == 2
	})
	if st, err := os.Stat(envFile); err != nil || st.Mode().Perm() != fs.FileMode(0o600) {
		t.Errorf("the file with the endpoint's secret: %v, %v", st.Mode(), err)
	}
	return env
}

// azidentity finds the endpoint by the environment, as in Azure's App Service,
// and reads what the identity may; a program without the endpoint's secret gets
// nothing. The environment is the process's, so this test runs alone.
func TestIdentityServe(t *testing.T) {
	ctx := t.Context()
	const in = "Identity-Serve"
	source := scene(t, in)
	p := newPerson(ctx, t)
	p.must(ctx, "sallyport role assignment create --assignee "+source.ID+" --role Reader -g "+in+" -o none")
	env := serveIdentity(ctx, t, p, source)
	for name, value := range env {
		t.Setenv(name, value)
	}
	managed := func() azcore.TokenCredential {
		c, err := azidentity.NewManagedIdentityCredential(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	groups, err := armresources.NewResourceGroupsClient(the.admin.SubscriptionID, managed(), options())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := groups.Get(ctx, in, nil); err != nil {
		t.Errorf("the identity's own group: %v", err)
	}
	if _, err := groups.CreateOrUpdate(ctx, in, armresources.ResourceGroup{Location: &source.Location}, nil); code(err) != "AuthorizationFailed" {
		t.Errorf("a Reader writes: %v", err)
	}
	// Asked by hand: the client keeps its token whatever the environment says now.
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, env["IDENTITY_ENDPOINT"]+"?api-version=2019-08-01&resource="+url.QueryEscape(the.admin.Server), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-IDENTITY-HEADER", "wrong")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode < 400 || res.StatusCode >= 500 {
		t.Errorf("a token without the endpoint's secret: %s", res.Status)
	}
}
