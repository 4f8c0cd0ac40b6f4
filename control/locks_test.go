package control

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// lockPath is a lock at a scope.
func lockPath(scope, name string) string { return scope + authorization + "locks/" + name }

func level(l string) map[string]any { return props("level", l) }

// locked is a call that a lock at a scope must stop.
func (w *world) locked(verb, target, at, method, path string, body any) {
	w.t.Helper()
	r := w.refused(409, arm.ScopeLocked, method, path, body)
	want := "The scope '" + target + "' cannot perform " + verb + " operation because following scope(s) are locked: '" + at + "'. Please remove the lock and try again."
	if r.text("error.message") != want {
		w.t.Errorf("%s %s:\n%s\nwant\n%s", method, path, r.text("error.message"), want)
	}
}

func TestLocksAreResources(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	at := lockPath(clusterPath, "Keep")
	r := w.must(201, "PUT", at, props("level", "canNotDelete", "notes", "for the audit", "owners", []any{map[string]any{"applicationId": newUID()}}))
	if r.text("id") != at || r.text("name") != "Keep" || r.text("type") != lockType || r.text("properties.level") != canNotDelete ||
		r.text("properties.notes") != "for the audit" || len(r.at("properties.owners").([]any)) != 1 || r.text("systemData.createdBy") == "" {
		t.Errorf("%s", r.raw)
	}
	if again := w.must(200, "PUT", strings.ToUpper(at)+"?api-version=2016-09-01", level(readOnlyLock)); again.text("id") != at || again.text("properties.level") != readOnlyLock || again.text("properties.notes") != "" {
		t.Errorf("%s", again.raw)
	}
	read := w.must(200, "GET", at, nil)
	if read.text("properties.level") != readOnlyLock {
		t.Errorf("%s", read.raw)
	}
	w.refused(412, arm.PreconditionFailed, "PUT", at, level(readOnlyLock), "If-None-Match", "*")
	w.must(200, "PUT", at, level(readOnlyLock), "If-Match", read.header.Get("ETag"))
	w.refused(412, arm.PreconditionFailed, "PUT", at, level(readOnlyLock), "If-Match", read.header.Get("ETag"))
	w.must(204, "HEAD", at, nil)
	w.refused(404, "LockNotFound", "GET", at+"x", nil)
	w.must(204, "DELETE", at+"x", nil)
	for what, body := range map[string]any{
		"no level": props(), "another level": level("NotSpecified"), "long notes": props("level", canNotDelete, "notes", strings.Repeat("n", 513)),
		"an owner that is none": props("level", canNotDelete, "owners", []any{map[string]any{"applicationId": "x"}}),
	} {
		if r := w.call("admin", "PUT", at, body); r.status != 400 || r.text("error.code") != arm.InvalidParameter {
			t.Errorf("%s: %d %s", what, r.status, r.raw)
		}
	}
	w.refused(400, arm.InvalidParameter, "PUT", lockPath(clusterPath, "a:b"), level(canNotDelete))
	w.refused(400, arm.InvalidParameter, "PUT", lockPath("", "a"), level(canNotDelete))
	w.refused(404, arm.ResourceNotFound, "PUT", lockPath(clusterPath+"none", "a"), level(canNotDelete))
	w.refused(404, arm.ResourceGroupNotFound, "PUT", lockPath(groupPath+"none", "a"), level(canNotDelete))

	w.must(201, "PUT", lockPath(subPath, "s"), level(canNotDelete))
	w.must(201, "PUT", lockPath(groupPath, "g"), level(canNotDelete))
	names := func(scope, filter string) string {
		t.Helper()
		r := w.must(200, "GET", scope+authorization+"locks?api-version=2016-09-01&$filter="+filter, nil)
		var all []string
		for _, v := range r.body["value"].([]any) {
			all = append(all, v.(map[string]any)["name"].(string))
		}
		return strings.Join(all, " ")
	}
	for scope, want := range map[string][2]string{"": {"s g Keep", ""}, subPath: {"s g Keep", "s"}, groupPath: {"s g Keep", "s g"}, clusterPath: {"s g Keep", "s g Keep"}, sourcePath: {"s g", "s g"}} {
		if all, here := names(scope, ""), names(scope, "atScope()"); len(strings.Fields(all)) != len(strings.Fields(want[0])) || here != want[1] {
			t.Errorf("%q: %s and at scope %s, want %v", scope, all, here, want)
		}
	}
	w.refused(400, "InvalidFilterInQueryString", "GET", subPath+authorization+"locks?api-version=2016-09-01&$filter=level%20eq%20'ReadOnly'", nil)

	for range maxLocks {
		w.must(201, "PUT", lockPath(sourcePath, newUID()), level(canNotDelete))
	}
	w.refused(409, "LockLimitExceeded", "PUT", lockPath(sourcePath, "more"), level(canNotDelete))
}

