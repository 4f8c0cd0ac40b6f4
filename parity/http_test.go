package parity

import (
	"bufio"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/sallyport/sallyport/request"
	"github.com/sallyport/sallyport/trust"
)

// target makes request targets: real ones, and what somebody might try with
// them.
func (d dice) target() (method, uri string) {
	method = d.one([]string{"GET", "GET", "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"})
	var b strings.Builder
	switch n := d.IntN(100); {
	case n < 45:
		b.WriteString("/api/v1")
	case n < 80:
		b.WriteString("/apis/" + d.one(groups[1:]) + "/" + d.one([]string{"v1", "v1beta1"}))
	default:
		return method, d.one(urls) + d.one([]string{"", "/", "?x=y"})
	}
	if d.chance(6) {
		b.WriteString(d.one([]string{"/watch", "/proxy"}))
	}
	if d.chance(60) {
		b.WriteString("/namespaces/" + d.one(namespaces))
	}
	if d.chance(90) {
		b.WriteString("/" + d.one(resources))
		if d.chance(60) {
			b.WriteString("/" + d.one(names))
			if d.chance(50) {
				b.WriteString("/" + d.one(append(subs, "attach", "portforward", "finalize")))
				if d.chance(40) {
					b.WriteString("/" + d.one([]string{"", "x", "x/y", "http:a:80/z"}))
				}
			}
		}
	}
	uri = b.String()
	if d.chance(12) { // somebody trying
		tricks := [][2]string{{"/namespaces", "//namespaces"}, {"/pods", "/./pods"}, {"/secrets", "/../secrets"}, {"/a", "%2fa"}, {"/b", "/%62"}, {"/services", "/services;x"}, {"/api", "/API"}, {"/nodes", "/nodes/"}, {"v1", "v1%00"}, {"/c", "/%2e%2e/c"}}
		t := tricks[d.IntN(len(tricks))]
		uri = strings.Replace(uri, t[0], t[1], 1)
	}
	if d.chance(35) {
		uri += "?" + d.one([]string{"watch=true", "watch=1", "watch=false", "watch", "watch=True&watch=0", "fieldSelector=metadata.name%3Da", "fieldSelector=metadata.name%3Da&watch=1", "fieldSelector=metadata.name!%3Da", "command=sh&stdin=true", "follow=true", "labelSelector=x", "dryRun=All", "a;b", "x=%zz"})
	}
	return method, uri
}

var asTheAPIServer = apirequest.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}

// read is what an API server authorizes when these bytes arrive.
func read(t *testing.T, method, uri string) (authorizer.Attributes, error) {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " " + uri + " HTTP/1.1\r\nHost: x\r\n\r\n")))
	if err != nil {
		return nil, err
	}
	info, err := asTheAPIServer.NewRequestInfo(r)
	if err != nil {
		return nil, err
	}
	return filters.GetAuthorizerAttributes(apirequest.WithRequestInfo(r.Context(), info))
}

// Every request that gateway and agent let through is read by the API server as
// they read it, and decided as they decide it.
func TestRequestsAreReadAsTheAPIServerReadsThem(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(seed, 3))}
	tried, parsed, allowed, shells := 0, 0, 0, 0
	for range 1500 {
		w := newWorld(t, d)
		for range 20 {
			tried++
			method, uri := d.target()
			r, err := request.Parse(method, uri, "")
			if err != nil {
				if trust.KindOf(err) == trust.Internal {
					t.Fatalf("%s %s: refused without a kind: %v", method, uri, err)
				}
				continue
			}
			parsed++
			theirs, err := read(t, method, r.Target.URI())
			if err != nil {
				t.Fatalf("%s %s: the API server cannot read what is sent (%s): %v", method, uri, r.Target.URI(), err)
			}
			want := trust.Attributes{Verb: theirs.GetVerb(), APIGroup: theirs.GetAPIGroup(), APIVersion: theirs.GetAPIVersion(), Namespace: theirs.GetNamespace(),
				Resource: theirs.GetResource(), Subresource: theirs.GetSubresource(), Name: theirs.GetName(), Path: theirs.GetPath(), ResourceRequest: theirs.IsResourceRequest()}
			if want.ResourceRequest && (want.Subresource == "exec" || want.Subresource == "attach" || want.Subresource == "portforward") {
				want.Verb = "create" // by intent: whatever the method
				shells++
			}
			if r.Attributes != want {
				t.Fatalf("%s %s, sent as %s:\nread as   %+v\nAPI server %+v", method, uri, r.Target.URI(), r.Attributes, want)
			}
			for i, p := range w.agent {
				got, rbacs := p.Decide(&r.Attributes).Allowed, w.allows(t, i, &want)
				if got != rbacs {
					t.Fatalf("%s %s: agent says %v, RBAC %v\n%+v", method, uri, got, rbacs, w.bindings[i].Grants)
				}
				if got {
					allowed++
				}
			}
		}
	}
	t.Logf("%d requests, %d parsed, %d of them into a workload, %d times allowed", tried, parsed, shells, allowed)
	if 2*parsed < tried || shells < 100 || allowed < 1000 {
		t.Error("too little was tried")
	}
}
