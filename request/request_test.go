package request

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/sets"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/sallyport/sallyport/trust"
)

func TestTargetsThatAreRefused(t *testing.T) {
	for _, uri := range []string{
		"", "*", "http://elsewhere/api", "elsewhere:443", "//api/v1/pods", "/api//v1/pods", "/api/v1/pods//",
		"/api/v1/../v1/pods", "/api/v1/./pods", "/api/v1/pods/..", "/..", "/.",
		"/api/v1/namespaces/a%2fb/pods", "/api/v1/namespaces/a%2Fb/pods", "/api/v1/namespaces/%2e%2e/pods", "/api/v1/%2E/pods",
		"/api/v1/namespaces/a%5cb/pods", `/api/v1/namespaces/a\b/pods`, "/api/v1/pods;x=y", "/api/v1/pods%3bx",
		"/api/v1/pods%00", "/api/v1/pods%0d%0aX:y", "/api/v1/pods%7f", "/api/v1/pods\x01", "/api/v1/pods%", "/api/v1/pods%2", "/api/v1/pods%zz",
		"/api/v1/pods%252f", "/api/v1/pods%3fwatch=1", "/api/v1/pods%23", "/api/v1/pods#x", "/api/v1/pods%ff", "/api/v1/p\xc3\xa4", "/api/v1/ pods",
		"/api/v1/pods?a=%zz", "/api/v1/pods?a;b", "/api/v1/pods?a=\x01", "/api/v1/pods?" + strings.Repeat("x", MaxTarget),
		"/api/v1/namespaces/n/services/s/proxy/../../secrets", "/api/v1/namespaces/n/services/s/proxy/%2e%2e/x",
		"/api/v1/namespaces/n/services/s/proxy/a%2f..%2fb", "/api/v1/namespaces/n/services/s/proxy/..%5cx", "/api/v1/namespaces/n/services/s/proxy/..;a/x",
		"/api/v1/namespaces/n/services/s/proxy/a%0d%0a", "/api/v1/namespaces/n/services/%2e%2e/proxy/a", "/api/v1/namespaces/n/services/a%2fb/proxy/a",
		"/api/v1/namespaces/n/services//proxy/a", "/api/v1/nodes/n/proxy/./x",
		// Not a proxy subresource: everything decides.
		"/api/v1/namespaces/n/pods/p/log//x", "/api/v1/proxy/namespaces/n/services/s//x", "/api/v1/watch/pods//x", "/proxy//x", "/api/v1/proxy//", "/apis/g/v1/proxy/a//b",
	} {
		got, err := ParseTarget(uri)
		if err == nil {
			t.Errorf("ParseTarget(%.80q) = %+v, want a refusal", uri, got)
			continue
		}
		if k := trust.KindOf(err); k != trust.Invalid && k != trust.TooLarge {
			t.Errorf("ParseTarget(%.80q): kind %v", uri, k)
		}
	}
}

