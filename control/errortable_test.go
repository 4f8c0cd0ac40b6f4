package control

import (
	"context"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// signed lets a world take real tokens, besides the made-up ones, and returns
// who signs them.
func signed(t *testing.T, w **world) (*kube, func(*Config)) {
	t.Helper()
	k := newKube(t)
	k.issuer = issuer
	keys, err := authn.ParseKeys(k.jwks)
	if err != nil {
		t.Fatal(err)
	}
	a, err := authn.New(authn.Config{Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Issuers: []authn.Issuer{{URL: issuer, Keys: authn.StaticKeys(keys), Tenants: []string{tenant}}}})
	if err != nil {
		t.Fatal(err)
	}
	return k, func(c *Config) {
		c.Authenticate = func(ctx context.Context, token string) (trust.Caller, error) {
			if caller, err := (*w).authenticate(ctx, token); err == nil {
				return caller, nil
			}
			return a.Authenticate(ctx, token, authn.Audiences{base, base + "/"})
		}
	}
}

// TestErrorTable is ARM's table of errors: status, code and the shape of the
// message of each, and the envelope of all of them.
func TestErrorTable(t *testing.T) {
	t.Parallel()
	var w *world
	signer, real := signed(t, &w)
	w = newWorld(t, real, func(c *Config) { c.DemandRegistration = true; c.Providers = []Provider{(&pond{}).provider()} })
	var slow *world
	_, realToo := signed(t, &slow)
	slow = newWorld(t, realToo, func(c *Config) { c.Throttle.Reads = Bucket{1, 0.01} })

	claims := func(change map[string]any) map[string]any {
		all := map[string]any{"aud": base, "tid": tenant, "oid": w.callers["admin"].Object, "sub": "x"}
		for k, v := range change {
			all[k] = v
		}
		return all
	}
	for _, ns := range []string{"Microsoft.ContainerService", "Contoso.Pond"} {
		w.must(200, "POST", subPath+"/providers/"+ns+"/register?api-version=2021-04-01", nil)
	}
	w.must(201, "PUT", groupPath, map[string]any{"location": "local"})
	w.must(201, "PUT", clusterPath, map[string]any{"location": "local"})
	w.must(201, "PUT", groupPath+"-going", map[string]any{"location": "local"})
	going, err := store.Get[store.Group](t.Context(), w.store, store.ResourceKey(groupPath+"-going"))
	if err != nil {
		t.Fatal(err)
	}
	going.Value.Deleting = true
	if _, err := w.store.Commit(t.Context(), store.Update(going.Value, going.Revision)); err != nil {
		t.Fatal(err)
	}
	w.must(200, "PUT", pondQuery(pondPath), map[string]any{"location": "local"})
	w.must(201, "PUT", groupPath+"-kept", map[string]any{"location": "local"})
	w.must(201, "PUT", lockPath(groupPath+"-kept", "keep"), level(readOnlyLock))
	const clusters = "/providers/Microsoft.ContainerService/managedClusters/"
	local := map[string]any{"location": "local"}
	object := w.callers["stranger"].Object
	if r := w.call(signer.token(claims(nil)), "GET", subPath, nil); r.status != 200 {
		t.Fatalf("a good token: %d %s", r.status, r.raw)
	}

	rows := []struct {
		status        int
		code, message string // a regular expression for the whole
		ask           func() *reply
	}{
		{400, "MissingApiVersionParameter", `The api-version query parameter \(\?api-version=\) is required for all requests\.`,
			func() *reply { return w.call("admin", "GET", clusterPath+"?x=y", nil) }},
		{400, "InvalidApiVersionParameter", `The api-version 'v1' is invalid\. The supported versions are '2026-04-01,.*2023-09-01,.*'\.`,
			func() *reply { return w.call("admin", "GET", clusterPath+"?api-version=v1", nil) }},
		{400, "InvalidApiVersionParameter", `The api-version '2001-01-01' is invalid\. The supported versions are '2025-04-01,.*'\.`,
			func() *reply { return w.call("admin", "GET", groupPath+"?api-version=2001-01-01", nil) }},
		{400, "NoRegisteredProviderFound", `No registered resource provider found for location 'local' and API version '2001-01-01' for type 'managedClusters'\. The supported api-versions are '2026-04-01, .*'\. The supported locations are 'local, West Europe'\.`,
			func() *reply { return w.call("admin", "GET", clusterPath+"?api-version=2001-01-01", nil) }},
		{404, "InvalidResourceType", `The resource type 'snapshots' could not be found in the namespace 'Microsoft\.ContainerService' for api version '2025-02-01'\.`,
			func() *reply {
				return w.call("admin", "GET", groupPath+"/providers/Microsoft.ContainerService/snapshots/x", nil)
			}},
		{404, "InvalidResourceNamespace", `The resource namespace 'Microsoft\.Nothing' is invalid\.`,
			func() *reply { return w.call("admin", "GET", subPath+"/providers/Microsoft.Nothing", nil) }},
		{404, "SubscriptionNotFound", `The subscription '33333333-3333-4333-8333-333333333333' could not be found\.`,
			func() *reply {
				return w.call("admin", "GET", "/subscriptions/33333333-3333-4333-8333-333333333333", nil)
			}},
		{404, "ResourceGroupNotFound", `Resource group 'none' could not be found\.`,
			func() *reply { return w.call("admin", "PUT", subPath+"/resourceGroups/none"+clusters+"c", local) }},
		{404, "ResourceNotFound", `The Resource 'Microsoft\.ContainerService/managedClusters/none' under resource group 'rg' was not found\. For more details please go to https://aka\.ms/ARMResourceNotFoundFix`,
			func() *reply { return w.call("admin", "GET", groupPath+clusters+"none", nil) }},
		{404, "ResourceNotFound", `The Resource 'Microsoft\.ContainerService/managedClusters/blue/trustedAccessRoleBindings/b' under resource group 'rg' was not found\. For more details please go to https://aka\.ms/ARMResourceNotFoundFix`,
			func() *reply { return w.call("admin", "GET", clusterPath+"/trustedAccessRoleBindings/b", nil) }},
		{404, "ParentResourceNotFound", `Can not perform requested operation on nested resource\. Parent resource 'none' not found\.`,
			func() *reply {
				return w.call("admin", "PUT", groupPath+clusters+"none/trustedAccessRoleBindings/b", wants(sourcePath, mlworkload))
			}},
		{403, "AuthorizationFailed", `The client '` + object + `' with object id '` + object + `' does not have authorization to perform action 'Microsoft\.ContainerService/managedClusters/write' over scope '` + clusterPath + `' or the scope is invalid\. If access was recently granted, please refresh your credentials\.`,
			func() *reply { return w.call("stranger", "PUT", clusterPath, local) }},
		{401, "AuthenticationFailed", `Authentication failed\. The 'Authorization' header is missing or not one Bearer token\.`,
			func() *reply { return w.call("", "GET", clusterPath, nil) }},
		{401, "InvalidAuthenticationToken", `.*token.*`,
			func() *reply { return w.call("not.a.token", "GET", clusterPath, nil) }},
		{401, "ExpiredAuthenticationToken", `the token expired at \d{4}-.*`,
			func() *reply {
				return w.call(signer.token(claims(map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})), "GET", clusterPath, nil)
			}},
		{401, "InvalidAuthenticationTokenTenant", `.*tenant.*`,
			func() *reply {
				return w.call(signer.token(claims(map[string]any{"tid": subscription})), "GET", clusterPath, nil)
			}},
		{409, "MissingSubscriptionRegistration", `The subscription is not registered to use namespace 'Microsoft\.MachineLearningServices'\. See https://aka\.ms/rps-not-found for how to register subscriptions\.`,
			func() *reply { return w.call("admin", "GET", sourcePath, nil) }},
		{409, "InvalidResourceLocation", `The resource 'blue' already exists in location 'local' in resource group 'rg'\. A resource with the same name cannot be created in location 'westeurope'\. Please select a new resource name\.`,
			func() *reply { return w.call("admin", "PUT", clusterPath, map[string]any{"location": "West Europe"}) }},
		{409, "ResourceGroupBeingDeleted", `The resource group 'rg-going' is in deprovisioning state and cannot perform this operation\.`,
			func() *reply { return w.call("admin", "PUT", groupPath+"-going"+clusters+"c", local) }},
		{409, "ScopeLocked", `The scope '` + groupPath + `-kept' cannot perform delete operation because following scope\(s\) are locked: '` + groupPath + `-kept'\. Please remove the lock and try again\.`,
			func() *reply { return w.call("admin", "DELETE", groupPath+"-kept", nil) }},
		{409, "ScopeLocked", `The scope '` + groupPath + `-kept` + clusters + `c' cannot perform write operation because following scope\(s\) are locked: '` + groupPath + `-kept'\. Please remove the lock and try again\.`,
			func() *reply { return w.call("admin", "PUT", groupPath+"-kept"+clusters+"c", local) }},
		{412, "PreconditionFailed", `The condition 'If-Match' of the request is not met: the resource does not exist\.`,
			func() *reply { return w.call("admin", "PUT", groupPath+clusters+"new", local, "If-Match", "*") }},
		{412, "PreconditionFailed", `The condition 'If-None-Match' of the request is not met: the resource has ETag "[0-9a-f]+"\.`,
			func() *reply { return w.call("admin", "PUT", clusterPath, local, "If-None-Match", "*") }},
		{429, "SubscriptionRequestsThrottled", `Number of 'read' requests for subscription '` + subscription + `' actor '.*' exceeded\. Please try again after '\d+' seconds after additional tokens are available\. Refer to https://aka\.ms/arm-throttling for additional information\.`,
			func() *reply {
				slow.must(200, "GET", subPath, nil)
				return slow.call("admin", "GET", subPath, nil)
			}},
		// A provider's own limit, or that of what it asked.
		{429, "TooManyRequests", `There are 40 fish, which is the limit\.`,
			func() *reply { return w.call("admin", "PUT", pondQuery(pondPath+"/fish/shoal"), props()) }},
	}
	for _, row := range rows {
		r := row.ask()
		if r.status != row.status || r.text("error.code") != row.code {
			t.Errorf("%s: %d %s, want %d", row.code, r.status, r.raw, row.status)
			continue
		}
		if m := regexp.MustCompile("^" + row.message + "$"); !m.MatchString(r.text("error.message")) {
			t.Errorf("%s: the message is\n%s\nwant\n%s", row.code, r.text("error.message"), m)
		}
		if r.header.Get("x-ms-error-code") != row.code || r.header.Get("Content-Type") != arm.ContentType || !arm.ValidGUID(r.header.Get("x-ms-request-id")) {
			t.Errorf("%s: headers %v", row.code, r.header)
		}
		if challenge := r.header.Get("WWW-Authenticate"); strings.HasPrefix(challenge, `Bearer authorization_uri="`+base+"/"+tenant+`"`) != (row.status == 401) {
			t.Errorf("%s: WWW-Authenticate %q", row.code, challenge)
		}
		if r.header.Get("Retry-After") == "" && row.status == 429 {
			t.Errorf("%s: no Retry-After", row.code)
		}
		for member := range r.body["error"].(map[string]any) {
			if !slices.Contains([]string{"code", "message", "target", "details", "additionalInfo"}, member) || len(r.body) != 1 {
				t.Errorf("%s: the envelope is %s", row.code, r.raw)
			}
		}
	}
}
