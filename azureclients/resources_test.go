package azureclients

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armfeatures"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/subscription/armsubscription"
)

func TestResourceGroups(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	groups, err := armresources.NewResourceGroupsClient(the.admin.SubscriptionID, administrator(t), options())
	if err != nil {
		t.Fatal(err)
	}
	const name = "Groups-Test"
	exists := func(want bool) {
		t.Helper()
		if r, err := groups.CheckExistence(ctx, name, nil); err != nil || r.Success != want {
			t.Errorf("exists: %v, %v, want %v", r.Success, err, want)
		}
	}
	exists(false)
	if _, err := groups.Get(ctx, name, nil); code(err) != "ResourceGroupNotFound" {
		t.Errorf("a group that is not there: %v", err)
	}
	made, err := groups.CreateOrUpdate(ctx, name, armresources.ResourceGroup{Location: to.Ptr("West Europe"), Tags: map[string]*string{"a": to.Ptr("b")}, ManagedBy: to.Ptr(group(name) + "/providers/A.B/c/d")}, nil)
	if err != nil || value(made.ID) != group(name) || value(made.Location) != "westeurope" || value(made.Properties.ProvisioningState) != "Succeeded" {
		t.Fatalf("made: %+v, %v", made, err)
	}
	exists(true)
	if r, err := groups.Get(ctx, name, nil); err != nil || value(r.ManagedBy) != group(name)+"/providers/A.B/c/d" {
		t.Errorf("managed by %q, %v", value(r.ManagedBy), err)
	}
	if r, err := groups.Update(ctx, name, armresources.ResourceGroupPatchable{Tags: map[string]*string{"c": to.Ptr("d")}}, nil); err != nil || !cmp.Equal(valuesOf(r.Tags), map[string]string{"c": "d"}) {
		t.Errorf("tagged: %v, %v", valuesOf(r.Tags), err)
	}
	var names []string
	for p := groups.NewListPager(&armresources.ResourceGroupsClientListOptions{Top: to.Ptr[int32](1)}); p.More(); {
		page, err := p.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range page.Value {
			names = append(names, value(g.Name))
		}
	}
	if !slices.Contains(names, name) {
		t.Errorf("listed: %v", names)
	}
	genericResource(ctx, t, name)
	p, err := groups.BeginDelete(ctx, name, nil)
	if err == nil {
		_, err = p.PollUntilDone(ctx, nil)
	}
	if err != nil {
		t.Errorf("delete: %v", err)
	}
	exists(false)
}