func TestTargetsThatPass(t *testing.T) {
	for uri, want := range map[string]Target{
		"/":                    {Path: "/", Raw: "/"},
		"/version/":            {Path: "/version/", Raw: "/version/"},
		"/api/v1/pods?limit=5": {Path: "/api/v1/pods", Raw: "/api/v1/pods", Query: "limit=5"},
		"/api/v1/pods?":        {Path: "/api/v1/pods", Raw: "/api/v1/pods"},
		"/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode":    {Path: "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node", Raw: "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node"},
		"/apis/rbac.authorization.k8s.io/v1/clusterroles/a%20b%c3%a4":      {Path: "/apis/rbac.authorization.k8s.io/v1/clusterroles/a bä", Raw: "/apis/rbac.authorization.k8s.io/v1/clusterroles/a%20b%C3%A4"},
		"/api/v1/namespaces/n/services/https:s:443/proxy/a//b%2Fc;d?x;y=%": {Path: "/api/v1/namespaces/n/services/https:s:443/proxy/a//b/c;d", Raw: "/api/v1/namespaces/n/services/https:s:443/proxy/a//b%2Fc;d", Query: "x;y=%", Loose: true},
		"/api/v1/namespaces/n/services/s/proxy":                            {Path: "/api/v1/namespaces/n/services/s/proxy", Raw: "/api/v1/namespaces/n/services/s/proxy", Loose: true},
		"/api/v1/namespaces/n/services/s/proxy//":                          {Path: "/api/v1/namespaces/n/services/s/proxy//", Raw: "/api/v1/namespaces/n/services/s/proxy//", Loose: true},
		"/api/v1/nodes/n/proxy/metrics":                                    {Path: "/api/v1/nodes/n/proxy/metrics", Raw: "/api/v1/nodes/n/proxy/metrics", Loose: true},
		"/apis/cluster.example.io/v1/clusters/c/proxy/api//v1":             {Path: "/apis/cluster.example.io/v1/clusters/c/proxy/api//v1", Raw: "/apis/cluster.example.io/v1/clusters/c/proxy/api//v1", Loose: true},
		`/api/v1/namespaces/n/pods/p/proxy/a"<>[]^{|}` + "`":               {Path: `/api/v1/namespaces/n/pods/p/proxy/a"<>[]^{|}` + "`", Raw: "/api/v1/namespaces/n/pods/p/proxy/a%22%3C%3E%5B%5D%5E%7B%7C%7D%60", Loose: true},
		"/api/v1/namespaces/n/pods/p/proxy/a%252e%252e/b":                  {Path: "/api/v1/namespaces/n/pods/p/proxy/a%2e%2e/b", Raw: "/api/v1/namespaces/n/pods/p/proxy/a%252e%252e/b", Loose: true},
	} {
		got, err := ParseTarget(uri)
		if err != nil {
			t.Errorf("ParseTarget(%q): %v", uri, err)
			continue
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("ParseTarget(%q): %s", uri, d)
		}
	}
}

func TestAttributes(t *testing.T) {
	for _, c := range []struct {
		method, uri, upgrade string
		verb, resource, sub  string
		name, ns             string
		stream               bool
	}{
		{"GET", "/api/v1/namespaces/n/pods", "", "list", "pods", "", "", "n", false},
		{"GET", "/api/v1/namespaces/n/pods?watch=true", "", "watch", "pods", "", "", "n", true},
		{"GET", "/api/v1/namespaces/n/pods?watch=0", "", "list", "pods", "", "", "n", false},
		{"GET", "/api/v1/watch/pods", "", "watch", "pods", "", "", "", true},
		{"GET", "/api/v1/namespaces/n/pods?fieldSelector=metadata.name%3Dp", "", "list", "pods", "", "p", "n", false},
		{"HEAD", "/api/v1/namespaces/n/pods/p", "", "get", "pods", "", "p", "n", false},
		{"DELETE", "/api/v1/namespaces/n/pods", "", "deletecollection", "pods", "", "", "n", false},
		{"PATCH", "/apis/apps/v1/namespaces/n/deployments/d/scale", "", "patch", "deployments", "scale", "d", "n", false},
		{"GET", "/api/v1/namespaces/n/pods/p/log?follow=true", "", "get", "pods", "log", "p", "n", true},
		{"GET", "/api/v1/namespaces/n/pods/p/log?follow=0", "", "get", "pods", "log", "p", "n", false},
		{"GET", "/api/v1/namespaces/n/pods/p/exec?command=sh", WebSocket, "create", "pods", "exec", "p", "n", true},
		{"GET", "/api/v1/namespaces/n/pods/p/exec?command=sh", "", "create", "pods", "exec", "p", "n", true},
		{"POST", "/api/v1/namespaces/n/pods/p/attach", SPDY, "create", "pods", "attach", "p", "n", true},
		{"GET", "/api/v1/namespaces/n/pods/p/portforward", WebSocket, "create", "pods", "portforward", "p", "n", true},
		{"GET", "/api/v1/namespaces/n/services/s/proxy/exec?watch=true", "", "get", "services", "proxy", "s", "n", false},
		{"GET", "/api/v1/namespaces/n/services/s/proxy/ws", WebSocket, "get", "services", "proxy", "s", "n", true},
		{"GET", "/api/v1/namespaces/n", "", "get", "namespaces", "", "n", "n", false},
		{"PUT", "/api/v1/namespaces/n/finalize", "", "update", "namespaces", "finalize", "n", "n", false},
		{"GET", "/version", "", "get", "", "", "", "", false},
		{"GET", "/apis/apps/v1", "", "get", "", "", "", "", false},
	} {
		r, err := Parse(c.method, c.uri, c.upgrade)
		if err != nil {
			t.Errorf("%s %s: %v", c.method, c.uri, err)
			continue
		}
		a := r.Attributes
		if a.Verb != c.verb || a.Resource != c.resource || a.Subresource != c.sub || a.Name != c.name || a.Namespace != c.ns || r.Stream != c.stream {
			t.Errorf("%s %s: got %+v, stream %v", c.method, c.uri, a, r.Stream)
		}
		if a.ResourceRequest != (c.resource != "") {
			t.Errorf("%s %s: resource request %v", c.method, c.uri, a.ResourceRequest)
		}
	}
	for _, m := range []string{"CONNECT", "TRACE", "OPTIONS", "get", "", "PROPFIND"} {
		if _, err := Parse(m, "/api/v1/pods", ""); trust.KindOf(err) != trust.Unsupported {
			t.Errorf("method %q: %v", m, err)
		}
	}
}

