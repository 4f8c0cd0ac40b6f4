// Package gateway is the way in: it lets a request through to a cluster when a
// binding of its caller covers it, and ends it when the binding does no more.
//
// A request passes these files in this order: authenticate.go (who calls),
// bindings.go (what is bound), decide.go (does a role cover it), streams.go
// (what runs, and how it is ended), proxy.go or upgrade.go (through the tunnel
// and back), status.go (refusals). feed.go keeps the bindings true to the
// store, replica.go tells the store how far this replica is, tunnels.go takes
// agents' connections and hands requests to peers that hold them, health.go
// says whether all that works.
//
// Every doubt is a refusal: no fresh word from the store for 4 s, no lease, an
// audit log that takes nothing. The decision is made in memory and nothing on
// the way waits for the store. It is package trust's; parsing and headers are
// package request's; verifying tokens is package authn's; the caller's token
// never leaves this process.
package gateway
