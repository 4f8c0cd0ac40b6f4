package control

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/store"
)

// Agents of a cluster that was disconnected are told nothing any more, on a
// stream that is open already least of all.
func TestDisconnectingEndsStateStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	k := w.connect(clusterPath)
	a := w.enrolled(k, w.cluster(clusterPath).UID, proxy)
	heard := make(chan mandate.State, 10)
	ended := make(chan error, 1)
	go func() { ended <- a.listen(t.Context(), func(s mandate.State) { heard <- s }) }()
	<-heard
	w.must(200, "DELETE", clusterPath+"/providers/Sallyport.Access/connections/default", nil)
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the stream goes on")
	}
	w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload))
	if n := len(heard); n != 0 {
		t.Errorf("%d states after the disconnection", n)
	}
	if r := a.call("GET", "/agents/v1/state", nil); r.status != 403 {
		t.Errorf("%d %s", r.status, r.raw)
	}
}

// The deletion of a cluster waits for agents that may still let somebody through,
// and for nothing else: not for one that has said that it ends.
func TestDeletingAClusterWaitsForNobodyWhoHasLeft(t *testing.T) {
	t.Parallel()
	leave := func(w *world, a *fakeAgent) {
		t.Helper()
		r := a.call("POST", "/agents/v1/nonce", map[string]any{"nonce": mandate.NewNonce(), "instance": a.process, "version": "test", "leaving": true})
		if r.status != 204 {
			w.t.Fatalf("%d %s", r.status, r.raw)
		}
	}
	state := func(w *world) string {
		return w.must(200, "GET", clusterPath+"/providers/Sallyport.Access/connections/default", nil).text("properties.state")
	}
	deleted := func(w *world) bool { return w.call("admin", "GET", clusterPath, nil).status == 404 }

	// Both have left: nobody is waited for.
	w := newWorld(t, func(c *Config) { c.AgentBound = time.Hour }).scene()
	a := w.runAgents(clusterPath, nil)
	a.stop()
	leave(w, a.proxy)
	leave(w, a.reconciler)
	leave(w, a.reconciler) // a process that is not known has nothing to leave
	if got := state(w); got != "Disconnected" {
		t.Errorf("the cluster is %s", got)
	}
	w.must(202, "DELETE", clusterPath, nil)
	w.eventually("the cluster is deleted", func() bool { return deleted(w) })

	// One process of the proxy has left, another has not: it is waited for.
	w = newWorld(t, func(c *Config) { c.AgentBound = time.Hour }).scene()
	a = w.runAgents(clusterPath, nil)
	a.stop()
	leave(w, a.reconciler)
	second := *a.proxy
	second.process = "proxy-2"
	second.ask()
	leave(w, a.proxy)
	w.must(202, "DELETE", clusterPath, nil)
	w.eventually("the deletion waits for the one that has not left", func() bool {
		ops, _, err := store.List[store.Operation](t.Context(), w.store, store.OperationPrefix)
		return err == nil && slices.ContainsFunc(ops, func(o store.Item[store.Operation]) bool {
			return o.Value.Kind == opClusterDelete && strings.Contains(o.Value.Reason, "proxy agent")
		})
	})
	if deleted(w) {
		t.Error("the cluster is gone")
	}
	leave(w, &second)
	w.eventually("the cluster is deleted", func() bool { return deleted(w) })
}
