package control

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
)

const aksProvider = subPath + "/providers/Microsoft.ContainerService"

func TestProviders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if r := w.must(200, "GET", aksProvider, nil); r.text("registrationState") != "Registered" || r.text("namespace") != "Microsoft.ContainerService" || r.text("id") != aksProvider {
		t.Errorf("at first: %s", r.raw)
	}
	for _, step := range []struct{ action, want string }{{"unregister", "Unregistered"}, {"unregister", "Unregistered"}, {"register", "Registered"}} {
		r := w.must(200, "POST", subPath+"/providers/microsoft.containerservice/"+step.action+"?api-version=2021-04-01", nil)
		if again := w.must(200, "GET", aksProvider, nil); r.text("registrationState") != step.want || string(r.raw) != string(again.raw) {
			t.Errorf("%s: %s, then %s", step.action, r.raw, again.raw)
		}
	}
	w.refused(404, arm.InvalidResourceNamespace, "GET", subPath+"/providers/Microsoft.Nothing", nil)
	w.refused(404, arm.InvalidResourceNamespace, "POST", subPath+"/providers/Microsoft.Nothing/register", nil)
	for _, p := range []string{aksProvider, aksProvider + "/register?api-version=2021-04-01"} {
		method := "GET"
		if strings.Contains(p, "register?") {
			method = "POST"
		}
		if r := w.call("stranger", method, p, nil); r.status != 403 {
			t.Errorf("a stranger's %s %s: %d %s", method, p, r.status, r.raw)
		}
	}
	if r := w.must(200, "GET", "/providers", nil); len(r.at("value").([]any)) < 6 {
		t.Errorf("at the root: %s", r.raw)
	}
}

// What a provider lists must be true: generic clients choose an api-version
// from it.
func TestProvidersListWhatIsServed(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	var list struct {
		Value []struct {
			Namespace          string
			RegistrationPolicy string
			ResourceTypes      []struct {
				ResourceType, DefaultAPIVersion string
				APIVersions, Locations          []string
			}
		}
	}
	if err := json.Unmarshal(w.must(200, "GET", subPath+"/providers", nil).raw, &list); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, p := range list.Value {
		for _, rt := range p.ResourceTypes {
			seen[p.Namespace+"/"+rt.ResourceType] = true
			if len(rt.APIVersions) == 0 || !slices.Contains(rt.APIVersions, rt.DefaultAPIVersion) {
				t.Errorf("%s/%s: versions %v, default %q", p.Namespace, rt.ResourceType, rt.APIVersions, rt.DefaultAPIVersion)
			}
			path := map[string]string{"managedClusters": clusterPath, "managedClusters/trustedAccessRoleBindings": clusterPath + "/trustedAccessRoleBindings",
				"resourceGroups": groupPath, "subscriptions": subPath, "workspaces": sourcePath}[rt.ResourceType]
			if path == "" {
				continue
			}
			for _, v := range rt.APIVersions {
				w.must(200, "GET", path+"?api-version="+v, nil)
			}
		}
	}
	for _, typ := range []string{"Microsoft.ContainerService/managedClusters", bindingType, "Microsoft.MachineLearningServices/workspaces", groupType, "Microsoft.Features/features", ownRoleType} {
		if !seen[typ] {
			t.Errorf("%s is not listed among %v", typ, seen)
		}
	}
}

