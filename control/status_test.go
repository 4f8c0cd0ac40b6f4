package control

import (
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/store"
)

const statusPath = "/providers/Sallyport.Access/status/default"

// codes are the codes of the warnings, and next what to do about each.
func warnings(t *testing.T, r *reply) map[string]string {
	t.Helper()
	all := map[string]string{}
	list, _ := r.at("properties.warnings").([]any)
	for _, w := range list {
		m, _ := w.(map[string]any)
		code, _ := m["code"].(string)
		message, _ := m["message"].(string)
		next, _ := m["next"].(string)
		if code == "" || message == "" || next == "" {
			t.Errorf("a warning that says too little: %v", m)
		}
		all[code] += message + " " + next + "\n"
	}
	return all
}

// Each thing that is not as it should be is said once, with what to do next.
func TestStatusSaysWhatNeedsLookingAfter(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	put := func(records ...store.Record) {
		t.Helper()
		var ops []store.Op
		for _, r := range records {
			ops = append(ops, store.Put(r))
		}
		if _, err := w.store.Commit(t.Context(), ops...); err != nil {
			t.Fatal(err)
		}
	}
	status := func() *reply { t.Helper(); return w.must(200, "GET", statusPath, nil) }
	expect := func(r *reply, code, says string) {
		t.Helper()
		if got := warnings(t, r)[code]; !strings.Contains(got, says) {
			t.Errorf("%s says %q, want %q in it", code, got, says)
		}
	}
	silent := func(r *reply, codes ...string) {
		t.Helper()
		for _, c := range codes {
			if got, there := warnings(t, r)[c]; there {
				t.Errorf("%s: %s", c, got)
			}
		}
	}

	// Nothing runs but control's own API.
	r := status()
	expect(r, "NoGateway", "location local")
	expect(r, "SigningKeyNotRotated", "authority")
	expect(r, "ClusterAway", "sallyport cluster connect -g rg -n blue --subscription "+subscription)

	// All is well, with the roles apart.
	now := w.now().UTC()
	process := func(role string, change func(*store.Server)) store.Server {
		s := store.Server{Replica: role + "-1", Host: "host-" + role, Version: "v1", Roles: []string{role}, Location: "local", Started: now,
			Certificates: []store.ServerCertificate{{Use: store.UseServer, Expires: now.Add(90 * 24 * time.Hour)}}}
		if change != nil {
			change(&s)
		}
		return s
	}
	put(process("control", func(s *store.Server) { s.Store = &store.Usage{Size: 10 << 20, Quota: 100 << 20} }), process("authority", nil), process("gateway", nil),
		store.Gateway{Replica: "gateway-1", Location: "local"}, store.Tunnel{Cluster: "u", Replica: "gateway-1"},
		store.SigningKey{KeyID: "k", NotBefore: now.Add(-time.Hour), RetireAfter: now.Add(48 * time.Hour)})
	w.runAgents(clusterPath, nil)
	r = status()
	if got := warnings(t, r); len(got) != 0 {
		t.Errorf("%v", got)
	}
	if r.at("properties.rolesApart") != true || r.at("properties.gateways") != 1.0 || r.at("properties.tunnels") != 1.0 ||
		r.at("properties.clusters.connected") != 1.0 || r.text("properties.store.kind") != "external" || len(r.at("properties.servers").([]any)) != 3 {
		t.Errorf("%s", r.raw)
	}

	// And now it is not.
	put(process("gateway", func(s *store.Server) {
		s.Version, s.Problems, s.Audit = "v2", []string{"gateway: no space left"}, "gateway: no space left"
		s.Certificates = []store.ServerCertificate{{Use: store.UseServer, Expires: now.Add(24 * time.Hour)}, {Use: store.UsePeer, Expires: now.Add(time.Hour), Renewed: true}}
	}), process("control", func(s *store.Server) { s.Store = &store.Usage{Size: 90 << 20, Quota: 100 << 20} }),
		store.Gateway{Replica: "gateway-2", Location: "local"})
	r = status()
	expect(r, "VersionsDiffer", "v1, v2")
	expect(r, "AuditFailing", "host-gateway")
	expect(r, "StoreNearlyFull", "80 %")
	expect(r, "NoHandOver", "peers.listen")
	expect(r, "CertificateEnds", "renewed by itself")
	silent(r, "NoGateway", "ClusterAway", "RolesTogether", "SigningKeyNotRotated", "ServerNotReady")
	put(process("gateway", func(s *store.Server) { s.Problems = []string{"directory: it has not been read"} }))
	expect(status(), "ServerNotReady", "it has not been read")
	put(process("control", func(s *store.Server) { s.Roles = []string{"control", "authority"} }))
	r = status()
	silent(r, "RolesTogether") // who has one of the two has the other
	if r.at("properties.rolesApart") != false {
		t.Error("it says that all roles run apart")
	}
	put(process("control", func(s *store.Server) { s.Roles = []string{"control", "gateway"} }))
	expect(status(), "RolesTogether", "docs/production.md")
	w.advance(47 * time.Hour)
	expect(status(), "SigningKeyNotRotated", "authority")

	// It is for readers of everything.
	if r := w.call("stranger", "GET", statusPath, nil); r.status != 403 {
		t.Errorf("a stranger: %d", r.status)
	}
}

