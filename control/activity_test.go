package control

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const events = "/providers/Microsoft.Insights/eventtypes/management/values"

// entries are what a list of the activity log shows: operation, status and
// caller of each, the newest first.
func (w *world) entries(token, scope, filter string) []string {
	w.t.Helper()
	r := w.call(token, "GET", scope+events+"?api-version=2015-04-01&$filter="+url.QueryEscape(filter), nil)
	if r.status != 200 {
		w.t.Fatalf("%q: %d %s", filter, r.status, r.raw)
	}
	list, _ := r.body["value"].([]any)
	all := []string{}
	for _, v := range list {
		one := reply{body: v.(map[string]any)}
		all = append(all, strings.Join([]string{one.text("operationName.value"), one.text("status.value"), one.text("caller")}, " "))
	}
	return all
}

func same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Every change is in the activity log, with who made it, and nothing of what was
// sent; so are refusals of what was wrong. Who may do nothing leaves nothing.
func TestActivityLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	admin := w.callers["admin"].Object
	start := w.now()
	w.must(201, "PUT", groupPath, map[string]any{"location": "local", "tags": map[string]string{"k": "hidden-value"}},
		"x-ms-correlation-request-id", "55555555-5555-4555-8555-555555555555", "User-Agent", "AZURECLI/2.45")
	w.must(201, "PUT", clusterPath, map[string]any{"location": "local"})
	w.must(200, "PUT", sourcePath, map[string]any{"location": "local", "identity": map[string]any{"type": "SystemAssigned"}})
	w.must(200, "GET", clusterPath, nil)
	w.refused(400, "InvalidParameter", "PUT", bindingPath, wants(sourcePath, "hidden-value"))
	if r := w.call("stranger", "PUT", clusterPath, map[string]any{"location": "local"}); r.status != 403 {
		t.Fatal(r.status)
	}
	w.finished(w.must(202, "POST", clusterPath+"/stop", nil))
	w.must(201, "PUT", clusterPath+authorization+"roleAssignments/"+newUID(), props("roleDefinitionId", readerGUID, "principalId", "p"))
	w.must(204, "DELETE", bindingPath, nil)
	w.must(200, "POST", subPath+"/providers/Microsoft.ContainerService/register?api-version=2021-04-01", nil)

	same(t, "all", w.entries("admin", subPath, ""),
		"Microsoft.ContainerService/register/action Succeeded "+admin,
		"Microsoft.ContainerService/managedClusters/trustedAccessRoleBindings/delete Succeeded "+admin,
		"Microsoft.Authorization/roleAssignments/write Succeeded "+admin,
		"Microsoft.ContainerService/managedClusters/write Succeeded "+admin, // the end of the stop
		"Microsoft.ContainerService/managedClusters/stop/action Accepted "+admin,
		"Microsoft.ContainerService/managedClusters/trustedAccessRoleBindings/write Failed "+admin,
		"Microsoft.MachineLearningServices/workspaces/write Succeeded "+admin,
		"Microsoft.ContainerService/managedClusters/write Succeeded "+admin,
		"Microsoft.Resources/subscriptions/resourceGroups/write Succeeded "+admin)

	// As az monitor activity-log list asks.
	window := "eventTimestamp ge " + start.Add(-time.Hour).UTC().Format("2006-01-02T15:04:05.000000Z") + " and eventTimestamp le " + start.Add(time.Hour).UTC().Format("2006-01-02T15:04:05.000000Z")
	for _, tt := range []struct {
		filter string
		want   int
	}{
		{window, 9}, {window + " and resourceGroupName eq 'RG'", 8}, {window + " and resourceId eq '" + strings.ToUpper(clusterPath) + "'", 6},
		{window + " and resourceProvider eq 'Microsoft.MachineLearningServices'", 1}, {window + " and correlationId eq '55555555-5555-4555-8555-555555555555'", 1},
		{window + " and caller eq 'somebody'", 0}, {window + " and caller eq '" + admin + "' and status eq 'Failed'", 1},
		{"eventTimestamp le '" + start.Add(-time.Hour).UTC().Format(time.RFC3339) + "'", 0}, {"eventTimestamp ge '" + start.Add(time.Hour).UTC().Format(time.RFC3339) + "'", 0},
	} {
		if got := w.entries("admin", subPath, tt.filter); len(got) != tt.want {
			t.Errorf("%q: %d entries, want %d: %v", tt.filter, len(got), tt.want, got)
		}
	}
	for _, bad := range []string{"eventTimestamp ge yesterday", "colour eq 'red'", "resourceId eq '/subscriptions/" + newUID() + "'"} {
		if r := w.call("admin", "GET", subPath+events+"?api-version=2015-04-01&$filter="+url.QueryEscape(bad), nil); r.status != 400 {
			t.Errorf("%q: %d %s", bad, r.status, r.raw)
		}
	}
	r := w.must(200, "GET", subPath+events+"?api-version=2015-04-01&$select=caller,status&$filter="+url.QueryEscape("status eq 'Failed'"), nil)
	one := reply{body: r.body["value"].([]any)[0].(map[string]any)}
	if len(one.body) != 2 || one.text("caller") != admin {
		t.Errorf("$select: %s", r.raw)
	}
	r = w.must(200, "GET", subPath+events+"?api-version=2015-04-01&$filter="+url.QueryEscape("status eq 'Failed'"), nil)
	one = reply{body: r.body["value"].([]any)[0].(map[string]any)}
	if one.text("resourceId") != bindingPath || one.text("subStatus.value") != "BadRequest" || one.text("properties.statusCode") != "InvalidParameter" || one.text("resourceGroupName") != "rg" ||
		one.text("resourceProviderName.value") != "Microsoft.ContainerService" || one.text("httpRequest.method") != "PUT" || one.text("httpRequest.clientIpAddress") != "127.0.0.1" {
		t.Errorf("%s", r.raw)
	}
	// Pages.
	var paged []any
	for next, n := subPath+events+"?api-version=2015-04-01&$top=4", 0; next != ""; n++ {
		r := w.must(200, "GET", next, nil)
		paged = append(paged, r.body["value"].([]any)...)
		if next = r.text("nextLink"); n > 5 {
			t.Fatal("pages do not end")
		}
	}
	if len(paged) != 9 {
		t.Errorf("%d entries in pages of 4", len(paged))
	}
	kv, _, err := store.List[store.Activity](t.Context(), w.store, store.ActivityPrefix)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range kv {
		if raw := w.call("admin", "GET", subPath+events+"?api-version=2015-04-01", nil).raw; strings.Contains(string(raw), "hidden-value") || strings.Contains(e.Value.Code, "hidden") {
			t.Fatalf("an entry holds what was sent: %s", raw)
		}
	}
	// Who may read it: of a group, whoever may read the group.
	w.caller("reader", "oid-reader", nil)
	w.must(201, "PUT", groupPath+authorization+"roleAssignments/"+newUID(), props("roleDefinitionId", readerGUID, "principalId", "oid-reader"))
	if r := w.call("reader", "GET", subPath+events+"?api-version=2015-04-01", nil); r.status != 403 {
		t.Errorf("a reader of a group, of the subscription: %d", r.status)
	}
	if got := w.entries("reader", subPath, "resourceGroupName eq 'rg'"); len(got) != 9 {
		t.Errorf("a reader of a group, of the group: %v", got)
	}
	// What lies in no subscription.
	second := "/subscriptions/" + newUID()
	w.must(201, "PUT", second, map[string]any{"displayName": "second"})
	w.finished(w.must(202, "DELETE", second, nil))
	same(t, "the root", w.entries("admin", "", ""),
		"Microsoft.Resources/subscriptions/delete Succeeded "+admin,
		"Microsoft.Resources/subscriptions/delete Accepted "+admin,
		"Microsoft.Resources/subscriptions/write Succeeded "+admin)
}