func TestRedacted(t *testing.T) {
	for uri, want := range map[string]string{
		"/api/v1/pods?limit=1": "/api/v1/pods?limit=1",
		"/api/v1/namespaces/n/pods/p/exec?command=cat&command=secret&c%6Fmmand=x&stdin=true": "/api/v1/namespaces/n/pods/p/exec?command=redacted&command=redacted&command=redacted&stdin=true",
		"/api/v1/namespaces/n/services/s/proxy/a?token=secret":                               "/api/v1/namespaces/n/services/s/proxy/a?redacted",
		"/api/v1/namespaces/n/services/s/proxy/a":                                            "/api/v1/namespaces/n/services/s/proxy/a",
	} {
		r, err := Parse("GET", uri, "")
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Redacted(); got != want {
			t.Errorf("%s: got %s, want %s", uri, got, want)
		}
	}
}

const uid = "0b0c5a6e-1f2d-4c3b-8a79-0123456789ab"

func TestSplitCluster(t *testing.T) {
	for uri, want := range map[string]string{
		"/clusters/" + uid:              "/",
		"/clusters/" + uid + "/":        "/",
		"/clusters/" + uid + "?a=b":     "/?a=b",
		"/clusters/" + uid + "/api/v1":  "/api/v1",
		"/clusters/" + uid + "//api/v1": "//api/v1", // and ParseTarget refuses it
	} {
		c, rest, ok := SplitCluster(uri)
		if !ok || string(c) != uid || rest != want {
			t.Errorf("%s: %s %s %v", uri, c, rest, ok)
		}
	}
	for _, uri := range []string{"/clusters/", "/clusters/x/api", "/clusters/" + strings.ToUpper(uid) + "/api", "/clusters/" + uid + "x/api", "/cluster/" + uid, "/clusters/" + uid + "%2fapi", "/clusters/" + strings.Replace(uid, "b", "\u212a", 1)} {
		if _, _, ok := SplitCluster(uri); ok {
			t.Errorf("%q was taken", uri)
		}
	}
}

func TestImpersonationIsRefusedInEverySpelling(t *testing.T) {
	for _, name := range []string{"Impersonate-User", "impersonate-user", "IMPERSONATE-GROUP", "Impersonate-Uid", "Impersonate-Extra-Scopes", "Impersonate_User", "impersonate_Extra_x", "Impersonate-", "Impersonate"} {
		if err := CheckRequestHeaders(http.Header{name: {"x"}}, nil); trust.KindOf(err) != trust.Forbidden {
			t.Errorf("%s: %v", name, err)
		}
		if err := CheckRequestHeaders(http.Header{"Connection": {"close, " + name}}, nil); trust.KindOf(err) != trust.Forbidden {
			t.Errorf("Connection: %s: %v", name, err)
		}
	}
	if err := CheckRequestHeaders(http.Header{"X-Impersonate": {"x"}, "Accept": {"*/*"}}, nil); err != nil {
		t.Error(err)
	}
	if err := CheckRequestHeaders(http.Header{}, http.Header{"X-Late": nil}); trust.KindOf(err) != trust.Invalid {
		t.Errorf("trailers: %v", err)
	}
}

