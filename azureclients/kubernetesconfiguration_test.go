package azureclients

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	config "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/kubernetesconfiguration/armkubernetesconfiguration/v2"

	"github.com/sallyport/sallyport/client"
)

// The life of an extension by armkubernetesconfiguration v2.2.0, on a cluster
// that has no installer: it is stored, shown and changed, and no state says that
// it was installed.
func TestKubernetesConfiguration(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	const in, rp, resource, cluster, name = "Extensions", "Microsoft.ContainerService", "managedClusters", "Blue", "azureml"
	scene(t, in)
	own := the.own(t)
	defer own.Close()
	if _, err := own.PutCluster(ctx, clusterID(in, cluster), client.Cluster{Location: "westeurope"}); err != nil {
		t.Fatal(err)
	}
	extensions, err := config.NewExtensionsClient(the.admin.SubscriptionID, administrator(t), options())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := extensions.Get(ctx, in, rp, resource, cluster, name, nil); code(err) != "ResourceNotFound" {
		t.Errorf("an extension that is not there: %v", err)
	}
	body := config.Extension{Identity: &config.Identity{Type: to.Ptr("SystemAssigned")}, Properties: &config.ExtensionProperties{
		ExtensionType: to.Ptr("Microsoft.AzureML.Kubernetes"), AutoUpgradeMinorVersion: to.Ptr(true), ReleaseTrain: to.Ptr("stable"),
		Scope:                 &config.Scope{Cluster: &config.ScopeCluster{ReleaseNamespace: to.Ptr("azureml")}},
		ConfigurationSettings: map[string]*string{"enabletraining": to.Ptr("True")}}}
	creating, err := extensions.BeginCreate(ctx, in, rp, resource, cluster, name, body, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := creating.PollUntilDone(ctx, nil); err == nil || !strings.Contains(err.Error(), "installer") {
		t.Errorf("create on a cluster without an installer: %v", err)
	}
	shown, err := extensions.Get(ctx, in, rp, resource, cluster, name, nil)
	if err != nil || value(shown.Properties.ProvisioningState) != config.ProvisioningStateFailed || value(shown.Properties.ErrorInfo.Code) == "" || value(shown.Properties.CurrentVersion) != "" ||
		value(shown.Properties.ConfigurationSettings["enableTraining"]) != "True" || value(shown.Identity.PrincipalID) == "" ||
		value(shown.ID) != clusterID(in, cluster)+"/providers/Microsoft.KubernetesConfiguration/extensions/"+name {
		t.Errorf("shown: %+v, %v", shown.Extension, err)
	}
	changing, err := extensions.BeginUpdate(ctx, in, rp, resource, cluster, name, config.PatchExtension{Properties: &config.PatchExtensionProperties{
		ConfigurationSettings: map[string]*string{"nodeSelector.disk": to.Ptr("ssd")}}}, nil)
	if err == nil {
		_, err = changing.PollUntilDone(ctx, nil)
	}
	if err == nil || !strings.Contains(err.Error(), "installer") {
		t.Errorf("update: %v", err)
	}
	page, err := extensions.NewListPager(in, rp, resource, cluster, nil).NextPage(ctx)
	if err != nil || len(page.Value) != 1 {
		t.Fatalf("listed: %v, %v", page.Value, err)
	}
	settings := valuesOf(page.Value[0].Properties.ConfigurationSettings)
	if diff := cmp.Diff([]string{"True", "ssd"}, []string{settings["enableTraining"], settings["nodeSelector.disk"]}); diff != "" {
		t.Errorf("merged settings (-want +got):\n%s", diff)
	}
	for _, wrong := range []map[string]*string{{"enableTrainig": to.Ptr("True")}, {"enableTraining": to.Ptr("perhaps")}} {
		body.Properties.ConfigurationSettings = wrong
		if _, err := extensions.BeginCreate(ctx, in, rp, resource, cluster, name, body, nil); status(err) != 400 {
			t.Errorf("%v: %v", valuesOf(wrong), err)
		}
	}
	for range 2 { // what is gone can be deleted
		deleting, err := extensions.BeginDelete(ctx, in, rp, resource, cluster, name, &config.ExtensionsClientBeginDeleteOptions{ForceDelete: to.Ptr(true)})
		if err == nil {
			_, err = deleting.PollUntilDone(ctx, nil)
		}
		if err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if _, err := extensions.Get(ctx, in, rp, resource, cluster, name, nil); code(err) != "ResourceNotFound" {
		t.Errorf("the deleted extension: %v", err)
	}
}
