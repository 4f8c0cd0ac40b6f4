package azureclients

import (
	"slices"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	ml "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/machinelearning/armmachinelearning/v4"
)

// Workspaces and what lies under them, by armmachinelearning v4.0.0. What a job
// does in a cluster is other tests' business; here a compute on a cluster that
// nobody bound is refused, and nothing is left of it.
func TestMachineLearning(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	const in, name = "MachineLearning", "vision"
	scene(t, in)
	factory, err := ml.NewClientFactory(the.admin.SubscriptionID, administrator(t), options())
	if err != nil {
		t.Fatal(err)
	}
	workspaces := factory.NewWorkspacesClient()
	if _, err := workspaces.Get(ctx, in, name, nil); code(err) != "ResourceNotFound" {
		t.Errorf("a workspace that is not there: %v", err)
	}
	making, err := workspaces.BeginCreateOrUpdate(ctx, in, name, ml.Workspace{Location: to.Ptr("westeurope"), Tags: map[string]*string{"team": to.Ptr("vision")},
		Identity:   &ml.ManagedServiceIdentity{Type: to.Ptr(ml.ManagedServiceIdentityTypeSystemAssigned)},
		Properties: &ml.WorkspaceProperties{FriendlyName: to.Ptr("Vision"), HbiWorkspace: to.Ptr(true)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	made, err := making.PollUntilDone(ctx, nil)
	if err != nil || value(made.ID) != workspaceID(in, name) || value(made.Identity.PrincipalID) == "" || value(made.Properties.WorkspaceID) == "" ||
		value(made.Properties.FriendlyName) != "Vision" || value(made.Properties.ProvisioningState) != ml.ProvisioningStateSucceeded {
		t.Fatalf("made: %+v, %v", made.Workspace, err)
	}
	changing, err := workspaces.BeginUpdate(ctx, in, name, ml.WorkspaceUpdateParameters{Tags: map[string]*string{"team": to.Ptr("sight")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if changed, err := changing.PollUntilDone(ctx, nil); err != nil || value(changed.Tags["team"]) != "sight" || value(changed.Properties.WorkspaceID) != value(made.Properties.WorkspaceID) {
		t.Errorf("changed: %+v, %v", changed.Workspace, err)
	}
	page, err := workspaces.NewListByResourceGroupPager(in, nil).NextPage(ctx)
	if err != nil || !slices.ContainsFunc(page.Value, func(w *ml.Workspace) bool { return value(w.Name) == name }) {
		t.Errorf("listed: %v, %v", page.Value, err)
	}

	testEnvironments(t, factory.NewEnvironmentVersionsClient(), in, name)
	testComputes(t, factory.NewComputeClient(), in, name)
	jobs := factory.NewJobsClient()
	if list, err := jobs.NewListPager(in, name, nil).NextPage(ctx); err != nil || len(list.Value) != 0 {
		t.Errorf("jobs: %v, %v", list.Value, err)
	}
	if _, err := jobs.CreateOrUpdate(ctx, in, name, "job1", ml.JobBase{Properties: &ml.CommandJob{JobType: to.Ptr(ml.JobTypeCommand), Command: to.Ptr("true"),
		EnvironmentID: to.Ptr(workspaceID(in, name) + "/environments/python/versions/1"), ComputeID: to.Ptr(workspaceID(in, name) + "/computes/none")}}, nil); status(err) < 400 || status(err) >= 500 {
		t.Errorf("a job on no compute: %v", err)
	}
	if _, err := jobs.Get(ctx, in, name, "job1", nil); code(err) != "ResourceNotFound" {
		t.Errorf("it is there: %v", err)
	}

	deleting, err := workspaces.BeginDelete(ctx, in, name, nil)
	if err == nil {
		_, err = deleting.PollUntilDone(ctx, nil)
	}
	if err != nil {
		t.Errorf("delete: %v", err)
	}
	if _, err := workspaces.Get(ctx, in, name, nil); code(err) != "ResourceNotFound" {
		t.Errorf("the deleted workspace: %v", err)
	}
}

func testEnvironments(t *testing.T, environments *ml.EnvironmentVersionsClient, in, workspace string) {
	t.Helper()
	ctx := t.Context()
	body := ml.EnvironmentVersion{Properties: &ml.EnvironmentVersionProperties{Image: to.Ptr("registry.example.com/python:3.13"), OSType: to.Ptr(ml.OperatingSystemTypeLinux)}}
	if _, err := environments.CreateOrUpdate(ctx, in, workspace, "python", "1", body, nil); err != nil {
		t.Errorf("an environment: %v", err)
	}
	if got, err := environments.Get(ctx, in, workspace, "python", "1", nil); err != nil || value(got.Properties.Image) != value(body.Properties.Image) {
		t.Errorf("the environment: %+v, %v", got.EnvironmentVersion, err)
	}
	if page, err := environments.NewListPager(in, workspace, "python", nil).NextPage(ctx); err != nil || len(page.Value) != 1 {
		t.Errorf("environments: %v, %v", page.Value, err)
	}
	body.Properties.Image = to.Ptr("registry.example.com/python:3.14")
	if _, err := environments.CreateOrUpdate(ctx, in, workspace, "python", "1", body, nil); code(err) != "Conflict" {
		t.Errorf("a version that changes: %v", err)
	}
	if _, err := environments.Delete(ctx, in, workspace, "python", "1", nil); err != nil {
		t.Errorf("delete the environment: %v", err)
	}
}

func testComputes(t *testing.T, computes *ml.ComputeClient, in, workspace string) {
	t.Helper()
	ctx := t.Context()
	if page, err := computes.NewListPager(in, workspace, nil).NextPage(ctx); err != nil || len(page.Value) != 0 {
		t.Errorf("computes: %v, %v", page.Value, err)
	}
	attaching, err := computes.BeginCreateOrUpdate(ctx, in, workspace, "cluster", ml.ComputeResource{Location: to.Ptr("westeurope"),
		Properties: &ml.Kubernetes{ComputeType: to.Ptr(ml.ComputeTypeKubernetes), ResourceID: to.Ptr(clusterID(in, "none")), Properties: &ml.KubernetesProperties{Namespace: to.Ptr("default")}}}, nil)
	if err == nil {
		_, err = attaching.PollUntilDone(ctx, nil)
	}
	if code(err) != "InvalidParameter" {
		t.Errorf("a compute on a cluster that is not there: %v", err)
	}
	deleting, err := computes.BeginDelete(ctx, in, workspace, "cluster", ml.UnderlyingResourceActionDetach, nil)
	if err == nil {
		_, err = deleting.PollUntilDone(ctx, nil)
	}
	if err != nil {
		t.Errorf("detach: %v", err)
	}
}
