package gateway

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
	"github.com/sallyport/sallyport/tunnel"
)

// Who disconnects a cluster wants its agents out, perhaps because a certificate
// was stolen: it lasts an hour, and a tunnel as long as it is held open.
func TestDisconnectingEndsTunnels(t *testing.T) {
	w := newWorld(t)
	disconnected := w.cluster()
	disconnected.Enrolment = nil
	w.applied(w.commit(store.Put(disconnected)))
	w.eventually("the tunnel is cut", func() bool { return w.gw.Tunnels(clusterA) == 0 })
	if resp, body := w.do("GET", "/api/v1/namespaces/n/pods", nil); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	near, far := net.Pipe()
	defer near.Close()
	if err := w.gw.ServeTunnel(t.Context(), far, clusterA, tunnel.Term{}); trust.KindOf(err) != trust.Forbidden {
		t.Errorf("a tunnel of a disconnected cluster: %v", err)
	}
	w.seed()
	w.eventually("connected again", func() bool { return w.gw.table.known(clusterA) })
	w.connect(w.gw, clusterA, w.agent)
}

// An agent that answers the gateway's hello only when its cluster is gone gets
// no tunnel.
func TestATunnelThatIsBeingMadeIsCutToo(t *testing.T) {
	w := newWorld(t)
	w.gw.hub.Cut(string(clusterA))
	w.eventually("no tunnel", func() bool { return w.gw.Tunnels(clusterA) == 0 })
	near, far := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- w.gw.ServeTunnel(t.Context(), far, clusterA, tunnel.Term{}) }()
	first := make([]byte, 1)
	if _, err := near.Read(first); err != nil { // the gateway is past its questions
		t.Fatal(err)
	}
	disconnected := w.cluster()
	disconnected.Enrolment = nil
	w.applied(w.commit(store.Put(disconnected)))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = tunnel.Serve(ctx, &begun{Conn: near, first: first}, w.agent, tunnel.ServeConfig{})
	}()
	err := <-ended
	cancel()
	<-served
	if err == nil || w.gw.Tunnels(clusterA) != 0 {
		t.Errorf("%v, %d tunnels", err, w.gw.Tunnels(clusterA))
	}
}

// begun is a connection of which something was read already.
type begun struct {
	net.Conn
	first []byte
}

func (b *begun) Read(p []byte) (int, error) {
	if len(b.first) > 0 {
		n := copy(p, b.first)
		b.first = b.first[n:]
		return n, nil
	}
	return b.Conn.Read(p)
}

// A binding that is Updating for the first time, or Failed, gives nothing, the
// base set of discovery included.
func TestABindingWithoutGrantsLetsNobodyIn(t *testing.T) {
	w := newWorld(t)
	if resp, body := w.do("GET", "/version", nil); resp.StatusCode != http.StatusOK {
		t.Fatalf("with its grants: %d %s", resp.StatusCode, body)
	}
	b := w.binding()
	b.Grants = nil
	w.applied(w.commit(store.Put(b)))
	for _, path := range []string{"/version", "/api/v1/namespaces/n/pods"} {
		if resp, body := w.do("GET", path, nil); resp.StatusCode != http.StatusForbidden || !strings.Contains(body, "not in effect") {
			t.Errorf("GET %s: %d %s", path, resp.StatusCode, body)
		}
	}
}
