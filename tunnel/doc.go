// Package tunnel is the reverse tunnel between a gateway and the clusters
// that nothing reaches from outside: HTTP/2 over mutual TLS 1.3 on
// connections that the agent inside the cluster dials.
//
// The roles are reversed after the handshake. The side that dialled (the
// agent) serves HTTP/2, the side that accepted (the gateway) sends requests:
//
//	gateway                                     agent
//	Hub.Serve(conn)   <──── TCP, TLS ──────     Dial
//	  hello           ───── stream 1 ─────▶     Serve: accepts or refuses
//	Hub.RoundTrip     ───── stream n ─────▶     http.Handler
//	Hub.OpenRaw       ───── stream m ─────▶     Handle.Upgrade, raw bytes
//	  drain, drained  ◀──── stream 1 ─────▶     drain, drained
//	  OnEnded         ◀──── stream 1 ──────     Handle.End of a named request
//
// It owns: the connections of this process and which of them takes a request,
// flow-control limits, liveness, gathering what is written, the drain notice,
// raw (upgraded) streams, reconnecting, and ending a running request from outside
// (Handle.End), for which cancelling a context is not enough in Go's HTTP/2.
//
// It does not know Kubernetes, tokens, certificates' meaning or who may do
// what: the caller hands in connections that are already authenticated, and
// names the cluster that each belongs to.
package tunnel
