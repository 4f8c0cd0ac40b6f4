package gateway

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/request"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// filled is a table with many bindings on many clusters, and a caller bound to
// one of them.
func filled(bindings int) (*table, *trust.Caller) {
	t := newTable([]string{issuerURL})
	now := time.Now()
	t.heard(now)
	t.synced = true
	for i := range bindings {
		uid := trust.ClusterUID(fmt.Sprintf("aaaaaaaa-aaaa-4aaa-8aaa-%012d", i))
		id := fmt.Sprintf("%s%d", clusterID, i)
		key := store.ResourceKey(id)
		t.clusters[key] = &place{key: key, uid: uid, name: id, around: surroundings(key)}
		for _, r := range trust.Published()[:3] {
			b := store.Binding{
				ID: id + "/trustedAccessRoleBindings/" + r.Name, UID: trust.BindingUID(fmt.Sprintf("%s-%d", r.Name, i)), ClusterID: id, ClusterUID: uid,
				SourceID: sourceID, Source: trust.Principal{Issuer: issuerURL, Tenant: tenant, Object: oid},
				Grants: []trust.Grant{{Role: r.FullName(), Rules: r.Rules}, {Role: roleName, Rules: reading()}},
			}
			t.put(b.Key(), &b, 1)
		}
	}
	t.sources[store.ResourceKey(sourceID)] = oid
	return t, &trust.Caller{Principal: trust.Principal{Issuer: issuerURL, Tenant: tenant, Object: oid}, ResourceID: sourceID, Expires: now.Add(time.Hour)}
}

// decideOnce is everything between the authenticated caller and the tunnel that
// is decided in memory.
func decideOnce(t *table, c *trust.Caller, cluster trust.ClusterUID, f *flight) (trust.Decision, error) {
	found := t.find(c, cluster)
	if len(found) == 0 {
		return trust.Decision{}, unbound(c, cluster)
	}
	return t.decide(f, found, netip.Addr{})
}

const someCluster = trust.ClusterUID("aaaaaaaa-aaaa-4aaa-8aaa-000000000007")

func TestDecidingDoesNotAllocate(t *testing.T) {
	table, caller := filled(100)
	f := &flight{caller: caller, attributes: &trust.Attributes{Verb: "list", Resource: "pods", Namespace: "n", APIVersion: "v1", ResourceRequest: true}}
	if d, err := decideOnce(table, caller, someCluster, f); err != nil || !d.Allowed {
		t.Fatal(d, err)
	}
	if n := testing.AllocsPerRun(1000, func() { _, _ = decideOnce(table, caller, someCluster, f) }); n > 0 {
		t.Errorf("%v allocations a decision", n)
	}
}

// known is an authenticator whose work is done.
type known struct{ caller trust.Caller }

func (k known) Authenticate(context.Context, string, authn.Audiences) (trust.Caller, error) {
	return k.caller, nil
}
func (known) Current(*trust.Caller) bool { return true }
func (known) Subscribe(func()) func()    { return func() {} }

// wayIn returns what one request costs before it is sent: authenticating with
// the token cached, finding, parsing, deciding, dressing.
func wayIn(t testing.TB) func() {
	table, caller := filled(100)
	g := &Gateway{config: Config{Base: base, Authn: known{*caller}}, audiences: authn.Audiences{base + "/gateways/westeurope"}, table: table}
	template := http.Header{"Authorization": {"Bearer x"}, "Accept": {"application/json"}, "User-Agent": {"kubectl"}, "Accept-Encoding": {"gzip"}}
	h := http.Header{}
	return func() {
		for k, v := range template {
			h[k] = v
		}
		c, err := g.authenticate(t.Context(), h, someCluster)
		if err != nil {
			t.Fatal(err)
		}
		found := table.find(c, someCluster)
		if err := request.CheckRequestHeaders(h, nil); err != nil {
			t.Fatal(err)
		}
		r, err := request.Parse("GET", "/api/v1/namespaces/n/pods/p", "")
		if err != nil {
			t.Fatal(err)
		}
		f := &flight{caller: c, attributes: &r.Attributes}
		if _, err := table.decide(f, found, netip.Addr{}); err != nil {
			t.Fatal(err)
		}
		request.FilterRequest(h)
		request.Envelope{Binding: bindingA, Revision: 12345, RequestID: newID()}.Write(h)
	}
}

