package azureclients

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/sallyport/sallyport/client"
)

const (
	mlworkload = "Microsoft.MachineLearningServices/workspaces/mlworkload"
	inference  = "Microsoft.MachineLearningServices/workspaces/inference-v1"
)

func clientOptions() azcore.ClientOptions {
	return azcore.ClientOptions{Cloud: azure(), Transport: the.http}
}

// administrator is the first administrator, as azidentity gets its tokens.
func administrator(t *testing.T) azcore.TokenCredential {
	t.Helper()
	c, err := azidentity.NewClientSecretCredential(the.admin.TenantID, the.admin.ClientID, the.admin.ClientSecret,
		&azidentity.ClientSecretCredentialOptions{ClientOptions: clientOptions(), DisableInstanceDiscovery: true})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func options() *arm.ClientOptions {
	return &arm.ClientOptions{ClientOptions: clientOptions()}
}

// code is the error code that a client of Azure's saw.
func code(err error) string {
	var e *azcore.ResponseError
	if errors.As(err, &e) {
		return e.ErrorCode
	}
	return ""
}

// status is the HTTP status that a client of Azure's saw, 0 if there was none.
func status(err error) int {
	var e *azcore.ResponseError
	if errors.As(err, &e) {
		return e.StatusCode
	}
	return 0
}

// scene makes a resource group, which is deleted after the test, and a
// workspace in it.
func scene(t *testing.T, name string) (workspace *client.Source) {
	t.Helper()
	own := the.own(t)
	if _, err := own.Do(t.Context(), client.Request{Method: "PUT", Path: group(name), Version: "2021-04-01", Body: map[string]string{"location": "westeurope"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer own.Close()
		op, err := own.Delete(context.Background(), group(name), "2021-04-01")
		if err == nil {
			_, err = op.Wait(context.Background(), nil)
		}
		if err != nil {
			t.Error(err)
		}
	})
	w, err := own.PutSource(t.Context(), workspaceID(name, "w"), client.Source{Location: "westeurope", Identity: &client.Identity{Type: "SystemAssigned"}})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// Each major of armcontainerservice does all that trusted access is for.
func TestContainerService(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(target) (aks, error){"v4.8.0": newV4, "v6.6.0": newV6, "v8.1.0": newV8} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
			defer cancel()
			in := "Aks-" + strings.ReplaceAll(name, ".", "-")
			source := scene(t, in)
			c, err := open(target{subscription: the.admin.SubscriptionID, group: in, cluster: "Blue", credential: administrator(t), options: options()})
			if err != nil {
				t.Fatal(err)
			}
			testCluster(ctx, t, c, clusterID(in, "Blue"))
			runAgents(t, clusterID(in, "Blue"), mlworkload, inference)
			testBinding(ctx, t, c, clusterID(in, "Blue"), source.ID)
			testPower(ctx, t, c)
			if err := c.deleteCluster(ctx); err != nil {
				t.Error(err)
			}
			if _, err := c.getCluster(ctx); code(err) != "ResourceNotFound" {
				t.Errorf("the deleted cluster: %v", err)
			}
		})
	}
}

