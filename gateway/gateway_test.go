package gateway

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

func TestRequestsArriveWithExactlyTheseHeaders(t *testing.T) {
	w := newWorld(t)
	resp, body := w.do("GET", "/api/v1/namespaces/n/pods/p?pretty=1", func(r *http.Request) {
		for name, v := range map[string]string{
			"Accept": "application/json", "User-Agent": "kubectl/v1", "X-App": "theirs",
			"Cookie": "a=b", "X-Remote-User": "root", "X-Remote-Group": "system:masters", "X-Forwarded-For": "1.2.3.4", "Forwarded": "for=1",
			"Sallyport-Binding": "forged", "Sallyport-Tunnel-Method": "forged", "Audit-Id": "theirs", "Te": "trailers", "Proxy-Authorization": "x",
			"Sec-Websocket-Protocol": "base64url.bearer.authorization.k8s.io.abc",
		} {
			r.Header.Set(name, v)
		}
	})
	if resp.StatusCode != 200 || body != `{"ok":true}` {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	got := w.agent.take()
	if len(got) != 1 {
		t.Fatalf("%d requests arrived", len(got))
	}
	item, err := store.Get[store.Binding](t.Context(), w.store, w.binding().Key())
	if err != nil {
		t.Fatal(err)
	}
	id := resp.Header.Get("Audit-Id")
	want := seen{method: "GET", uri: "/api/v1/namespaces/n/pods/p?pretty=1", header: http.Header{
		"Accept": {"application/json"}, "User-Agent": {"kubectl/v1"}, "X-App": {"theirs"},
		"Sallyport-Binding": {string(bindingA)}, "Sallyport-Revision": {itoa(item.Revision)}, "Sallyport-Request-Id": {id},
	}}
	if d := cmp.Diff(want, got[0], cmp.AllowUnexported(seen{})); d != "" {
		t.Error(d)
	}
	if len(id) != 36 || id == "theirs" {
		t.Errorf("request id %q", id)
	}
}

func itoa(n int64) string {
	var b []byte
	for ; n > 0; n /= 10 {
		b = append([]byte{byte('0' + n%10)}, b...)
	}
	return string(b)
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	type edit = func(*http.Request)
	token := func(change map[string]any) edit {
		return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+w.token(change)) }
	}
	header := func(name, v string) edit { return func(r *http.Request) { r.Header.Set(name, v) } }
	for name, c := range map[string]struct {
		method, path string
		edit         edit
		code         int
		says         string
	}{
		"no token":                 {"GET", "/api/v1/namespaces/n/pods", func(r *http.Request) { r.Header.Del("Authorization") }, 401, "no token"},
		"basic":                    {"GET", "/api/v1/namespaces/n/pods", header("Authorization", "Basic eDp5"), 401, "Bearer"},
		"two tokens":               {"GET", "/api/v1/namespaces/n/pods", func(r *http.Request) { r.Header.Add("Authorization", "Bearer x") }, 401, "several"},
		"expired":                  {"GET", "/api/v1/namespaces/n/pods", token(map[string]any{"exp": time.Now().Add(-time.Second).Unix()}), 401, ""},
		"another audience":         {"GET", "/api/v1/namespaces/n/pods", token(map[string]any{"aud": base}), 401, ""},
		"another gateway":          {"GET", "/api/v1/namespaces/n/pods", token(map[string]any{"aud": base + "/gateways/eastus"}), 401, ""},
		"another cluster's token":  {"GET", "/api/v1/namespaces/n/pods", token(map[string]any{"aud": base + "/clusters/" + string(clusterB)}), 401, ""},
		"several audiences":        {"GET", "/api/v1/namespaces/n/pods", token(map[string]any{"aud": []string{base + "/gateways/westeurope", "x"}}), 401, ""},
		"another identity":         {"GET", "/api/v1/namespaces/n/pods", token(map[string]any{"oid": "55555555-5555-5555-5555-555555555555"}), 403, "has no role binding"},
		"another resource":         {"GET", "/api/v1/namespaces/n/pods", token(map[string]any{"xms_mirid": sourceID + "2"}), 403, "has no role binding"},
		"not in the role":          {"GET", "/api/v1/namespaces/n/secrets", nil, 403, `cannot list resource "secrets" in API group "" in the namespace "n"; its role binding Train here gives ` + string(roleName)},
		"which role would":         {"GET", "/api/v1/nodes", nil, 403, ""},
		"a path outside":           {"GET", "/metrics", nil, 403, `cannot get path "/metrics"`},
		"exec needs create":        {"GET", "/api/v1/namespaces/n/pods/p/attach", nil, 403, `cannot create resource "pods/attach"`},
		"impersonation":            {"GET", "/api/v1/namespaces/n/pods", header("Impersonate-User", "x"), 403, "impersonation"},
		"impersonation, groups":    {"GET", "/api/v1/namespaces/n/pods", header("Impersonate-Group", "system:masters"), 403, "impersonation"},
		"impersonation, spelled":   {"GET", "/api/v1/namespaces/n/pods", header("Impersonate_User", "x"), 403, "impersonation"},
		"encoded slash":            {"GET", "/api/v1/namespaces/n%2f..%2fm/pods", nil, 400, "encoded"},
		"double slash":             {"GET", "//api/v1/namespaces/n/pods", nil, 400, "empty segment"},
		"out of a service's root":  {"GET", "/api/v1/namespaces/n/services/s/proxy/%2e%2e/%2e%2e/secrets", nil, 400, "dot segment"},
		"odd method":               {"PROPFIND", "/api/v1/namespaces/n/pods", nil, 405, "method"},
		"upgrade over HTTP/2 wire": {"GET", "/api/v1/namespaces/n/pods/p/exec", nil, 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			resp, body := w.do(c.method, c.path, c.edit)
			if resp.StatusCode != c.code {
				t.Fatalf("%d: %s", resp.StatusCode, body)
			}
			if c.code == 200 {
				return
			}
			if c.path == "/metrics" { // no resource: plain text, which kubectl shows
				if !strings.HasPrefix(body, "source ") || !strings.Contains(body, c.says) {
					t.Errorf("%s", body)
				}
				return
			}
			s := status(t, body)
			if s.Code != c.code || !strings.Contains(s.Message, c.says) {
				t.Errorf("%+v", s)
			}
			if strings.Contains(body, "eyJ") {
				t.Errorf("a token in %s", body)
			}
		})
	}
	w.agent.take()
	if resp, body := w.do("GET", "/api/v1/nodes", nil); resp.StatusCode != 403 || len(w.agent.take()) != 0 {
		t.Errorf("a refused request reached the agent: %s", body)
	}
}