// A CanNotDelete lock stands against deleting what is locked, what lies in it and
// what it lies in; a ReadOnly one against every change; and what takes access
// away passes both.
func TestLocksAreInherited(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload))
	secret := w.must(201, "POST", sourcePath+"/clientSecrets?api-version=2026-11-01", map[string]any{}).text("name")
	assigned := clusterPath + authorization + "roleAssignments/" + newUID()
	w.must(201, "PUT", assigned, props("roleDefinitionId", readerGUID, "principalId", "p"))

	for _, at := range []string{subPath, groupPath, clusterPath} {
		w.must(201, "PUT", lockPath(at, "keep"), level(canNotDelete))
		w.locked("delete", clusterPath, at, "DELETE", clusterPath, nil)
		w.locked("delete", bindingPath, at, "DELETE", bindingPath, nil)
		w.locked("delete", assigned, at, "DELETE", assigned, nil)
		// By the cluster's second name, too.
		w.locked("delete", assigned, at, "DELETE", strings.Replace(assigned, clusterPath, connectedPath, 1)+"?api-version=2022-04-01", nil)
		w.locked("delete", clusterPath+"/providers/Microsoft.KubernetesConfiguration/extensions/x", at, "DELETE", clusterPath+"/providers/Microsoft.KubernetesConfiguration/extensions/x", nil)
		w.locked("delete", groupPath, at, "DELETE", groupPath, nil)
		w.locked("delete", subPath, at, "DELETE", subPath, nil)
		w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload, inference))
		w.must(200, "PATCH", groupPath, map[string]any{"tags": map[string]string{"a": at}})

		w.must(200, "PUT", lockPath(at, "keep"), level(readOnlyLock))
		w.locked("write", bindingPath, at, "PUT", bindingPath, wants(sourcePath, mlworkload))
		again := authorization + "roleAssignments/" + newUID()
		w.locked("write", clusterPath+again, at, "PUT", connectedPath+again+"?api-version=2022-04-01", props("roleDefinitionId", readerGUID, "principalId", "p"))
		w.locked("write", clusterPath, at, "PATCH", clusterPath, map[string]any{"tags": map[string]string{}})
		w.locked("write", clusterPath, at, "POST", clusterPath+"/listClusterUserCredential", nil)
		w.locked("write", clusterPath, at, "POST", clusterPath+"/start", nil)
		w.locked("delete", clusterPath, at, "DELETE", clusterPath, nil)
		w.must(200, "GET", bindingPath, nil)
		w.finished(w.must(202, "POST", clusterPath+"/stop", nil))

		w.must(200, "DELETE", lockPath(at, "keep"), nil)
		w.finished(w.must(202, "POST", clusterPath+"/start", nil))
	}

	w.must(201, "PUT", lockPath(bindingPath, "keep"), level(canNotDelete))
	w.locked("delete", clusterPath, bindingPath, "DELETE", clusterPath, nil)
	w.locked("delete", groupPath, bindingPath, "DELETE", groupPath, nil)
	w.locked("delete", subPath, bindingPath, "DELETE", subPath, nil)
	w.must(201, "PUT", lockPath(sourcePath, "ro"), level(readOnlyLock))
	r := w.refused(409, arm.ScopeLocked, "DELETE", groupPath, nil)
	if m := r.text("error.message"); !strings.Contains(m, "'"+bindingPath+"','"+sourcePath+"'") {
		t.Error(m)
	}
	w.locked("write", sourcePath, sourcePath, "POST", sourcePath+"/clientSecrets?api-version=2026-11-01", map[string]any{})
	w.locked("delete", sourcePath, sourcePath, "DELETE", sourcePath, nil)
	w.must(200, "DELETE", sourcePath+"/clientSecrets/"+secret+"?api-version=2026-11-01", nil)

	// A lock keeps a binding, and not what it allows.
	w.must(200, "DELETE", lockPath(sourcePath, "ro"), nil)
	w.must(200, "DELETE", sourcePath, nil)
	if b := w.binding(bindingPath); b.Value.State != arm.Failed || len(b.Value.Grants) != 0 {
		t.Errorf("%+v", b.Value)
	}
	w.must(200, "DELETE", lockPath(bindingPath, "keep"), nil)
	w.finished(w.must(202, "DELETE", groupPath, nil))
	left, _, err := store.List[store.ManagementLock](t.Context(), w.store, store.LocksPrefix)
	if err != nil || len(left) != 0 {
		t.Errorf("left: %+v, %v", left, err)
	}
}

