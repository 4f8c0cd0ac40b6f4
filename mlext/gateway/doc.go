// Package gateway is the extension's door in its cluster: the ML service comes
// in through the API server's service proxy, shows a workspace's token, and
// attaches computes, submits, watches, cancels and removes jobs, and reads logs.
//
// That a call arrives proves nothing: anybody with services/proxy and any pod
// can send one. Each call is held against the workspace's token and against the
// compute or job that it names. The gateway keeps what it was told as objects
// and follows logs into files; it creates nothing that runs.
package gateway