// The entry of a change is in its transaction: there is no revision of the store
// with the one and not the other.
func TestActivityIsPartOfTheChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload))
	for path, of := range map[string]string{groupPath: groupPath, clusterPath: clusterPath, sourcePath: sourcePath} {
		at, err := store.Get[anyRecord](t.Context(), w.store, store.ResourceKey(path))
		if err != nil {
			t.Fatal(err)
		}
		w.entryAt(of, at.Created)
	}
	b := w.binding(bindingPath)
	w.entryAt(bindingPath, b.Created)
}

func (w *world) entryAt(resource string, revision int64) {
	w.t.Helper()
	all, _, err := store.List[store.Activity](w.t.Context(), w.store, store.ActivityPrefix)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range all {
		if e.Created == revision && trust.Fold(e.Value.Resource) == trust.Fold(resource) {
			return
		}
	}
	w.t.Errorf("revision %d made %s without an entry", revision, resource)
}

// The log is bounded by age and number, in each subscription by itself.
func TestActivityIsForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.ActivityAge, c.ActivityMost = time.Hour, 20 })
	put := func(subscription string, age time.Duration, n int) {
		for range n {
			age += time.Millisecond
			e := store.Activity{ID: newUID(), Time: w.now().Add(-age), Subscription: subscription, Resource: "/subscriptions/" + subscription}
			if _, err := w.store.Commit(t.Context(), store.Put(e)); err != nil {
				t.Fatal(err)
			}
		}
	}
	other, gone := newUID(), newUID()
	put(subscription, time.Minute, 30)
	put(other, time.Minute, 5)
	put(other, 2*time.Hour, 5)
	put(gone, 2*time.Hour, 5)
	put("", time.Minute, 3)
	if err := w.control.forgetOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	for of, want := range map[string]int{subscription: 18, other: 5, gone: 0, "": 3} {
		n, err := w.store.Count(t.Context(), store.ActivitiesOf(of))
		if err != nil || n != want {
			t.Errorf("%q has %d entries, %v, want %d", of, n, err, want)
		}
	}
}