// genericResource is what az resource does, with a source of any type.
func genericResource(ctx context.Context, t *testing.T, in string) {
	t.Helper()
	generic, err := armresources.NewClient(the.admin.SubscriptionID, administrator(t), options())
	if err != nil {
		t.Fatal(err)
	}
	id, version := group(in)+"/providers/Contoso.Scanner/scanners/s1", "2024-01-01"
	made, err := generic.BeginCreateOrUpdateByID(ctx, id, version, armresources.GenericResource{Location: to.Ptr("westeurope"),
		Identity: &armresources.Identity{Type: to.Ptr(armresources.ResourceIdentityTypeSystemAssigned)}, Properties: map[string]any{"depth": 3.0}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := made.PollUntilDone(ctx, nil)
	if err != nil || value(r.ID) != id || value(r.Identity.PrincipalID) == "" || r.Properties.(map[string]any)["depth"] != 3.0 {
		t.Errorf("made: %+v, %v", r.GenericResource, err)
	}
	page, err := generic.NewListPager(&armresources.ClientListOptions{Filter: to.Ptr("resourceType eq 'Contoso.Scanner/scanners'")}).NextPage(ctx)
	if err != nil || len(page.Value) != 1 || value(page.Value[0].ID) != id || page.Value[0].CreatedTime != nil {
		t.Errorf("listed: %+v, %v", page.Value, err)
	}
	var found int
	for p := generic.NewListByResourceGroupPager(in, &armresources.ClientListByResourceGroupOptions{Top: to.Ptr[int32](1), Expand: to.Ptr("createdTime,changedTime,provisioningState"),
		Filter: to.Ptr("substringof('S1', name) or resourceType eq 'A.B/none'")}); p.More(); {
		page, err := p.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.Value {
			if found++; value(r.ID) != id || r.CreatedTime == nil || r.ChangedTime == nil || value(r.ProvisioningState) != "Succeeded" || r.Identity == nil {
				t.Errorf("expanded: %+v", r)
			}
		}
	}
	if found != 1 {
		t.Errorf("%d were found", found)
	}
	gone, err := generic.BeginDeleteByID(ctx, id, version, nil)
	if err == nil {
		_, err = gone.PollUntilDone(ctx, nil)
	}
	if err != nil {
		t.Errorf("delete: %v", err)
	}
}

func TestProviders(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	providers, err := armresources.NewProvidersClient(the.admin.SubscriptionID, administrator(t), options())
	if err != nil {
		t.Fatal(err)
	}
	const aks = "Microsoft.ContainerService"
	var names []string
	for p := providers.NewListPager(nil); p.More(); {
		page, err := p.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range page.Value {
			names = append(names, value(p.Namespace))
		}
	}
	for _, want := range []string{aks, "Microsoft.Resources", "Microsoft.MachineLearningServices"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not among %v", want, names)
		}
	}
	if r, err := providers.Register(ctx, aks, nil); err != nil || value(r.RegistrationState) != "Registered" {
		t.Errorf("registered: %+v, %v", r, err)
	}
	r, err := providers.Get(ctx, aks, nil)
	i := slices.IndexFunc(r.ResourceTypes, func(p *armresources.ProviderResourceType) bool { return value(p.ResourceType) == "managedClusters" })
	if err != nil || value(r.ID) != "/subscriptions/"+the.admin.SubscriptionID+"/providers/"+aks || i < 0 || !slices.Contains(values(r.ResourceTypes[i].APIVersions), "2025-02-01") ||
		!cmp.Equal(values(r.ResourceTypes[i].Locations), []string{"westeurope", "eastus"}) {
		t.Errorf("shown: %+v, %v", r.Provider, err)
	}
	if _, err := providers.Get(ctx, "Microsoft.Nothing", nil); code(err) != "InvalidResourceNamespace" {
		t.Errorf("no such provider: %v", err)
	}
}

// TestFeatures is not parallel: other clients' tests register the same feature,
// and only the first of them sees Registering.
func TestFeatures(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	features, err := armfeatures.NewClient(the.admin.SubscriptionID, administrator(t), options())
	if err != nil {
		t.Fatal(err)
	}
	const namespace, name = "Microsoft.ContainerService", "TrustedAccessPreview"
	if r, err := features.Register(ctx, namespace, name, nil); err != nil || value(r.Properties.State) != "Registering" || value(r.Name) != namespace+"/"+name {
		t.Errorf("registered: %+v, %v", r.FeatureResult, err)
	}
	eventually(t, "the feature is Registered", func(ctx context.Context) bool {
		r, err := features.Get(ctx, namespace, name, nil)
		return err == nil && value(r.Properties.State) == "Registered"
	})
	for _, p := range []func() ([]*armfeatures.FeatureResult, error){
		func() ([]*armfeatures.FeatureResult, error) {
			r, err := features.NewListPager(namespace, nil).NextPage(ctx)
			return r.Value, err
		},
		func() ([]*armfeatures.FeatureResult, error) {
			r, err := features.NewListAllPager(nil).NextPage(ctx)
			return r.Value, err
		},
	} {
		if list, err := p(); err != nil || len(list) != 1 || value(list[0].Name) != namespace+"/"+name {
			t.Errorf("listed: %v, %v", list, err)
		}
	}
	if _, err := features.Get(ctx, namespace, "None", nil); code(err) != "FeatureNotFound" {
		t.Errorf("no such feature: %v", err)
	}
	kept, err := armfeatures.NewSubscriptionFeatureRegistrationsClient(the.admin.SubscriptionID, administrator(t), options())
	if err != nil {
		t.Fatal(err)
	}
	if r, err := kept.CreateOrUpdate(ctx, namespace, name, nil); err != nil || value(r.Properties.State) != armfeatures.SubscriptionFeatureRegistrationStateRegistered || value(r.Properties.FeatureName) != name {
		t.Errorf("kept: %+v, %v", r.SubscriptionFeatureRegistration, err)
	}
	if page, err := kept.NewListAllBySubscriptionPager(nil).NextPage(ctx); err != nil || len(page.Value) != 1 || value(page.Value[0].Name) != name {
		t.Errorf("kept ones: %+v, %v", page.Value, err)
	}
	if r, err := features.Unregister(ctx, namespace, name, nil); err != nil || value(r.Properties.State) != "Unregistering" {
		t.Errorf("unregistered: %+v, %v", r.FeatureResult, err)
	}
}

func TestSubscriptions(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	subscriptions, err := armsubscription.NewSubscriptionsClient(administrator(t), options())
	if err != nil {
		t.Fatal(err)
	}
	page, err := subscriptions.NewListPager(nil).NextPage(ctx)
	if err != nil || !slices.ContainsFunc(page.Value, func(s *armsubscription.Subscription) bool { return value(s.SubscriptionID) == the.admin.SubscriptionID }) {
		t.Errorf("listed: %+v, %v", page.Value, err)
	}
	if r, err := subscriptions.Get(ctx, the.admin.SubscriptionID, nil); err != nil || value(r.State) != armsubscription.SubscriptionStateEnabled {
		t.Errorf("shown: %+v, %v", r.Subscription, err)
	}
	locations, err := subscriptions.NewListLocationsPager(the.admin.SubscriptionID, nil).NextPage(ctx)
	var names []string
	for _, l := range locations.Value {
		names = append(names, value(l.Name))
	}
	if err != nil || !cmp.Equal(names, []string{"westeurope", "eastus"}) {
		t.Errorf("locations: %v, %v", names, err)
	}
	tenants, err := armsubscription.NewTenantsClient(administrator(t), options())
	if err != nil {
		t.Fatal(err)
	}
	if page, err := tenants.NewListPager(nil).NextPage(ctx); err != nil || len(page.Value) != 1 || value(page.Value[0].TenantID) != the.admin.TenantID {
		t.Errorf("tenants: %+v, %v", page.Value, err)
	}
}
