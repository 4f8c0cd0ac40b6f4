package gateway

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/sallyport/sallyport/request"
	"github.com/sallyport/sallyport/trust"
	"github.com/sallyport/sallyport/tunnel"
)

// upgrade sends an upgrade and, once the far side has upgraded, passes raw
// bytes both ways until either side or a revocation ends it. Any other answer
// is passed on as it is, and nothing stays open behind it.
func (x *exchange) upgrade(cluster trust.ClusterUID, out *http.Request) error {
	out.Header["Upgrade"] = []string{x.request.Upgrade}
	out.Header["Connection"] = []string{"Upgrade"}
	out.Body, out.ContentLength = nil, 0
	resp, far, err := x.g.openRaw(cluster, out)
	if err != nil {
		return unreachable(err)
	}
	if far == nil {
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusSwitchingProtocols {
			return trust.Errorf(trust.Unavailable, "the cluster answered an upgrade without one")
		}
		return x.answer(resp)
	}
	x.handle.Add(far)
	proto, err := request.Protocol(resp.Header.Get("Upgrade"))
	if err != nil || proto != x.request.Upgrade {
		return trust.Errorf(trust.Unavailable, "the cluster upgraded to another protocol than it was asked for")
	}
	// The record comes before the first byte of the answer.
	x.recordStart(http.StatusSwitchingProtocols)
	x.event.Code = http.StatusSwitchingProtocols
	x.g.metrics.streams.Inc()
	defer x.g.metrics.streams.Dec()

	conn, err := x.handle.Hijack()
	if err != nil {
		return err
	}
	x.begin() // the connection is ours: no other answer can be given
	if err := writeSwitch(conn, resp.Header, proto, x.event.ID); err != nil {
		return err
	}
	near := &counted{Conn: conn}
	_, _, err = tunnel.Join(near, far)
	x.event.In, x.event.Out = near.in.Load(), near.out.Load()
	if x.handle.Context().Err() == nil {
		x.event.Ended = "complete"
		if err != nil {
			x.event.Ended = "the connection broke"
		}
	}
	return nil
}

// writeSwitch writes the 101 answer: what the far side said, minus what may not
// pass.
func writeSwitch(w io.Writer, h http.Header, proto, id string) error {
	request.FilterResponse(h)
	h["Connection"] = []string{"Upgrade"}
	h["Upgrade"] = []string{proto}
	h[request.AuditID] = []string{id}
	b := bufio.NewWriterSize(w, 4<<10)
	_, _ = b.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = h.Write(b)
	_, _ = b.WriteString("\r\n")
	return b.Flush()
}

// counted counts the bytes of a caller's connection.
type counted struct {
	*tunnel.Conn
	in, out atomic.Int64
}

// Read implements io.Reader.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.in.Add(int64(n))
	return n, err
}

// Write implements io.Writer.
func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.out.Add(int64(n))
	return n, err
}

// openRaw takes this replica's own tunnel, or a peer's. The stream is nil when
// the far side did not upgrade.
func (g *Gateway) openRaw(cluster trust.ClusterUID, out *http.Request) (*http.Response, io.ReadWriteCloser, error) {
	if g.peers.enabled() && g.hub.Live(string(cluster)) == 0 {
		if resp, far, err := g.peers.openRaw(cluster, out); !errors.Is(err, tunnel.ErrNoTunnel) {
			return resp, far, err
		}
	}
	resp, s, err := g.hub.OpenRaw(string(cluster), out)
	if err != nil || s == nil {
		return resp, nil, err
	}
	return resp, s, nil
}