func TestAllocationsOfTheWayIn(t *testing.T) {
	if n := testing.AllocsPerRun(1000, wayIn(t)); n > 16 {
		t.Errorf("%v allocations a request", n)
	}
}

func BenchmarkWayIn(b *testing.B) {
	once := wayIn(b)
	b.ReportAllocs()
	for b.Loop() {
		once()
	}
}

func TestNamesResource(t *testing.T) {
	for _, id := range []string{sourceID, strings.ToUpper(sourceID), "", "/x", sourceID + "/", strings.Replace(sourceID, "k", "\u212a", 1), strings.Replace(sourceID, "i", "\u0131", 1)} {
		c := &trust.Caller{ResourceID: id}
		for _, want := range []string{sourceID, strings.ToLower(sourceID), "", "/X"} {
			if got := namesResource(c, want); got != authn.NamesResource(c, want) {
				t.Errorf("%q against %q: %v", id, want, got)
			}
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, bindings := range []int{1, 1000} {
		b.Run(fmt.Sprintf("%d clusters", bindings), func(b *testing.B) {
			table, caller := filled(max(bindings, 8))
			f := &flight{caller: caller, attributes: &trust.Attributes{Verb: "list", Resource: "pods", Namespace: "n", APIVersion: "v1", ResourceRequest: true}}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := decideOnce(table, caller, someCluster, f); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestClientAddress(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, c := range []struct {
		trusted   []netip.Prefix
		remote    string
		forwarded []string
		want      string
	}{
		{nil, "192.0.2.1:1", []string{"1.2.3.4"}, "192.0.2.1"},
		{proxies, "192.0.2.1:1", []string{"1.2.3.4"}, "192.0.2.1"},
		{proxies, "10.0.0.1:1", []string{"1.2.3.4"}, "1.2.3.4"},
		{proxies, "10.0.0.1:1", []string{"6.6.6.6, 1.2.3.4, 10.0.0.2"}, "1.2.3.4"},
		{proxies, "10.0.0.1:1", []string{"6.6.6.6", "1.2.3.4"}, "1.2.3.4"},
		{proxies, "10.0.0.1:1", []string{"garbage, 10.0.0.2"}, "10.0.0.2"},
		{proxies, "10.0.0.1:1", nil, "10.0.0.1"},
		{proxies, "[fd00::1]:1", []string{"2001:db8::1"}, "2001:db8::1"},
		{proxies, "[::ffff:10.0.0.1]:1", []string{"1.2.3.4"}, "1.2.3.4"},
	} {
		r := &http.Request{RemoteAddr: c.remote, Header: http.Header{}}
		for _, v := range c.forwarded {
			r.Header.Add("X-Forwarded-For", v)
		}
		if got := ClientAddress(c.trusted)(r).String(); got != c.want {
			t.Errorf("%s %v: %s, want %s", c.remote, c.forwarded, got, c.want)
		}
	}
}

// A replica that has lost its lease counts as gone in the store: it must refuse
// until it has another one.
func TestLostLease(t *testing.T) {
	w := newWorld(t)
	far := &streams{}
	w.agent.set(far.ServeHTTP)
	resp := w.open(shared, "GET", "/api/v1/namespaces/n/pods?watch=1", nil, nil)
	defer resp.Body.Close()
	w.gw.replica.mu.Lock()
	lease := w.gw.replica.lease
	w.gw.replica.mu.Unlock()
	if err := lease.Close(); err != nil {
		t.Fatal(err)
	}
	w.eventually("what ran has ended", func() bool { return far.ended.Load() == 1 })
	w.agent.set(nil)
	w.eventually("it has another lease", func() bool { return w.gw.Ready() == nil })
	if r, body := w.do("GET", "/api/v1/namespaces/n/pods", nil); r.StatusCode != 200 {
		t.Errorf("%d %s", r.StatusCode, body)
	}
}
