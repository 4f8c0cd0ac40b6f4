package control

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// names are those of a list that is asked for with a query, all pages of it.
func (w *world) names(in, query string) []string {
	w.t.Helper()
	names := []string{}
	for next := in + "?api-version=2021-04-01&" + query; next != ""; {
		r := w.must(200, "GET", next, nil)
		for _, v := range r.at("value").([]any) {
			names = append(names, v.(map[string]any)["name"].(string))
		}
		next = r.text("nextLink")
	}
	return names
}

func filterQuery(filter string) string { return url.Values{"$filter": {filter}}.Encode() }

func TestListResources(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	w.must(200, "PATCH", clusterPath, map[string]any{"tags": map[string]string{"Team": "a"}})
	principal := w.must(200, "GET", sourcePath, nil).text("identity.principalId")
	for filter, want := range map[string]string{
		"": "blue w1", "name eq 'w1'": "w1", "name ne 'w1'": "blue",
		"resourceType eq 'microsoft.containerservice/managedclusters'":                               "blue",
		"resourceType ne 'microsoft.containerservice/managedclusters'":                               "w1",
		"name eq 'w1' and resourceType eq '" + clusterType + "'":                                     "",
		"resourceType eq 'A.B/c' or resourceType eq '" + clusterType + "'":                           "blue",
		"resourceGroup eq 'RG' and location eq 'Local'":                                              "blue w1",
		"resourceGroup eq 'other'":                                                                   "",
		"resourceGroup ne 'other'":                                                                   "blue w1",
		"location eq 'mars'":                                                                         "",
		"substringof('LU', name)":                                                                    "blue",
		"substringof('x', name) or substringof('w', name) and resourceType ne '" + clusterType + "'": "w1",
		"substringof('r', resourceGroup)":                                                            "blue w1",
		"identity/principalId eq '" + principal + "'":                                                "w1",
		"tagName eq 'team'":                                                                          "blue",
		"tagname eq 'team' and tagvalue eq 'a'":                                                      "blue",
		"tagname eq 'team' and tagvalue eq 'b'":                                                      "",
		"startswith(tagname, 'te')":                                                                  "blue",
		"startswith(tagname, 'ta')":                                                                  "",
	} {
		for _, in := range []string{subPath, groupPath} {
			if got := strings.Join(w.names(in+"/resources", filterQuery(filter)), " "); got != want {
				t.Errorf("%s %q: %s, want %s", in, filter, got, want)
			}
		}
	}
	for _, bad := range []string{"kind eq 'x'", "name gt 'x'", "tagValue eq 'a'", "tagname ne 'a'", "substringof('a', location)", "atScope()", "(name eq 'a')"} {
		w.refused(400, "InvalidFilterInQueryString", "GET", subPath+"/resources?api-version=2021-04-01&"+filterQuery(bad), nil)
	}
}

// A list has what Azure's has of each resource, and with $expand what was asked
// for besides.
func TestListResourcesShows(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	w.must(200, "PUT", clusterPath, map[string]any{"location": "local", "sku": map[string]any{"name": "Base"}, "properties": map[string]any{}})
	w.must(200, "PUT", sourcePath, map[string]any{"location": "local", "kind": "Hub", "managedBy": clusterPath})
	r := w.must(200, "GET", subPath+"/resources", nil)
	identity := w.must(200, "GET", sourcePath, nil).at("identity").(map[string]any)
	delete(identity, "clientId")
	want := []any{
		map[string]any{"id": clusterPath, "name": "blue", "type": clusterType, "location": "local", "sku": map[string]any{"name": "Base"}},
		map[string]any{"id": sourcePath, "name": "w1", "type": "Microsoft.MachineLearningServices/workspaces", "location": "local", "kind": "Hub", "managedBy": clusterPath, "identity": identity},
	}
	if diff := cmp.Diff(want, r.at("value")); diff != "" {
		t.Error(diff)
	}
	// As az resource list asks.
	r = w.must(200, "GET", subPath+"/resources?api-version=2021-04-01&$expand=createdTime%2CchangedTime%2CprovisioningState", nil)
	for _, v := range r.at("value").([]any) {
		one := reply{body: v.(map[string]any)}
		if one.text("createdTime") == "" || one.text("changedTime") < one.text("createdTime") || one.text("provisioningState") != "Succeeded" {
			t.Errorf("%v", v)
		}
	}
}

// Every resource is on one page, whatever a page holds and a filter leaves out.
func TestResourcesArePaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	want := []string{"blue", "w1"}
	for i := range 7 {
		name := fmt.Sprintf("s%d", i)
		w.must(200, "PUT", groupPath+"/providers/A.B/c/"+name, map[string]any{"tags": map[string]string{"odd": fmt.Sprint(i % 2)}})
		want = append(want, name)
	}
	slices.Sort(want)
	for _, top := range []int{1, 2, 3, 9, 100} {
		got := w.names(subPath+"/resources", fmt.Sprintf("$top=%d", top))
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("$top=%d: %s", top, diff)
		}
		odd := w.names(groupPath+"/resources", fmt.Sprintf("$top=%d&", top)+filterQuery("tagname eq 'odd' and tagvalue eq '1'"))
		if diff := cmp.Diff([]string{"s1", "s3", "s5"}, odd); diff != "" {
			t.Errorf("$top=%d, filtered: %s", top, diff)
		}
	}
	w.refused(400, "InvalidSkipToken", "GET", subPath+"/resources?api-version=2021-04-01&$skipToken=*", nil)
}

// As az group list --tag asks.
func TestGroupsAreFiltered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, tags := range map[string]map[string]string{"a": {"Team": "x"}, "b": {"team": "y"}, "c": nil} {
		w.must(201, "PUT", subPath+"/resourceGroups/"+name, map[string]any{"location": "local", "tags": tags})
	}
	for filter, want := range map[string]string{"": "a b c", "tagname eq 'team'": "a b", "tagname eq 'team' and tagvalue eq 'y'": "b", "tagname eq 'none'": ""} {
		if got := strings.Join(w.names(subPath+"/resourceGroups", "$top=1&"+filterQuery(filter)), " "); got != want {
			t.Errorf("%q: %s, want %s", filter, got, want)
		}
	}
	w.refused(400, "InvalidFilterInQueryString", "GET", subPath+"/resourceGroups?api-version=2021-04-01&"+filterQuery("name eq 'a'"), nil)
}