// Where registration is demanded, the answer is the one that makes Azure's
// clients register and ask again; access can always be taken away.
func TestDemandRegistration(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.DemandRegistration = true })
	w.must(201, "PUT", groupPath, map[string]any{"location": "local"})
	r := w.refused(409, arm.MissingSubscriptionRegistration, "PUT", clusterPath, map[string]any{"location": "local"})
	if r.text("error.target") != "Microsoft.ContainerService" || !strings.Contains(r.text("error.message"), "namespace 'Microsoft.ContainerService'") {
		t.Errorf("%s", r.raw)
	}
	w.refused(409, arm.MissingSubscriptionRegistration, "GET", clusterPath, nil)
	w.refused(409, arm.MissingSubscriptionRegistration, "PUT", sourcePath, map[string]any{"location": "local"})
	if r := w.must(200, "GET", aksProvider, nil); r.text("registrationState") != "NotRegistered" {
		t.Errorf("before: %s", r.raw)
	}
	w.must(200, "POST", aksProvider+"/register?api-version=2019-05-01", nil)
	w.must(201, "PUT", clusterPath, map[string]any{"location": "local", "properties": map[string]any{}})
	w.must(200, "POST", aksProvider+"/unregister?api-version=2021-04-01", nil)
	w.refused(409, arm.MissingSubscriptionRegistration, "GET", clusterPath, nil)
	w.finished(w.must(202, "DELETE", clusterPath, nil))
	w.must(200, "PUT", groupPath+"/providers/Contoso.Unheard/of/x", map[string]any{"location": "local"}) // nothing to register
}

func TestFeatures(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const of = subPath + "/providers/Microsoft.Features/providers/Microsoft.ContainerService/features"
	const one = of + "/TrustedAccessPreview"
	v := "?api-version=2021-07-01"
	state := func(r *reply) string { return r.text("properties.state") }
	r := w.must(200, "GET", one+v, nil)
	if state(r) != "NotRegistered" || r.text("id") != one || r.text("name") != "Microsoft.ContainerService/TrustedAccessPreview" || r.text("type") != "Microsoft.Features/providers/features" {
		t.Errorf("at first: %s", r.raw)
	}
	for _, step := range []struct{ action, doing, done string }{{"register", "Registering", "Registered"}, {"unregister", "Unregistering", "Unregistered"}} {
		if r := w.must(200, "POST", strings.ToLower(one)+"/"+step.action+v, nil); state(r) != step.doing {
			t.Errorf("%s: %s", step.action, r.raw)
		}
		w.advance(featureDelay + time.Second)
		w.must(200, "POST", one+"/"+step.action+v, nil) // asking again does not begin anew
		if r := w.must(200, "GET", one+v, nil); state(r) != step.done {
			t.Errorf("after %s: %s", step.action, r.raw)
		}
	}
	for path, want := range map[string]int{of: 1, subPath + "/providers/Microsoft.Features/features": 1, subPath + "/providers/Microsoft.Features/providers/Microsoft.Compute/features": 0} {
		if r := w.must(200, "GET", path+v, nil); len(r.at("value").([]any)) != want {
			t.Errorf("%s: %s", path, r.raw)
		}
	}
	w.refused(404, arm.FeatureNotFound, "GET", of+"/None"+v, nil)
	w.refused(404, arm.FeatureNotFound, "POST", of+"/None/register"+v, nil)
	if r := w.call("stranger", "POST", one+"/register"+v, nil); r.status != 403 {
		t.Errorf("a stranger registers: %d", r.status)
	}
}

func TestResourceTypes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.must(200, "GET", subPath+"/providers/microsoft.containerservice/resourceTypes?api-version=2021-04-01", nil)
	whole := w.must(200, "GET", subPath+"/providers/Microsoft.ContainerService", nil)
	if diff := cmp.Diff(whole.at("resourceTypes"), r.at("value")); diff != "" {
		t.Error(diff)
	}
	w.refused(404, arm.InvalidResourceNamespace, "GET", subPath+"/providers/Microsoft.Nothing/resourceTypes?api-version=2021-04-01", nil)
}