func testCluster(ctx context.Context, t *testing.T, c aks, id string) {
	t.Helper()
	if _, err := c.getCluster(ctx); code(err) != "ResourceNotFound" {
		t.Errorf("a cluster that is not there: %v", err)
	}
	value := "x"
	made, err := c.putCluster(ctx, "West Europe", map[string]*string{"A": &value})
	if err != nil {
		t.Fatal(err)
	}
	want := cluster{ID: id, Name: "Blue", Type: "Microsoft.ContainerService/managedClusters", Location: "westeurope", State: "Succeeded", Power: "Running", Tags: map[string]string{"A": "x"}}
	if diff := cmp.Diff(want, made); diff != "" {
		t.Errorf("made (-want +got):\n%s", diff)
	}
	if got, err := c.tagCluster(ctx, map[string]*string{"b": &value}); err != nil || !cmp.Equal(got.Tags, map[string]string{"b": "x"}) {
		t.Errorf("tagged: %+v, %v", got, err)
	}
	inSubscription, inGroup, err := c.listClusters(ctx)
	if err != nil || !slices.Contains(inSubscription, id) || !cmp.Equal(inGroup, []string{id}) {
		t.Errorf("listed: %v, %v, %v", inSubscription, inGroup, err)
	}
	name, kubeconfig, err := c.userCredential(ctx)
	if err != nil || name != "clusterUser" || !strings.Contains(string(kubeconfig), the.admin.Server+"/clusters/") {
		t.Errorf("user credential: %q, %v\n%s", name, err, kubeconfig)
	}
	if err := c.adminCredential(ctx); code(err) != "BadRequest" {
		t.Errorf("admin credential: %v", err)
	}
}

func testBinding(ctx context.Context, t *testing.T, c aks, id, source string) {
	t.Helper()
	roles, err := c.roles(ctx, "westeurope")
	if err != nil || !slices.ContainsFunc(roles, func(r role) bool { return r.Source+"/"+r.Name == mlworkload && r.Rules > 0 }) {
		t.Errorf("roles: %v, %v", roles, err)
	}
	if _, err := c.getBinding(ctx, "b1"); code(err) != "ResourceNotFound" {
		t.Errorf("a binding that is not there: %v", err)
	}
	if got, err := c.listBindings(ctx); err != nil || len(got) != 0 {
		t.Errorf("no bindings: %v, %v", got, err)
	}
	// As recorded in the field: the id comes back byte for byte.
	sent := strings.Replace(source, "resourceGroups", "resourcegroups", 1)
	want := binding{ID: id + "/trustedAccessRoleBindings/b1", Name: "b1", Type: "Microsoft.ContainerService/managedClusters/trustedAccessRoleBindings",
		Source: sent, State: "Succeeded", Roles: []string{mlworkload, inference}}
	got, err := c.putBinding(ctx, "b1", sent, pointers(want.Roles...))
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Fatalf("created: %v (-want +got):\n%s", err, diff)
	}
	want.Roles = []string{inference}
	got, err = c.putBinding(ctx, "b1", sent, pointers(want.Roles...))
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("narrowed: %v (-want +got):\n%s", err, diff)
	}
	if got, err := c.listBindings(ctx); err != nil || !cmp.Equal(got, []binding{want}) {
		t.Errorf("listed: %v, %v", got, err)
	}
	for what, try := range map[string]struct {
		roles  []*string
		source string
	}{
		"unknown role":     {pointers("Microsoft.MachineLearningServices/workspaces/none"), sent},
		"no role":          {nil, sent},
		"another source":   {pointers(inference), sent + "2"},
		"role of no match": {pointers("Microsoft.DataProtection/backupVaults/backup-operator"), sent},
	} {
		if _, err := c.putBinding(ctx, "b1", try.source, try.roles); code(err) != "InvalidParameter" {
			t.Errorf("%s: %v", what, err)
		}
	}
	for range 2 { // what is gone can be deleted
		if err := c.deleteBinding(ctx, "b1"); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if _, err := c.getBinding(ctx, "b1"); code(err) != "ResourceNotFound" {
		t.Errorf("the deleted binding: %v", err)
	}
}

func testPower(ctx context.Context, t *testing.T, c aks) {
	t.Helper()
	for _, step := range []struct {
		do   func(context.Context) error
		want string
	}{{c.stop, "Stopped"}, {c.start, "Running"}} {
		if err := step.do(ctx); err != nil {
			t.Errorf("%s: %v", step.want, err)
		}
		if got, err := c.getCluster(ctx); err != nil || got.Power != step.want || got.State != "Succeeded" {
			t.Errorf("%s: %+v, %v", step.want, got, err)
		}
	}
}