// Only who may assign roles may lock and unlock, and nobody learns of a lock
// without the right that it stands against.
func TestWhoMayLock(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	for token, guid := range map[string]string{"owner": ownerGUID, "access": accessAdminGUID, "contributor": contributorGUID, "reader": readerGUID} {
		w.caller(token, "oid-"+token, nil)
		w.must(201, "PUT", groupPath+authorization+"roleAssignments/"+newUID(), props("roleDefinitionId", guid, "principalId", "oid-"+token))
	}
	for token, want := range map[string][3]int{"owner": {201, 200, 200}, "access": {201, 200, 200}, "contributor": {403, 200, 403}, "reader": {403, 200, 403}, "stranger": {403, 403, 403}} {
		at := lockPath(groupPath, token)
		if r := w.call(token, "PUT", at, level(canNotDelete)); r.status != want[0] {
			t.Errorf("%s locks: %d %s", token, r.status, r.raw)
		}
		if r := w.call(token, "GET", groupPath+authorization+"locks", nil); r.status != want[1] {
			t.Errorf("%s lists: %d %s", token, r.status, r.raw)
		}
		if r := w.call(token, "DELETE", at, nil); r.status != want[2] {
			t.Errorf("%s unlocks: %d %s", token, r.status, r.raw)
		}
	}
	w.must(201, "PUT", lockPath(subPath, "ro"), level(readOnlyLock))
	for _, f := range [][2]string{{"DELETE", clusterPath}, {"POST", subPath + "/providers/Microsoft.ContainerService/register?api-version=2021-04-01"}, {"PUT", clusterPath}} {
		if r := w.call("stranger", f[0], f[1], nil); r.status != 403 {
			t.Errorf("a stranger's %s %s: %d %s", f[0], f[1], r.status, r.raw)
		}
	}
	w.locked("write", subPath, subPath, "POST", subPath+"/providers/Microsoft.ContainerService/register?api-version=2021-04-01", nil)
	w.locked("write", subPath, subPath, "PUT", subPath, map[string]any{"displayName": "x"})
	same(t, "failures", w.entries("admin", subPath, "status eq 'Failed'"),
		"Microsoft.ContainerService/register/action Failed "+w.callers["admin"].Object)
}

// What is being deleted is past being locked.
func TestNoLockOnWhatGoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	group, err := store.Get[store.Group](t.Context(), w.store, store.ResourceKey(groupPath))
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := store.Get[store.Cluster](t.Context(), w.store, store.ResourceKey(clusterPath))
	if err != nil {
		t.Fatal(err)
	}
	w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload))
	cluster.Value.Deleting = true
	if _, err := w.store.Commit(t.Context(), store.Put(cluster.Value)); err != nil {
		t.Fatal(err)
	}
	w.refused(409, arm.OperationNotAllowed, "PUT", lockPath(clusterPath, "l"), level(canNotDelete))
	w.refused(409, arm.OperationNotAllowed, "PUT", lockPath(bindingPath, "l"), level(canNotDelete))
	group.Value.Deleting = true
	if _, err := w.store.Commit(t.Context(), store.Put(group.Value)); err != nil {
		t.Fatal(err)
	}
	w.refused(409, arm.ResourceGroupBeingDeleted, "PUT", lockPath(groupPath, "l"), level(canNotDelete))
	w.refused(409, arm.ResourceGroupBeingDeleted, "PUT", lockPath(sourcePath, "l"), level(canNotDelete))
}

// Of a lock and a deletion at the same time, one is first: what was locked with
// success is there, and its lock with it.
func TestLockingRacesDeleting(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	won := map[bool]int{}
	for range 30 {
		w.must(200, "PUT", sourcePath, map[string]any{"location": "local"})
		var locked, deleted *reply
		var wg sync.WaitGroup
		wg.Go(func() { locked, _ = w.try("admin", "PUT", lockPath(sourcePath, "l"), level(canNotDelete)) })
		wg.Go(func() { deleted, _ = w.try("admin", "DELETE", sourcePath, nil) })
		wg.Wait()
		there := w.call("admin", "GET", sourcePath, nil).status == 200
		switch {
		case locked == nil || deleted == nil:
			t.Fatal("no answer")
		case locked.status == 201 && (!there || deleted.status != 409):
			t.Fatalf("locked, and deleted: %d %s", deleted.status, deleted.raw)
		case locked.status != 201 && there && deleted.status == 200:
			t.Fatalf("deleted, and there: %d %s", locked.status, locked.raw)
		}
		won[locked.status == 201]++
		w.must(map[bool]int{true: 200, false: 204}[locked.status == 201], "DELETE", lockPath(sourcePath, "l"), nil)
	}
	t.Logf("locked first: %d, deleted first: %d", won[true], won[false])
}

// That nobody locks between the question and the change is part of the change.
func TestALockBetweenQuestionAndChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	group, err := arm.ParseID(groupPath)
	if err != nil {
		t.Fatal(err)
	}
	_, quiet, err := w.control.locksAround(t.Context(), group, true)
	if err != nil {
		t.Fatal(err)
	}
	w.must(201, "PUT", lockPath(clusterPath, "l"), level(canNotDelete))
	ctx := context.WithValue(t.Context(), activityKey{}, &pendingActivity{Activity: store.Activity{ID: newUID(), Time: w.now()}, quiet: quiet})
	if _, err := w.control.commit(ctx, store.Delete(store.ResourceKey(groupPath), 0)); trust.KindOf(err) != trust.Conflict {
		t.Errorf("%v", err)
	}
	w.must(200, "GET", groupPath, nil)
}