// A gateway's request is answered for what control decides, once, and again for
// the next key; a request that names another place than its own is not.
func TestGatewaysGetCertificates(t *testing.T) {
	t.Parallel()
	ca, err := pki.NewCA(pki.Gateways, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(c *Config) { c.GatewayCA = ca })
	ask := func(r store.CertificateRequest) int64 {
		t.Helper()
		revision, err := w.store.Commit(t.Context(), store.Put(r))
		if err != nil {
			t.Fatal(err)
		}
		return revision
	}
	answer := func(replica, use string, revision int64) (c store.GatewayCertificate) {
		t.Helper()
		w.eventually("control has answered", func() bool {
			item, err := store.Get[store.GatewayCertificate](t.Context(), w.store, store.GatewayCertificate{Replica: replica, Use: use}.Key())
			c = item.Value
			return err == nil && c.Request == revision
		})
		return c
	}
	csr, key, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	question := store.CertificateRequest{Replica: "r1", Use: store.UsePeer, CSR: csr}
	first := answer("r1", store.UsePeer, ask(question))
	pair, err := pki.Certificate(first.Chain, key)
	if err != nil {
		t.Fatal(err)
	}
	if name, err := pki.ParseGateway(pair.Leaf); err != nil || name != "r1" || pair.Leaf.NotAfter.Sub(w.now()) > pki.GatewayLife {
		t.Errorf("%q %v until %s", name, err, pair.Leaf.NotAfter)
	}
	if second := answer("r1", store.UsePeer, ask(question)); string(second.Chain) == string(first.Chain) {
		t.Error("the same certificate twice")
	}
	for name, r := range map[string]store.CertificateRequest{
		"for callers, without a CA": {Replica: "r1", Use: store.UseServer, CSR: csr},
		"no request":                {Replica: "r2", Use: store.UsePeer, CSR: []byte("x")},
		"another use":               {Replica: "r1", Use: "agents", CSR: csr},
		"a name of nobody":          {Replica: "r.1", Use: store.UsePeer, CSR: csr},
	} {
		if c := answer(r.Replica, r.Use, ask(r)); c.Refused == "" || len(c.Chain) != 0 {
			t.Errorf("%s: %+v", name, c)
		}
	}
	if _, err := w.store.Commit(t.Context(), store.Delete(question.Key(), 0)); err != nil {
		t.Fatal(err)
	}
	w.eventually("the certificate goes with the request", func() bool {
		_, err := store.Get[store.GatewayCertificate](t.Context(), w.store, first.Key())
		return err != nil
	})
}
