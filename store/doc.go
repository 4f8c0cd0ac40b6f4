// Package store keeps every record of the system in etcd: one file per kind of
// record with its key and codec, plus transactions with compare-and-swap,
// watches with progress, and leases for what must vanish with a process.
//
// It owns keys, encoding and the etcd client or embedded server. It decides
// nothing: validation and states are package control's, the decision on a
// request is package trust's.
package store