func TestFilterRequest(t *testing.T) {
	h := http.Header{
		"Accept": {"application/json"}, "User-Agent": {"kubectl"}, "Content-Type": {"application/json"}, "X-App-Token": {"theirs"},
		"X-Stream-Protocol-Version": {"v5.channel.k8s.io", "v4.channel.k8s.io"}, "Sec-Websocket-Key": {"k"}, "Traceparent": {"00-1"},
		"Sec-Websocket-Protocol": {"v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.c2VjcmV0", "v4.channel.k8s.io"},
		"Connection":             {"keep-alive, X-Named", "Sallyport-Binding, Authorization, Upgrade"}, "Upgrade": {"websocket"}, "X-Named": {"1"},
		"Authorization": {"Bearer secret"}, "Cookie": {"a=b"}, "X-Remote-User": {"root"}, "X-Remote-Group": {"system:masters"}, "X-Remote-Extra-A": {"1"},
		"x_remote_user": {"root"}, "X_Forwarded_For": {"1"}, "X-Forwarded-For": {"1"}, "X-Forwarded-Proto": {"1"}, "Forwarded": {"1"}, "X-Real-Ip": {"1"},
		"Proxy-Authorization": {"x"}, "Proxy-Connection": {"x"}, "Te": {"trailers"}, "Trailer": {"X"}, "Transfer-Encoding": {"chunked"}, "Keep-Alive": {"1"},
		"Sallyport-Binding": {"forged"}, "Sallyport-Anything": {"forged"}, "sallyport_binding": {"forged"}, "Audit-Id": {"theirs"}, "Http2-Settings": {"x"}, "Expect": {"100-continue"},
		"Impersonate-User": {"root"}, "X-Client-Cert": {"x"}, "X-Ms-Client-Principal-Id": {"x"}, "Via": {"x"},
	}
	FilterRequest(h)
	want := http.Header{
		"Accept": {"application/json"}, "User-Agent": {"kubectl"}, "Content-Type": {"application/json"}, "X-App-Token": {"theirs"},
		"X-Stream-Protocol-Version": {"v5.channel.k8s.io", "v4.channel.k8s.io"}, "Sec-Websocket-Key": {"k"}, "Traceparent": {"00-1"},
		"Sec-Websocket-Protocol": {"v5.channel.k8s.io, v4.channel.k8s.io"},
	}
	if d := cmp.Diff(want, h); d != "" {
		t.Error(d)
	}
	only := http.Header{"Sec-Websocket-Protocol": {"base64url.bearer.authorization.k8s.io.c2VjcmV0"}}
	if FilterRequest(only); len(only) != 0 {
		t.Error(only)
	}
}

func TestFilterResponse(t *testing.T) {
	h := http.Header{
		"Content-Type": {"text/html"}, "Warning": {"299 - x"}, "X-Kubernetes-Pf-Flowschema-Uid": {"1"}, "Content-Security-Policy": {"x"}, "Retry-After": {"1"},
		"Set-Cookie": {"a=b"}, "Strict-Transport-Security": {"x"}, "Access-Control-Allow-Origin": {"*"}, "Alt-Svc": {"x"}, "Audit-Id": {"x"},
		"Connection": {"X-Gone"}, "X-Gone": {"1"}, "Trailer": {"x"}, "Www-Authenticate": {"Basic"}, "Refresh": {"0; url=x"}, "Clear-Site-Data": {"*"}, "Sallyport-Reason": {"x"},
	}
	FilterResponse(h)
	want := http.Header{"Content-Type": {"text/html"}, "Warning": {"299 - x"}, "X-Kubernetes-Pf-Flowschema-Uid": {"1"}, "Content-Security-Policy": {"x"}, "Retry-After": {"1"}}
	if d := cmp.Diff(want, h); d != "" {
		t.Error(d)
	}
}

