package control

import (
	"strings"
	"testing"

	"github.com/sallyport/sallyport/netenv/probe"
	"github.com/sallyport/sallyport/store"
)

func TestProbesAreTheProxyAgentsAlone(t *testing.T) {
	w := newWorld(t).scene()
	k := w.connect(clusterPath)
	uid := w.cluster(clusterPath).UID
	connection := clusterPath + "/providers/Sallyport.Access/connections/default"
	if w.must(200, "GET", connection, nil).at("properties.probe") != nil {
		t.Error("a probe without a report")
	}
	report := probe.Report{Kind: probe.Kind, Cluster: "/subscriptions/somebody/elses/cluster", DNSServers: []string{"10.0.0.10"},
		Names: []probe.Name{{Name: "a.example", Addresses: []string{"10.1.2.3"}}}, Connections: []probe.Connection{{Host: "a.example", Port: 443, TCP: 1.5}}}
	if r := w.enrolled(k, uid, reconciler).call("POST", "/agents/v1/probe", report); r.status != 403 {
		t.Errorf("the reconciler's: %d", r.status)
	}
	agent := w.enrolled(k, uid, proxy)
	if r := agent.call("POST", "/agents/v1/probe", report); r.status != 204 || len(r.raw) != 0 {
		t.Fatalf("%d %s: an answer is none of the agent's business", r.status, r.raw)
	}
	got := w.must(200, "GET", connection, nil)
	if id := got.text("properties.probe.cluster"); !strings.EqualFold(id, clusterPath) {
		t.Errorf("the report is about %s, whatever it says of itself", id)
	}
	if names, _ := got.at("properties.probe.names").([]any); len(names) != 1 {
		t.Errorf("%s", got.raw)
	}
	bad := report
	bad.Names = []probe.Name{{Name: "<script>"}}
	if r := agent.call("POST", "/agents/v1/probe", bad); r.status != 400 {
		t.Errorf("a forged report: %d %s", r.status, r.raw)
	}
	w.background(w.control.Run)
	w.finished(w.call("admin", "DELETE", clusterPath, nil))
	w.eventually("the probe is gone with its cluster", func() bool {
		_, err := store.Get[store.AgentProbe](t.Context(), w.store, store.AgentProbe{Cluster: uid}.Key())
		return err != nil
	})
}
