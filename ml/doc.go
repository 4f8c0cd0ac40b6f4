// Package ml is the ML service: a resource provider towards ARM, and towards
// clusters only a client, with the identities of its workspaces.
//
// It owns what lies under a workspace: computes, environments, jobs, and the
// operations that attach and follow them. Workspaces themselves, who may ask for
// what, and how it is asked are package control's; what runs in a cluster is
// package mlext's. provider.go says what is served, reach.go how a cluster's
// extension is reached, attach.go and follow.go are the operations, watch.go
// takes up again what had stopped.
package ml
