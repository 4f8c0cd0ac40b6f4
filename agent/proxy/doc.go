// Package proxy is the agent that holds the tunnel: it takes requests from
// gateways, decides on each of them again from the state that the control plane
// signed, attaches the binding's own short-lived token, and forwards to the one
// API server it was started for.
//
// It trusts a gateway with nothing but the traffic: the binding a gateway names
// must stand in the signed state, the request must be covered by that binding's
// grants, and the state must be fresh. It owns the requests that are running,
// and ends them when the state takes their right away, when it goes stale, or
// when the cluster itself no longer lets the binding's identity do what a
// stream does.
//
// It holds no right of its own but making tokens of binding ServiceAccounts. It
// writes no RBAC: that is package agent/reconcile, another process with another
// identity.
package proxy
