// Package control is the control plane: the ARM API for people and programs, the
// agents' API, and the long-running operations that make both come true.
//
// One file per ARM resource: subscriptions.go, groups.go, clusters.go, roles.go
// (trusted access roles, built in and one's own), bindings.go, sources.go,
// federated.go, secrets.go, assignments.go, definitions.go and customroles.go
// (roles of the control API), connections.go, operations.go, activity.go (what is
// written of each change), eventtypes.go (how that is read). throttle.go counts
// callers. routes.go is the whole API on one screen. front.go holds the checks that every request passes before its resource sees it, in this order:
// who calls, api-version, subscription, right, resource group, parent.
// status.go is the server's own health; gateways.go issues their certificates.
// agents_*.go are what a cluster's agents speak with; apply.go, remove.go and
// cascade.go are the operations; picture.go and wait.go wake who waits for an
// agent or a gateway.
//
// It owns the records below /arm, /roles, /mandates, /agents, identities and
// federated credentials. Everything that takes a right away is one transaction
// that changes the records and touches the mandate of every cluster concerned;
// what gateways and agents do about it is theirs. Tokens are package authority's
// and authn's; how the dialect is written is package arm's.
package control
