package control

import (
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const (
	peoplePath = groupPath + "/providers/Sallyport.Identity/groups/platform"
	viewer     = "Sallyport.Identity/groups/viewer"
	usersPath  = "/providers/Sallyport.Identity/users"
)

// withUsers lets a control plane make users, with a hash that the test can read.
func withUsers(c *Config) {
	c.HashPassword = func(password string) (string, error) {
		if len(password) < 12 {
			return "", trust.Errorf(trust.Invalid, "a password has at least 12 characters")
		}
		return "hash of " + password, nil
	}
	c.VerifyPassword = func(hash, password string) bool { return hash == "hash of "+password }
}

func TestGroupsOfPeople(t *testing.T) {
	w := newWorld(t)
	w.must(201, "PUT", groupPath, map[string]any{"location": "local"})
	r := w.must(201, "PUT", peoplePath, map[string]any{"tags": map[string]string{"a": "1"}})
	id := r.text("properties.principalId")
	if r.text("properties.issuer") != issuer || r.text("properties.tenantId") != tenant || r.text("properties.group") != "platform" || !arm.ValidGUID(id) || r.text("type") != groupSourceType || r.at("identity") != nil {
		t.Errorf("%s", r.raw)
	}
	// The same again, and with what it answered, changes nothing.
	w.must(200, "PUT", peoplePath, map[string]any{})
	if r := w.must(200, "PUT", peoplePath, r.body); r.text("properties.principalId") != id {
		t.Errorf("%s", r.raw)
	}
	for name, body := range map[string]map[string]any{
		"another group": props("group", "other"), "another issuer": props("issuer", "https://login.example.com"), "another tenant": props("tenantId", "x"),
		"no URL": props("issuer", "x"), "http": props("issuer", "http://login.example.com"), "query": props("issuer", "https://login.example.com?x"), "long": props("group", strings.Repeat("x", 300)), "a list": props("group", []string{"x"}),
	} {
		if r := w.call("admin", "PUT", peoplePath, body); r.status != 400 || r.text("error.code") != arm.InvalidParameter {
			t.Errorf("%s: %d %s", name, r.status, r.raw)
		}
	}
	other := groupPath + "/providers/Sallyport.Identity/groups/outside"
	if r := w.must(201, "PUT", other, props("issuer", "https://login.example.com/x", "tenantId", "Corp", "group", "Oncall@corp")); r.text("properties.tenantId") != "corp" || r.text("properties.group") != "Oncall@corp" {
		t.Errorf("%s", r.raw)
	}
	if r := w.must(200, "GET", groupPath+"/providers/Sallyport.Identity/groups", nil); len(r.body["value"].([]any)) != 2 {
		t.Errorf("%s", r.raw)
	}
	if r := w.must(200, "PATCH", peoplePath, map[string]any{"tags": map[string]string{"b": "2"}}); r.text("tags.b") != "2" || r.text("properties.principalId") != id {
		t.Errorf("%s", r.raw)
	}
	w.refused(400, arm.InvalidParameter, "PUT", groupPath+"/providers/Sallyport.Identity/groups/a.b", nil)
	// It is no service: it has no secret and nothing that stands for it.
	for _, child := range []string{"clientSecrets", "federatedIdentityCredentials", "clientCertificates"} {
		if r := w.call("admin", "GET", peoplePath+"/"+child, nil); r.status != 404 {
			t.Errorf("%s: %d %s", child, r.status, r.raw)
		}
	}
	w.must(200, "DELETE", peoplePath, nil)
	w.must(204, "DELETE", peoplePath, nil)
	if left, _, err := store.List[store.RegisteredGroup](t.Context(), w.store, store.GroupPrefix); err != nil || len(left) != 1 {
		t.Errorf("%d groups are registered, %v", len(left), err)
	}
	if r := w.must(201, "PUT", peoplePath, map[string]any{}); r.text("properties.principalId") == id {
		t.Error("a group made anew has the old principal id")
	}
}

// A binding to a group: the same roles, acceptance and life as any other's; what
// it lets in is the group of its issuer.
func TestAGroupIsBoundLikeAService(t *testing.T) {
	w := newWorld(t).scene()
	rules := []trust.Rule{{Verbs: []string{"get", "list"}, APIGroups: []string{""}, Resources: []string{"pods"}}}
	w.must(201, "PUT", subPath+"/providers/Sallyport.Access/trustedAccessRoles/Sallyport.Identity:groups:viewer", props("rules", rules))
	w.must(201, "PUT", peoplePath, props("issuer", "https://login.example.com/x", "tenantId", "corp", "group", "oncall"))
	w.runAgents(clusterPath, []mandate.Accepted{{Role: viewer, Revision: trust.RevisionOf(rules), Rules: rules}})
	w.refused(400, arm.InvalidParameter, "PUT", bindingPath, wants(peoplePath, mlworkload))
	w.refused(400, arm.InvalidParameter, "PUT", bindingPath, wants(sourcePath, viewer))
	w.refused(400, arm.InvalidParameter, "PUT", bindingPath, wants(peoplePath+"x", viewer))
	w.finished(w.must(201, "PUT", bindingPath, wants(peoplePath, viewer)))
	b := w.binding(bindingPath).Value
	if want := (trust.Principal{Issuer: "https://login.example.com/x", Tenant: "corp", Object: "oncall"}); b.Source != want || len(b.Grants) != 1 || b.State != arm.Succeeded {
		t.Fatalf("%+v", b)
	}
	// The group's end is the binding's, until it is consented to again.
	w.must(200, "DELETE", peoplePath, nil)
	if b := w.binding(bindingPath).Value; b.Source != (trust.Principal{}) || len(b.Grants) != 0 || b.State != arm.Failed {
		t.Errorf("%+v", b)
	}
}

// A role assignment to a group is for those whose token says so, of the group's
// own issuer and tenant.
func TestAssignmentsToGroups(t *testing.T) {
	w := newWorld(t)
	w.must(201, "PUT", groupPath, map[string]any{"location": "local"})
	id := w.must(201, "PUT", peoplePath, props("issuer", "https://login.example.com/x", "group", "oncall")).text("properties.principalId")
	w.must(201, "PUT", groupPath+"/providers/Microsoft.Authorization/roleAssignments/"+newUID(), props("roleDefinitionId", "/providers/"+definitionType+"/"+readerGUID, "principalId", id, "principalType", "Group"))
	person := func(change func(*trust.Caller)) int {
		c := w.caller("person", "12121212-0000-4000-8000-000000000000", func(c *trust.Caller) {
			c.Name, c.Groups, c.GroupIssuer = "anna", []string{"other", "oncall"}, "https://login.example.com/x"
			if change != nil {
				change(c)
			}
		})
		return w.call(c, "GET", groupPath, nil).status
	}
	if got := person(nil); got != 200 {
		t.Errorf("a member: %d", got)
	}
	for name, change := range map[string]func(*trust.Caller){
		"in no group":                func(c *trust.Caller) { c.Groups = nil },
		"of another group":           func(c *trust.Caller) { c.Groups = []string{"other"} },
		"of another issuer":          func(c *trust.Caller) { c.GroupIssuer = issuer },
		"whose group is the id":      func(c *trust.Caller) { c.Groups = []string{id} },
		"whose object is the id":     func(c *trust.Caller) { c.Groups, c.Object = nil, id },
		"in other letters":           func(c *trust.Caller) { c.Groups = []string{"Oncall"} },
		"that is a managed identity": func(c *trust.Caller) { c.ResourceID = sourcePath },
	} {
		if got := person(change); got != 403 {
			t.Errorf("somebody %s: %d", name, got)
		}
	}
	w.must(200, "DELETE", peoplePath, nil)
	if got := person(nil); got != 403 {
		t.Errorf("after the group was removed: %d", got)
	}
}

func TestUsers(t *testing.T) {
	w := newWorld(t, withUsers)
	anna := usersPath + "/anna@example.com"
	r := w.must(201, "PUT", anna, props("displayName", "Anna", "groups", []string{"platform", "oncall", "platform"}))
	password, oid := r.text("properties.password"), r.text("properties.objectId")
	if len(password) < 24 || !arm.ValidGUID(oid) || r.text("properties.userPrincipalName") != "anna@example.com" || r.at("properties.accountEnabled") != true || len(r.at("properties.groups").([]any)) != 2 {
		t.Errorf("%s", r.raw)
	}
	hash := func() string {
		p, err := store.Get[store.Password](t.Context(), w.store, store.Password{Name: "ANNA@example.com"}.Key())
		if err != nil {
			t.Fatal(err)
		}
		return p.Value.Hash
	}
	w.refused(412, arm.PreconditionFailed, "PUT", anna, props("password", "another one, long enough"), "If-None-Match", "*")
	w.refused(412, arm.PreconditionFailed, "PUT", usersPath+"/nobody", props("displayName", "Nobody"), "If-Match", "*")
	if hash() != "hash of "+password {
		t.Errorf("stored %s", hash())
	}
	// It is shown once, and what is not named stays.
	if r := w.must(200, "GET", anna, nil); strings.Contains(string(r.raw), "assword") {
		t.Errorf("%s", r.raw)
	}
	if r := w.must(200, "PUT", usersPath+"/Anna@Example.com", props("accountEnabled", false)); r.text("properties.displayName") != "Anna" || r.text("properties.objectId") != oid || r.at("properties.accountEnabled") != false || strings.Contains(string(r.raw), "assword") {
		t.Errorf("%s", r.raw)
	}
	w.must(200, "PUT", anna, props("accountEnabled", true, "password", "a long enough one"))
	if hash() != "hash of a long enough one" {
		t.Errorf("stored %s", hash())
	}
	if r := w.must(200, "POST", anna+"/resetPassword", nil); len(r.text("properties.password")) < 24 || hash() != "hash of "+r.text("properties.password") {
		t.Errorf("%s", r.raw)
	}
	if r := w.must(200, "POST", anna+"/resetPassword", map[string]any{"password": "another long one"}); strings.Contains(string(r.raw), "another") {
		t.Errorf("%s", r.raw)
	}
	before, err := store.Get[store.User](t.Context(), w.store, store.User{Name: "anna@example.com"}.Key())
	if err != nil {
		t.Fatal(err)
	}
	w.must(200, "POST", anna+"/revokeSignInSessions", nil)
	after, err := store.Get[store.User](t.Context(), w.store, before.Value.Key())
	if err != nil || before.Value.SessionsFrom.IsZero() || !after.Value.SessionsFrom.After(before.Value.SessionsFrom) {
		t.Errorf("%+v, %v", after, err)
	}
	for name, body := range map[string]map[string]any{"short password": props("password", "x"), "odd group": props("groups", []string{"a b"}), "long name": props("displayName", strings.Repeat("x", 300))} {
		if r := w.call("admin", "PUT", usersPath+"/bert", body); r.status != 400 {
			t.Errorf("%s: %d %s", name, r.status, r.raw)
		}
	}
	for _, name := range []string{"a%20b", ".x", "x.", strings.Repeat("x", 65), "%C3%A9"} {
		if r := w.call("admin", "PUT", usersPath+"/"+name, props("displayName", "x")); r.status != 400 {
			t.Errorf("%s: %d %s", name, r.status, r.raw)
		}
	}
	// A provider's person can be shut out, and nothing else.
	const guest = usersPath + "/12121212-0000-4000-8000-00000000000a"
	w.refused(400, arm.InvalidParameter, "PUT", guest, props("password", "long enough for one"))
	w.refused(400, arm.InvalidParameter, "PUT", guest, props("accountEnabled", false, "groups", []string{"platform"}))
	if r := w.must(201, "PUT", guest, props("accountEnabled", false)); r.text("properties.objectId") != "12121212-0000-4000-8000-00000000000a" || strings.Contains(string(r.raw), "assword") {
		t.Errorf("%s", r.raw)
	}
	if r := w.call("admin", "POST", guest+"/resetPassword", nil); r.status < 400 {
		t.Errorf("%d %s", r.status, r.raw)
	}
	if r := w.must(200, "GET", usersPath, nil); len(r.body["value"].([]any)) != 2 {
		t.Errorf("%s", r.raw)
	}
	w.must(200, "DELETE", anna, nil)
	w.must(204, "DELETE", anna, nil)
	w.refused(404, arm.ResourceNotFound, "GET", anna, nil)
	if _, err := store.Get[store.Password](t.Context(), w.store, store.Password{Name: "anna@example.com"}.Key()); trust.KindOf(err) != trust.NotFound {
		t.Errorf("the password is kept: %v", err)
	}
}

// Making a user is as good as being any of them: Contributors may not, not even
// at the root.
func TestOnlyWhoAssignsRolesMakesUsers(t *testing.T) {
	w := newWorld(t, withUsers)
	const contributor = "13131313-0000-4000-8000-000000000000"
	w.must(201, "PUT", "/providers/Microsoft.Authorization/roleAssignments/"+newUID(), props("roleDefinitionId", "/providers/"+definitionType+"/"+contributorGUID, "principalId", contributor))
	token := w.caller("contributor", contributor, nil)
	w.must(201, "PUT", usersPath+"/owner", props("displayName", "x"))
	for _, try := range [][2]string{{"PUT", usersPath + "/mine"}, {"PUT", usersPath + "/owner"}, {"DELETE", usersPath + "/owner"}, {"POST", usersPath + "/owner/resetPassword"}, {"POST", usersPath + "/owner/revokeSignInSessions"}} {
		if r := w.call(token, try[0], try[1], map[string]any{}); r.status != 403 {
			t.Errorf("%v: %d %s", try, r.status, r.raw)
		}
	}
	if r := w.call(token, "GET", usersPath, nil); r.status != 200 {
		t.Errorf("%d %s", r.status, r.raw)
	}
	if r := w.call("stranger", "GET", usersPath, nil); r.status != 403 {
		t.Errorf("%d %s", r.status, r.raw)
	}
}

// Users change their own password with the present one, and nobody else's; it
// ends all sessions, and who guesses is made to wait.
func TestUsersChangeTheirOwnPassword(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withUsers)
	const old, next = "the first password", "the second password"
	anna := w.must(201, "PUT", usersPath+"/anna", props("password", old)).text("properties.objectId")
	w.must(201, "PUT", usersPath+"/bert", props("password", old))
	w.caller("anna", anna, func(c *trust.Caller) { c.Name = "anna" })
	const own = usersPath + "/anna/changePassword"
	change := func(token, path, current, wanted string) *reply {
		t.Helper()
		return w.call(token, "POST", path, map[string]any{"currentPassword": current, "newPassword": wanted})
	}
	for token, path := range map[string]string{"stranger": own, "admin": own, "anna": usersPath + "/bert/changePassword"} {
		if r := change(token, path, old, next); r.status != 403 || r.text("error.code") != arm.AuthorizationFailed {
			t.Errorf("%s at %s: %d %s", token, path, r.status, r.raw)
		}
	}
	if r := change("anna", usersPath+"/nobody/changePassword", old, next); r.status != 403 { // no name can be probed
		t.Errorf("%d %s", r.status, r.raw)
	}
	for what, r := range map[string]*reply{"currentPassword": change("anna", own, "wrong", next), "newPassword": change("anna", own, old, "short")} {
		if r.status != 400 || r.text("error.target") != what || strings.Contains(string(r.raw), "wrong") {
			t.Errorf("%s: %d %s", what, r.status, r.raw)
		}
	}
	if r := change("anna", own, old, old); r.status != 400 {
		t.Errorf("the same: %d %s", r.status, r.raw)
	}
	before := w.now()
	if r := change("anna", own, old, next); r.status != 200 || strings.Contains(string(r.raw), "second") {
		t.Errorf("%d %s", r.status, r.raw)
	}
	p, err := store.Get[store.Password](t.Context(), w.store, store.Password{Name: "anna"}.Key())
	u, err2 := store.Get[store.User](t.Context(), w.store, store.User{Name: "anna"}.Key())
	if err != nil || err2 != nil || p.Value.Hash != "hash of "+next || u.Value.SessionsFrom.Before(before) {
		t.Errorf("%+v %+v, %v %v", p.Value, u.Value, err, err2)
	}
	// Guessing: after some, everything waits, the right one too.
	var limited *reply
	for range 12 {
		if limited = change("anna", own, "a wrong password", old); limited.status == 429 {
			break
		}
	}
	if limited.status != 429 || limited.text("error.code") != arm.TooManyRequests || limited.header.Get("Retry-After") == "" {
		t.Fatalf("%d %s", limited.status, limited.raw)
	}
	if r := change("anna", own, next, old); r.status != 429 {
		t.Errorf("%d %s", r.status, r.raw)
	}
	w.advance(61 * time.Second)
	if r := change("anna", own, next, old); r.status != 200 {
		t.Errorf("after a minute: %d %s", r.status, r.raw)
	}
	same(t, "the log", w.entries("admin", "", "status eq 'Succeeded' and resourceUri eq '"+usersPath+"/anna'")[:1], "Sallyport.Identity/users/changePassword/action Succeeded anna")
}
