package azureclients

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hashicorp/go-azure-helpers/resourcemanager/commonids"
	"github.com/hashicorp/go-azure-sdk/resource-manager/containerservice/2025-10-01/trustedaccess"
	"github.com/hashicorp/go-azure-sdk/sdk/auth"
	"github.com/hashicorp/go-azure-sdk/sdk/environments"
)

// terraform is what Terraform's azurerm_kubernetes_cluster_trusted_access_role_binding
// runs on, set up by metadata_host as its provider is.
func terraform(ctx context.Context, t *testing.T) *trustedaccess.TrustedAccessClient {
	t.Helper()
	env, err := environments.FromEndpoint(ctx, the.admin.Server)
	if err != nil {
		t.Fatal(err)
	}
	if env.IsAzureStack() {
		t.Fatal("Terraform's provider refuses what it takes for Azure Stack")
	}
	credentials := auth.Credentials{Environment: *env, TenantID: the.admin.TenantID, ClientID: the.admin.ClientID,
		EnableAuthenticatingUsingClientSecret: true, ClientSecret: the.admin.ClientSecret}
	// The provider asks for a token for Graph before anything else.
	graph, err := auth.NewAuthorizerFromCredentials(ctx, credentials, env.MicrosoftGraph)
	if err != nil {
		t.Fatal(err)
	}
	if token, err := graph.Token(ctx, &http.Request{}); err != nil || strings.Count(token.AccessToken, ".") != 2 {
		t.Fatalf("a token for Graph: %v", err)
	}
	authorizer, err := auth.NewAuthorizerFromCredentials(ctx, credentials, env.ResourceManager)
	if err != nil {
		t.Fatal(err)
	}
	client, err := trustedaccess.NewTrustedAccessClientWithBaseURI(env.ResourceManager)
	if err != nil {
		t.Fatal(err)
	}
	client.Client.SetAuthorizer(authorizer)
	return client
}

// The life of a binding as Terraform's resource does it, call for call: read
// before create, create and poll, plan, read-modify-write without polling, plan,
// import, plan, delete without polling. The provider is no Go module that can
// be had, so its SDK stands in for it.
func TestTerraform(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 120*time.Second)
	defer cancel()
	const in = "Terraform"
	source := scene(t, in)
	c, err := newV8(target{subscription: the.admin.SubscriptionID, group: in, cluster: "Blue", credential: administrator(t), options: options()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.putCluster(ctx, "westeurope", nil); err != nil {
		t.Fatal(err)
	}
	runAgents(t, clusterID(in, "Blue"), mlworkload, inference)
	client := terraform(ctx, t)
	roles, err := client.RolesListComplete(ctx, trustedaccess.NewLocationID(the.admin.SubscriptionID, "westeurope"))
	if err != nil || !slices.ContainsFunc(roles.Items, func(r trustedaccess.TrustedAccessRole) bool {
		return value(r.SourceResourceType)+"/"+value(r.Name) == mlworkload
	}) {
		t.Errorf("roles: %v, %v", roles.Items, err)
	}

	id := trustedaccess.NewTrustedAccessRoleBindingID(the.admin.SubscriptionID, in, "Blue", "b1")
	if r, err := client.RoleBindingsGet(ctx, id); err == nil || r.HttpResponse == nil || r.HttpResponse.StatusCode != http.StatusNotFound {
		t.Fatalf("before: %v", err)
	}
	want := trustedaccess.TrustedAccessRoleBindingProperties{Roles: []string{inference, mlworkload}, SourceResourceId: source.ID}
	if err := client.RoleBindingsCreateOrUpdateThenPoll(ctx, id, trustedaccess.TrustedAccessRoleBinding{Properties: want}); err != nil {
		t.Fatal(err)
	}
	read := func() *trustedaccess.TrustedAccessRoleBinding {
		t.Helper()
		r, err := client.RoleBindingsGet(ctx, id)
		if err != nil || r.Model == nil {
			t.Fatal(err)
		}
		if parsed, err := trustedaccess.ParseTrustedAccessRoleBindingID(value(r.Model.Id)); err != nil || parsed.ID() != id.ID() {
			t.Errorf("id %q: %v", value(r.Model.Id), err)
		}
		return r.Model
	}
	// plan is what Terraform compares: the configuration with what it reads,
	// order and spelling included. A difference is drift, at every plan.
	plan := func(configured trustedaccess.TrustedAccessRoleBindingProperties) {
		t.Helper()
		got := read().Properties
		if diff := cmp.Diff([]any{configured.SourceResourceId, configured.Roles}, []any{got.SourceResourceId, got.Roles}); diff != "" {
			t.Errorf("a plan shows drift (-configured +read):\n%s", diff)
		}
	}
	plan(want)
	made := read()
	if value(made.Properties.ProvisioningState) != "Succeeded" {
		t.Errorf("made: %+v", made.Properties)
	}
	want.Roles = []string{mlworkload}
	made.Properties.Roles = want.Roles
	if _, err := client.RoleBindingsCreateOrUpdate(ctx, id, *made); err != nil { // sends back all that it read
		t.Fatal(err)
	}
	plan(want)
	// terraform import: the id as a person copies it from any answer, whose
	// parsers mind the case, and then a plan that has nothing to do.
	imported, err := trustedaccess.ParseTrustedAccessRoleBindingID(value(read().Id))
	if err != nil {
		t.Fatal(err)
	}
	id = *imported
	plan(want)
	shown, err := c.getCluster(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if parsed, err := commonids.ParseKubernetesClusterID(shown.ID); err != nil || parsed.ID() != shown.ID {
		t.Errorf("the cluster's id %q: %v", shown.ID, err)
	}
	// A second create finds it and says so; the provider then asks for an import.
	if r, err := client.RoleBindingsGet(ctx, id); err != nil || r.HttpResponse.StatusCode != http.StatusOK {
		t.Errorf("create again: %v", err)
	}
	all, err := client.RoleBindingsListComplete(ctx, commonids.NewKubernetesClusterID(the.admin.SubscriptionID, in, "Blue"))
	if err != nil || len(all.Items) != 1 {
		t.Errorf("listed: %v, %v", all.Items, err)
	}
	// The next destroy may arrive at once.
	if _, err := client.RoleBindingsDelete(ctx, id); err != nil {
		t.Fatal(err)
	}
	if err := c.deleteCluster(ctx); err != nil {
		t.Errorf("destroy the cluster: %v", err)
	}
	if r, err := client.RoleBindingsGet(ctx, id); err == nil || r.HttpResponse.StatusCode != http.StatusNotFound {
		t.Errorf("after: %v", err)
	}
}
