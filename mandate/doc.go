// Package mandate is what the control plane tells a cluster's two agents, and
// what they answer: the signed state, its floor, nonces and freshness, and the
// reconciler's report.
//
// It owns the bytes and their checks. It does no I/O and starts nothing: who
// sends, receives and applies is package control's, client's and the agents'
// business. Gateways hold no key of it, so nothing about bindings can be forged
// by what stands between the control plane and the agents.
package mandate