func TestRedirectsAreRefused(t *testing.T) {
	loc := http.Header{"Location": {"https://elsewhere"}}
	for code, h := range map[int]http.Header{301: loc, 302: loc, 303: loc, 304: loc, 307: loc, 308: loc, 399: loc} {
		if CheckResponse(code, h) == nil {
			t.Errorf("%d passed", code)
		}
	}
	for code, h := range map[int]http.Header{200: {}, 201: loc, 304: {}, 400: loc} {
		if err := CheckResponse(code, h); err != nil {
			t.Errorf("%d: %v", code, err)
		}
	}
}

func TestRefuse(t *testing.T) {
	err := trust.Errorf(trust.Forbidden, "no")
	pods := &trust.Attributes{Resource: "pods", Name: "p", ResourceRequest: true}
	for name, c := range map[string]struct {
		accept string
		a      *trust.Attributes
		text   bool
	}{
		"a resource":               {"application/json", pods, false},
		"nothing parsed":           {"application/json", nil, false},
		"a path":                   {"application/json", &trust.Attributes{Path: "/metrics"}, true},
		"discovery, before parsed": {"application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json", nil, true},
	} {
		w := httptest.NewRecorder()
		Refuse(w, &http.Request{Header: http.Header{"Accept": {c.accept}}}, err, c.a, 3)
		text := strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") && w.Body.String() == "no\n"
		var st Status
		object := json.Unmarshal(w.Body.Bytes(), &st) == nil && st.Message == "no" && st.Reason == "Forbidden" && st.Code == 403
		if w.Code != 403 || text != c.text || object == c.text || w.Header().Get("Retry-After") != "3" {
			t.Errorf("%s: %d %v %s", name, w.Code, w.Header(), w.Body)
		}
	}
	hidden := trust.Errorf(trust.Unavailable, "the part is away").Because(errors.New("secret detail"))
	if st := StatusOf(hidden, nil, 0); strings.Contains(st.Message, "secret") || st.Code != 503 {
		t.Errorf("%+v", st)
	}
	if st := StatusOf(errors.New("secret detail"), nil, 0); st.Message != "internal error" || st.Code != 500 {
		t.Errorf("%+v", st)
	}
}

func TestUpgrade(t *testing.T) {
	up := func(conn, proto string) http.Header {
		return http.Header{"Connection": {conn}, "Upgrade": {proto}}
	}
	for _, c := range []struct {
		h     http.Header
		major int
		len   int64
		want  string
		ok    bool
	}{
		{http.Header{}, 2, -1, "", true},
		{http.Header{"Connection": {"keep-alive"}}, 1, 0, "", true},
		{up("Upgrade", "websocket"), 1, 0, WebSocket, true},
		{up("keep-alive, upgrade", "WebSocket"), 1, 0, WebSocket, true},
		{up("Upgrade", "spdy/3.1"), 1, 0, SPDY, true},
		{up("Upgrade", "h2c"), 1, 0, "", false},
		{up("Upgrade", "websocket, h2c"), 1, 0, "", false},
		{up("close", "websocket"), 1, 0, "", false},
		{http.Header{"Connection": {"Upgrade"}}, 1, 0, "", false},
		{http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket", "SPDY/3.1"}}, 1, 0, "", false},
		{up("Upgrade", "websocket"), 2, 0, "", false},
		{up("Upgrade", "websocket"), 1, 5, "", false},
		{up("Upgrade", "websocket"), 1, -1, "", false},
	} {
		got, err := Upgrade(c.h, c.major, c.len)
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("%v HTTP/%d length %d: %q, %v", c.h, c.major, c.len, got, err)
		}
	}
}

func TestEnvelope(t *testing.T) {
	e := Envelope{Binding: uid, Revision: 42, RequestID: uid}
	h := http.Header{"Accept": {"x"}}
	e.Write(h)
	got, err := ReadEnvelope(h)
	if err != nil || got != e {
		t.Fatalf("%+v, %v", got, err)
	}
	for name, values := range map[string][]string{
		"Sallyport-Binding":    {"../x"},
		"Sallyport-Revision":   {"-1"},
		"Sallyport-Request-Id": {uid, uid},
		"Sallyport-Other":      {"1"},
		"sallyport_binding":    {uid},
	} {
		bad := h.Clone()
		bad[name] = values
		if _, err := ReadEnvelope(bad); err == nil {
			t.Errorf("%s: %q was taken", name, values)
		}
	}
	if _, err := ReadEnvelope(http.Header{}); err == nil {
		t.Error("an empty envelope was taken")
	}
}