// As az feature registration asks.
func TestFeatureRegistrations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const of, v = subPath + "/providers/Microsoft.Features/featureProviders/Microsoft.ContainerService/subscriptionFeatureRegistrations", "?api-version=2021-07-01"
	const all = subPath + "/providers/Microsoft.Features/subscriptionFeatureRegistrations"
	one := of + "/TrustedAccessPreview"
	count := func(path string) int { return len(w.must(200, "GET", path+v, nil).at("value").([]any)) }
	w.refused(404, arm.ResourceNotFound, "GET", one+v, nil)
	w.must(204, "DELETE", one+v, nil)
	r := w.must(200, "PUT", strings.ToLower(one)+v, map[string]any{})
	if r.text("id") != one || r.text("properties.state") != registering || r.text("properties.subscriptionId") != subscription || r.text("properties.registrationDate") == "" {
		t.Errorf("%s", r.raw)
	}
	w.advance(featureDelay + time.Second)
	if r := w.must(200, "GET", one+v, nil); r.text("properties.state") != registered || count(of) != 1 || count(all) != 1 {
		t.Errorf("%s", r.raw)
	}
	w.must(200, "DELETE", one+v, nil)
	w.refused(404, arm.ResourceNotFound, "GET", one+v, nil)
	if count(of) != 0 || count(all) != 0 {
		t.Error("what was given up is listed")
	}
	w.refused(404, arm.FeatureNotFound, "PUT", of+"/None"+v, nil)
	if r := w.call("stranger", "PUT", one+v, nil); r.status != 403 {
		t.Errorf("a stranger registers: %d", r.status)
	}
}

// A subscription's registrations go with it.
func TestRegistrationsAreDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const other = "/subscriptions/33333333-3333-4333-8333-333333333333"
	w.must(201, "PUT", other, map[string]any{"displayName": "other"})
	w.must(200, "POST", other+"/providers/Microsoft.ContainerService/unregister?api-version=2016-02-01", nil)
	w.must(202, "DELETE", other, nil)
	w.eventually("the subscription is gone", func() bool { return w.call("admin", "GET", other, nil).status == 404 })
	all, _, err := store.List[store.Registrations](t.Context(), w.store, "/arm/")
	if err != nil || len(all) != 0 {
		t.Errorf("left: %+v, %v", all, err)
	}
}

func TestMetadata(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	get := func(path string) []byte {
		t.Helper()
		res, err := w.client.Get(w.server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var raw json.RawMessage
		if err := json.NewDecoder(res.Body).Decode(&raw); err != nil || res.StatusCode != 200 && strings.Contains(path, "=2") {
			t.Fatalf("%s: %s %v %s", path, res.Status, err, raw)
		}
		return raw
	}
	var first struct {
		GalleryEndpoint, GraphEndpoint string
		Authentication                 struct {
			LoginEndpoint string
			Audiences     []string
		}
	}
	if err := json.Unmarshal(get("/metadata/endpoints?api-version=2015-01-01"), &first); err != nil || first.Authentication.LoginEndpoint != base || first.Authentication.Audiences[0] != base || first.GalleryEndpoint == "" || first.GraphEndpoint == "" {
		t.Errorf("2015-01-01: %+v, %v", first, err)
	}
	var one cloudBody
	if err := json.Unmarshal(get("/metadata/endpoints?api-version=2022-09-01"), &one); err != nil || one.ResourceManager != base || one.MicrosoftGraph == "" || one.Name == "AzureStackCloud" ||
		one.Authentication.Tenant != "common" || one.Authentication.IdentityProvider != "AAD" || one.Suffixes["storage"] == "" || one.Suffixes["keyVaultDns"] == "" {
		t.Errorf("2022-09-01: %+v, %v", one, err)
	}
	var many []cloudBody
	if err := json.Unmarshal(get("//metadata/endpoints?api-version=2019-05-01"), &many); err != nil || len(many) != 1 || many[0].Name != cloudName {
		t.Errorf("2019-05-01: %+v, %v", many, err)
	}
	var places struct {
		CloudEndpoint map[string]struct {
			Endpoint  string
			Locations []string
		}
	}
	if err := json.Unmarshal(get("//metadata/endpoints?api-version=2018-01-01"), &places); err != nil || fmt.Sprint(places.CloudEndpoint[cloudName].Locations) != "[local westeurope]" {
		t.Errorf("2018-01-01: %+v, %v", places, err)
	}
	for path, code := range map[string]string{"/metadata/endpoints": arm.MissingAPIVersionParameter, "/metadata/endpoints?api-version=wrong": arm.InvalidAPIVersionParameter} {
		if !strings.Contains(string(get(path)), code) {
			t.Errorf("%s does not say %s", path, code)
		}
	}
}