func TestTheClustersOwnAudienceIsGoodThere(t *testing.T) {
	w := newWorld(t)
	resp, body := w.do("GET", "/api/v1/namespaces/n/pods", func(r *http.Request) {
		r.Header.Set("Authorization", "Bearer "+w.token(map[string]any{"aud": base + "/clusters/" + string(clusterA), "xms_mirid": strings.ToUpper(sourceID)}))
	})
	if resp.StatusCode != 200 {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestUnknownAndUnboundClustersLookTheSame(t *testing.T) {
	w := newWorld(t)
	w.commit(store.Put(store.Cluster{ID: clusterID + "2", UID: clusterB, Enrolment: w.cluster().Enrolment}))
	nobody := trust.ClusterUID("dddddddd-dddd-4ddd-8ddd-dddddddddddd")
	ask := func(uid trust.ClusterUID) (int, string, http.Header) {
		resp, body := w.do("GET", "/x", func(r *http.Request) { r.URL.Path = "/clusters/" + string(uid) + "/api/v1/pods" })
		resp.Header.Del("Audit-Id")
		resp.Header.Del("Date")
		resp.Header.Del("Content-Length")
		return resp.StatusCode, strings.ReplaceAll(body, string(uid), "UID"), resp.Header
	}
	c1, b1, h1 := ask(clusterB)
	c2, b2, h2 := ask(nobody)
	if c1 != 403 || c1 != c2 || b1 != b2 || !cmp.Equal(h1, h2) {
		t.Errorf("%d %s %v\n%d %s %v", c1, b1, h1, c2, b2, h2)
	}
	if strings.Contains(b1, "Prod") || strings.Contains(b1, "reader") {
		t.Errorf("a name in %s", b1)
	}
}

// Helm and kubectl begin with a path that is no resource's. client-go shows a
// refusal there only if it is plain text.
func TestWhoIsNotBoundReadsWhyOnDiscoveryToo(t *testing.T) {
	w := newWorld(t)
	for path, want := range map[string]string{"/version": "text/plain; charset=utf-8", "/api": "text/plain; charset=utf-8", "/api/v1/pods": "application/json"} {
		resp, body := w.do("GET", "/x", func(r *http.Request) {
			r.URL.Path = "/clusters/dddddddd-dddd-4ddd-8ddd-dddddddddddd" + path
		})
		if resp.StatusCode != http.StatusForbidden || resp.Header.Get("Content-Type") != want || !strings.Contains(body, "no role binding") {
			t.Errorf("GET %s: %d %s %s, want 403 and %s", path, resp.StatusCode, resp.Header.Get("Content-Type"), body, want)
		}
	}
}

func TestRefusalsNameTheRoleThatWouldAllow(t *testing.T) {
	w := newWorld(t)
	r := trust.Role{SourceType: "Microsoft.MachineLearningServices/workspaces", Name: "nodes", Rules: []trust.Rule{{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"nodes"}}}}
	w.commit(store.Put(store.Role{Role: r}))
	w.eventually("the role is named", func() bool {
		_, body := w.do("GET", "/api/v1/nodes", nil)
		return strings.Contains(status(t, body).Message, "sallyport aks trustedaccess rolebinding update -g Rg --cluster-name Prod -n Train --roles "+string(roleName)+",Microsoft.MachineLearningServices/workspaces/")
	})
}

func TestPeopleComeByGroupAndAddress(t *testing.T) {
	w := newWorld(t)
	ask := func(change map[string]any) (int, string) {
		resp, body := w.do("GET", "/api/v1/namespaces/n/pods", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+w.person(change)) })
		return resp.StatusCode, body
	}
	code, body := ask(nil)
	said := status(t, body).Message
	for _, says := range []string{`user "alice@people.test", in group "ops" of https://people.test, has no role binding on cluster`, "sallyport ad group create -g GROUP -n NAME --group ops --issuer https://people.test --tenant " + tenant,
		"sallyport aks trustedaccess rolebinding create", "/providers/Sallyport.Identity/groups/NAME --roles ROLE"} {
		if code != 403 || !strings.Contains(said, says) {
			t.Errorf("without a binding: %d %s, want it to say %s", code, said, says)
		}
	}
	// What a token says does not become a command.
	if _, body := ask(map[string]any{"groups": []string{"ops; rm -rf ~", "b"}}); strings.Contains(status(t, body).Message, "--group") || !strings.Contains(status(t, body).Message, `"ops; rm -rf ~"`) {
		t.Errorf("an odd group: %s", body)
	}
	if _, body := ask(map[string]any{"groups": nil}); !strings.Contains(status(t, body).Message, "is in no group") {
		t.Errorf("without groups: %s", body)
	}
	b := w.binding()
	b.ID, b.UID, b.SourceID, b.Source = clusterID+"/trustedAccessRoleBindings/ops", "eeeeeeee-eeee-4eee-8eee-eeeeeeeeeeee", peopleID, trust.Principal{Issuer: people, Tenant: tenant, Object: "ops"}
	w.applied(w.commit(store.Put(b), store.Put(store.Source{ID: peopleID})))
	if code, body := ask(nil); code != 200 {
		t.Fatalf("a member: %d %s", code, body)
	}
	if code, body := ask(map[string]any{"groups": []string{"dev"}}); code != 403 {
		t.Errorf("no member: %d %s", code, body)
	}
	// The built-in authority signs for others' groups, and says whose they are.
	own := func(change map[string]any) int {
		token := w.sign(w.key, map[string]any{
			"iss": issuerURL, "oid": "77777777-7777-7777-7777-777777777777", "tid": tenant, "aud": base + "/gateways/westeurope", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
			"preferred_username": "alice", "groups": []string{"ops"}, "idp": people}, change)
		resp, _ := w.do("GET", "/api/v1/namespaces/n/pods", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) })
		return resp.StatusCode
	}
	if code := own(nil); code != 200 {
		t.Errorf("a member, signed in by the built-in authority: %d", code)
	}
	for name, change := range map[string]map[string]any{
		"of its own issuer's group":   {"idp": issuerURL},
		"of nobody's group":           {"idp": ""},
		"that is a service, in group": {"xms_mirid": sourceID + "x"},
	} {
		if code := own(change); code != 403 {
			t.Errorf("somebody %s: %d", name, code)
		}
	}
	if code, body := ask(map[string]any{"sub": "ops", "groups": nil}); code != 403 {
		t.Errorf("a person with a group's name: %d %s", code, body)
	}
	c := w.cluster()
	c.AuthorizedIPRanges = []string{"192.0.2.0/24"}
	w.applied(w.commit(store.Put(c)))
	if code, body := ask(nil); code != 403 || !strings.Contains(body, "authorized address ranges") {
		t.Errorf("from elsewhere: %d %s", code, body)
	}
	if resp, body := w.do("GET", "/api/v1/namespaces/n/pods", nil); resp.StatusCode != 200 {
		t.Errorf("ranges limited a bound source: %d %s", resp.StatusCode, body)
	}
	c.AuthorizedIPRanges = []string{"192.0.2.0/24", "127.0.0.1"}
	w.applied(w.commit(store.Put(c)))
	if code, body := ask(nil); code != 200 {
		t.Errorf("from an authorized address: %d %s", code, body)
	}
}

