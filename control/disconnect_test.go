package control

import (
	"testing"
	"time"

	"github.com/sallyport/sallyport/mandate"
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