// apiServer is RequestInfo as an API server reads it from the wire.
func apiServer(method, uri string) (*apirequest.RequestInfo, error) {
	u, err := url.ParseRequestURI(uri)
	if err != nil {
		return nil, err
	}
	f := apirequest.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
	return f.NewRequestInfo(&http.Request{Method: method, URL: u})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"/", "/api", "/api/v1/pods?watch=1", "/api/v1/namespaces/n/services/s/proxy/a//b%2Fc;d?x;y=%", "/apis/g/v/namespaces/n/r/x/proxy/%2e",
		"/api/v1/watch/namespaces/n/pods", "/api/v1/proxy/namespaces/n/pods/p/x", "/api/v1/namespaces/n/status", "/api/v1/namespaces/n/proxy/x/proxy/y",
		"/api/v1/namespaces/n/finalize/proxy//x", "/api/v1/nodes/n/proxy", "/apis/g/v1/clusterroles/system%3Anode", "/api/v1/pods/%2e%2e", "//", "/%2f", "/api/v1/namespaces/n/pods/p/log?follow=%31",
	} {
		f.Add("GET", s)
		f.Add("POST", s)
	}
	f.Fuzz(func(t *testing.T, method, uri string) {
		r, err := Parse(method, uri, "")
		if err != nil {
			return
		}
		sent := r.Target.URI()
		// What the agent reads is what the gateway read.
		again, err := Parse(method, sent, "")
		if err != nil {
			t.Fatalf("%q was sent as %q, which is refused: %v", uri, sent, err)
		}
		if d := cmp.Diff(r, again); d != "" {
			t.Fatalf("%q sent as %q: %s", uri, sent, d)
		}
		// What Go's parser reads, and would send on, is the same.
		u, err := url.ParseRequestURI(sent)
		if err != nil {
			t.Fatalf("%q: %v", sent, err)
		}
		if u.Path != r.Target.Path || u.EscapedPath() != r.Target.Raw || u.RequestURI() != sent {
			t.Fatalf("%q: Go reads %q %q, sends %q; we have %+v", sent, u.Path, u.EscapedPath(), u.RequestURI(), r.Target)
		}
		// What the API server authorizes is what we decide on.
		info, err := apiServer(method, sent)
		if err != nil {
			t.Fatalf("%q: the API server does not read it: %v", sent, err)
		}
		a := r.Attributes
		if !shell(a) && a.Verb != info.Verb && !r.Target.Loose {
			t.Fatalf("%q: verb %q, the API server has %q", sent, a.Verb, info.Verb)
		}
		want := []string{info.APIGroup, info.APIVersion, info.Namespace, info.Resource, info.Subresource, info.Name, info.Path}
		if d := cmp.Diff(want, []string{a.APIGroup, a.APIVersion, a.Namespace, a.Resource, a.Subresource, a.Name, a.Path}); d != "" {
			t.Fatalf("%q: %s", sent, d)
		}
		// Nothing in front of the service's own part can be cleaned further.
		deciding := r.Target.Path
		if r.Target.Loose {
			i := strings.Index(deciding, "/proxy")
			deciding = deciding[:i]
		}
		if c := path.Clean(deciding); c != deciding && c+"/" != deciding {
			t.Fatalf("%q: %q cleans to %q", sent, deciding, c)
		}
		if strings.ContainsAny(sent, "\\\r\n\t \x00#") {
			t.Fatalf("%q holds what it must not", sent)
		}
	})
}