func TestWhatTakesARightAwayForNewRequests(t *testing.T) {
	w := newWorld(t)
	ask := func() (int, string) {
		resp, body := w.do("GET", "/api/v1/namespaces/n/pods", nil)
		return resp.StatusCode, body
	}
	narrowed := w.binding()
	narrowed.Grants = nil
	recreated := w.source()
	recreated.Identity = &store.SystemIdentity{PrincipalID: "66666666-6666-6666-6666-666666666666", TenantID: tenant}
	stopped, deleting := w.cluster(), w.cluster()
	stopped.Stopped, deleting.Deleting = true, true
	reregistered := w.cluster()
	reregistered.UID = clusterB
	for name, op := range map[string]store.Op{
		"binding removed":           store.Delete(w.binding().Key(), 0),
		"binding narrowed":          store.Put(narrowed),
		"cluster removed":           store.Delete(w.cluster().Key(), 0),
		"cluster registered again":  store.Put(reregistered),
		"cluster stopped":           store.Put(stopped),
		"cluster being deleted":     store.Put(deleting),
		"group being deleted":       store.Put(store.Group{ID: groupID, Deleting: true}),
		"subscription disabled":     store.Put(store.Subscription{ID: groupID[:strings.Index(groupID, "/resourceGroups")], State: "Disabled"}),
		"source removed":            store.Delete(w.source().Key(), 0),
		"source made again":         store.Put(recreated),
		"source without identity":   store.Put(store.Source{ID: sourceID}),
		"two rights, both narrowed": store.Put(narrowed),
	} {
		w.seed()
		w.eventually("allowed again", func() bool { code, _ := ask(); return code == 200 })
		w.applied(w.commit(op))
		if code, body := ask(); code != 403 {
			t.Errorf("%s: %d %s", name, code, body)
		}
		w.eventually("a tunnel", func() bool {
			if w.gw.Tunnels(clusterA) == 0 { // cut with the cluster
				w.seed()
				w.eventually("registered", func() bool { return w.gw.table.known(clusterA) })
				w.connect(w.gw, clusterA, w.agent)
			}
			return true
		})
	}
}