// The filters that az monitor activity-log list and az role assignment
// list-changelogs build, times as Python writes them.
func TestActivityFiltersOfAz(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(201, "PUT", groupPath, map[string]any{"location": "local"})
	w.must(201, "PUT", groupPath+authorization+"roleAssignments/"+newUID(), props("roleDefinitionId", readerGUID, "principalId", "p"))
	admin := w.callers["admin"].Object
	from, to := w.now().UTC().Add(-6*time.Hour), w.now().UTC().Add(time.Minute)
	const python, zulu, offset = "2006-01-02T15:04:05.000000", "2006-01-02T15:04:05Z", "2006-01-02T15:04:05-07:00"
	group, assignment := subscriptionType+"/resourceGroups/write Succeeded "+admin, assignmentType+"/write Succeeded "+admin
	for _, form := range []string{python, zulu, offset} {
		times := "eventTimestamp ge " + from.Format(form) + " and eventTimestamp le " + to.Format(form)
		for filter, want := range map[string][]string{
			times: {assignment, group},
			times + " and resourceGroupName eq 'rg' and caller eq '" + admin + "' and status eq 'Succeeded'": {assignment, group},
			times + " and resourceId eq '" + groupPath + "'":                                                 {assignment, group},
			times + " and resourceProvider eq 'Microsoft.Authorization'":                                     {assignment},
			"resourceProvider eq Microsoft.Authorization and " + times:                                       {assignment},
			times + " and correlationId eq '" + newUID() + "'":                                               {},
			times + " and status eq 'Failed'":                                                                {},
		} {
			same(t, filter, w.entries("admin", subPath, filter), want...)
		}
	}
}
