package control

import (
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
)

// Who may assign roles may revoke a signing key, and nobody else: it counts as
// revoked at once, and stays so whatever becomes of the key's own record.
func TestASigningKeyIsRevoked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kid := strings.Repeat("k", 43)
	key := store.SigningKey{KeyID: kid, Algorithm: "ES256", Created: w.now(), NotBefore: w.now(), RetireAfter: w.now().Add(time.Hour), GoneFrom: w.now().Add(2 * time.Hour)}
	if _, err := w.store.Commit(t.Context(), store.Put(key)); err != nil {
		t.Fatal(err)
	}
	const all = "/providers/Sallyport.Identity/signingKeys"
	if r := w.must(200, "GET", all+"/"+kid, nil); r.text("properties.state") != "Signing" {
		t.Errorf("%s", r.raw)
	}
	const contributor = "13131313-0000-4000-8000-000000000001"
	w.must(201, "PUT", "/providers/Microsoft.Authorization/roleAssignments/"+newUID(), props("roleDefinitionId", "/providers/"+definitionType+"/"+contributorGUID, "principalId", contributor))
	token := w.caller("contributor", contributor, nil)
	if r := w.call(token, "POST", all+"/"+kid+"/revoke", nil); r.status != 403 {
		t.Errorf("a Contributor: %d %s", r.status, r.raw)
	}
	if r := w.call(token, "GET", all, nil); r.status != 200 {
		t.Errorf("a Contributor reads: %d %s", r.status, r.raw)
	}
	for range 2 {
		if r := w.must(200, "POST", all+"/"+kid+"/revoke", nil); r.text("properties.state") != "Revoked" {
			t.Errorf("%s", r.raw)
		}
	}
	if _, err := w.store.Commit(t.Context(), store.Put(key)); err != nil { // as from a backup
		t.Fatal(err)
	}
	if r := w.must(200, "GET", all, nil); r.text("value.0.properties.state") != "Revoked" && !strings.Contains(string(r.raw), `"state":"Revoked"`) {
		t.Errorf("%s", r.raw)
	}
	w.refused(404, arm.ResourceNotFound, "POST", all+"/"+strings.Repeat("x", 43)+"/revoke", nil)
	w.refused(400, arm.InvalidParameter, "POST", all+"/short/revoke", nil)
}