func TestTooManyRequestsAtOnce(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxPerCaller = 3; c.MaxPerBinding = 2 })
	hold := make(chan struct{})
	w.agent.set(func(rw http.ResponseWriter, r *http.Request) {
		rw.WriteHeader(200)
		_ = http.NewResponseController(rw).Flush()
		<-hold
	})
	defer close(hold)
	for range 2 {
		resp := w.open(shared, "GET", "/api/v1/namespaces/n/pods?watch=1", nil, nil)
		defer resp.Body.Close()
	}
	resp, body := w.do("GET", "/api/v1/namespaces/n/pods", nil)
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "1" || !strings.Contains(body, "limit") {
		t.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
	}
}

func TestWithoutATunnel(t *testing.T) {
	w := newWorld(t)
	w.gw.hub.Cut(string(clusterA))
	w.eventually("no tunnel", func() bool { return w.gw.Tunnels(clusterA) == 0 })
	resp, body := w.do("GET", "/api/v1/namespaces/n/pods", nil)
	s := status(t, body)
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || s.Details.RetryAfterSeconds == 0 || !strings.Contains(s.Message, "not connected") {
		t.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
	}
}

func TestWhatMustNotReachTheCaller(t *testing.T) {
	w := newWorld(t)
	w.agent.set(func(rw http.ResponseWriter, r *http.Request) {
		for name, v := range map[string]string{
			"Set-Cookie": "a=b", "Strict-Transport-Security": "max-age=1", "Access-Control-Allow-Origin": "*", "Alt-Svc": "h3", "Audit-Id": "forged",
			"Sallyport-Reason": "x", "Content-Type": "text/plain", "X-App": "theirs",
		} {
			rw.Header().Set(name, v)
		}
		if r.URL.Query().Get("to") != "" {
			rw.Header().Set("Location", r.URL.Query().Get("to"))
			rw.WriteHeader(302)
		}
	})
	resp, _ := w.do("GET", "/api/v1/namespaces/n/services/s/proxy/", nil)
	id := resp.Header.Get("Audit-Id")
	resp.Header.Del("Date")
	if d := cmp.Diff(http.Header{"Content-Type": {"text/plain"}, "X-App": {"theirs"}, "Audit-Id": {id}, "Content-Length": {"0"}}, resp.Header); d != "" || id == "forged" {
		t.Error(d)
	}
	resp, body := w.do("GET", "/api/v1/namespaces/n/services/s/proxy/?to=https://elsewhere", nil)
	if resp.StatusCode != 503 || resp.Header.Get("Location") != "" || !strings.Contains(body, "redirect") {
		t.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
	}
}

