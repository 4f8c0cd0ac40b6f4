// Package router stands between callers and the model servers of online
// deployments: it finds the endpoint by its key or token, the deployment by the
// traffic split or a header, a replica with room, and carries the request there.
//
// Several routers share the replicas. What a replica takes at once
// (maxConcurrentPerInstance) is a number of slots; one router, by a Lease, is the
// coordinator and hands slots to routers, which use them again and again without
// asking, until somebody else waits (ledger.go, pool.go). The same router decides
// how many replicas there should be (scale.go).
//
// It owns nothing that runs: replicas are package operator's, endpoints and
// deployments are written by package gateway. It keeps nothing.
package router