func FuzzHeaders(f *testing.F) {
	f.Add("Impersonate-User", "x", "close")
	f.Add("x_remote-User", "x", "X-Remote-User, Sallyport-Binding")
	f.Add("Sec-WebSocket-Protocol", "a, base64url.bearer.authorization.k8s.io.abc", "Upgrade")
	f.Fuzz(func(t *testing.T, name, value, connection string) {
		h := http.Header{name: {value}, "Connection": {connection}}
		refused := CheckRequestHeaders(h, nil) != nil
		flat := strings.ReplaceAll(strings.ToLower(name), "_", "-")
		if strings.HasPrefix(flat, "impersonate-") && !refused {
			t.Fatalf("%q passed", name)
		}
		FilterRequest(h)
		Envelope{Binding: uid, Revision: 1, RequestID: uid}.Write(h)
		for left, values := range h {
			flat := strings.ReplaceAll(strings.ToLower(left), "_", "-")
			for _, p := range []string{"impersonate", "x-remote-", "x-forwarded-", "proxy-", "authorization", "cookie", "connection", "upgrade", "te", "transfer-encoding", "audit-id"} {
				if flat == p || strings.HasSuffix(p, "-") && strings.HasPrefix(flat, p) {
					t.Fatalf("%q is left", left)
				}
			}
			for _, v := range values {
				if strings.Contains(strings.ToLower(v), bearerProtocol) && flat == "sec-websocket-protocol" && strings.HasPrefix(strings.ToLower(strings.TrimSpace(v)), bearerProtocol) {
					t.Fatalf("%q: %q is left", left, v)
				}
			}
		}
		if _, err := ReadEnvelope(h); err != nil {
			t.Fatalf("the caller's headers spoiled the envelope: %v", err)
		}
	})
}

// FuzzEnvelope is what a gateway, perhaps a stolen one, tells an agent: whatever
// passes can be written as a part of a path, a header or an object's name.
func FuzzEnvelope(f *testing.F) {
	f.Add(uid, "7", uid, "X-Other", "1")
	f.Add(uid, "-1", "../x", "Sallyport-Binding", uid)
	f.Add(strings.ToUpper(uid), "07", uid, "sallyport-binding", uid)
	f.Add(uid, "9223372036854775808", uid, "Sallyport_Request-Id", uid)
	f.Fuzz(func(t *testing.T, binding, revision, id, name, value string) {
		h := http.Header{headerBinding: {binding}, headerRevision: {revision}, headerRequestID: {id}}
		h[name] = append(h[name], value)
		e, err := ReadEnvelope(h)
		if err != nil {
			return
		}
		if string(e.Binding) != binding || e.RequestID != id || strconv.FormatInt(e.Revision, 10) != revision || e.Revision < 0 {
			t.Errorf("%q %q %q became %+v", binding, revision, id, e)
		}
		for _, s := range []string{string(e.Binding), e.RequestID} {
			if len(s) != 36 || strings.Trim(s, "0123456789abcdef-") != "" {
				t.Errorf("%q passes", s)
			}
		}
		if flat := strings.ReplaceAll(strings.ToLower(name), "_", "-"); strings.HasPrefix(flat, "sallyport-") {
			t.Errorf("%q: %q passes beside the envelope", name, value)
		}
	})
}

// FuzzResponse is what a cluster answers: nothing that speaks for the gateway's
// own origin passes, in no spelling.
func FuzzResponse(f *testing.F) {
	f.Add("Set-Cookie", "a=b", "")
	f.Add("strict_transport-Security", "max-age=1", "Alt-Svc")
	f.Add("Access-Control-Allow-Origin", "*", "X-Keep, Content-Type")
	f.Add("X-Keep", "1", "X-Keep")
	f.Fuzz(func(t *testing.T, name, value, connection string) {
		h := http.Header{name: {value}, "Content-Type": {"application/json"}}
		if connection != "" {
			h["Connection"] = append(h["Connection"], connection)
		}
		FilterResponse(h)
		for left := range h {
			flat := strings.ReplaceAll(strings.ToLower(left), "_", "-")
			for _, p := range []string{"set-cookie", "set-cookie2", "strict-transport-security", "alt-svc", "access-control-", "clear-site-data", "proxy-", "sallyport-", "audit-id",
				"www-authenticate", "connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "refresh", "nel", "report-to", "public-key-pins"} {
				if flat == p || strings.HasSuffix(p, "-") && strings.HasPrefix(flat, p) {
					t.Fatalf("%q is left", left)
				}
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for name, uri := range map[string]string{"get": "/api/v1/namespaces/n/pods/p", "list": "/api/v1/namespaces/n/pods?limit=500"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse("GET", uri, ""); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