func TestAuditLines(t *testing.T) {
	w := newWorld(t)
	w.do("GET", "/api/v1/namespaces/n/services/s/proxy/a?token=sesame", nil)
	w.do("GET", "/api/v1/namespaces/n/secrets/x", nil)
	w.do("GET", "/api/v1/namespaces/n/pods?watch=1", nil)
	w.do("GET", "/api/v1/namespaces/n/pods", func(r *http.Request) { r.Header.Del("Authorization") })
	w.eventually("five lines", func() bool { return len(w.sink.events(t)) == 5 })
	e := w.sink.events(t)
	if e[0].Verb != "get" || e[0].RequestURI != "/api/v1/namespaces/n/services/s/proxy/a?redacted" || e[0].Annotations["sallyport.dev/binding"] != w.binding().ID || e[0].Annotations["sallyport.dev/role"] != string(roleName) || e[0].Annotations["sallyport.dev/source"] != sourceID || e[0].ResponseStatus.Code != 200 {
		t.Errorf("%+v", e[0])
	}
	if e[1].Annotations["authorization.k8s.io/decision"] != "forbid" || e[1].ResponseStatus.Code != 403 || !strings.Contains(e[1].Annotations["authorization.k8s.io/reason"], "cannot get") {
		t.Errorf("%+v", e[1])
	}
	if e[2].Stage != "ResponseStarted" || e[3].Stage != "ResponseComplete" || e[2].AuditID != e[3].AuditID || e[3].Annotations["sallyport.dev/ended"] != "complete" {
		t.Errorf("%+v\n%+v", e[2], e[3])
	}
	if e[4].ResponseStatus.Code != 401 || e[4].User.Username != "" {
		t.Errorf("%+v", e[4])
	}
	if strings.Contains(w.sink.b.String(), "sesame") || strings.Contains(w.sink.b.String(), "eyJ") {
		t.Error("a secret in the audit log")
	}
}

func TestWholeTargets(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.WholeTargets = true })
	w.do("GET", "/api/v1/namespaces/n/services/s/proxy/a?x=y", nil)
	w.eventually("a line", func() bool { return len(w.sink.events(t)) == 1 })
	if e := w.sink.events(t)[0]; e.RequestURI != "/api/v1/namespaces/n/services/s/proxy/a?x=y" || len(e.SourceIPs) != 1 || e.SourceIPs[0] != "127.0.0.1" {
		t.Errorf("%+v", e)
	}
}

func TestDeadAuditSinkStopsEverything(t *testing.T) {
	w := newWorld(t)
	w.sink.setDead(true)
	stuck := make(chan struct{}, 200)
	for range 100 {
		go func() {
			defer func() { stuck <- struct{}{} }()
			req, _ := http.NewRequestWithContext(t.Context(), "GET", w.url+"/clusters/"+string(clusterA)+"/api/v1/namespaces/n/pods", nil)
			req.Header.Set("Authorization", "Bearer "+w.token(nil))
			if resp, err := shared.Do(req); err == nil {
				_ = resp.Body.Close()
			}
		}()
	}
	w.eventually("not ready", func() bool { return w.gw.Ready() != nil })
	resp, body := w.do("GET", "/version", func(r *http.Request) { r.Method = "PUT" })
	if resp.StatusCode != 503 || !strings.Contains(body, "audit") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	w.sink.setDead(false)
	w.eventually("ready again", func() bool { return w.gw.Ready() == nil })
	for range 100 {
		<-stuck
	}
}
