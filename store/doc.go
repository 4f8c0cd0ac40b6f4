// Package store keeps every record of the system in etcd: one file per kind of
// record with its key and codec, plus transactions with compare-and-swap,
// watches with progress, and leases for what must vanish with a process.
//
// It owns keys, encoding and the etcd client or embedded server. It decides
// nothing: validation and states are package control's, the decision on a
// request is package trust's.
//
// What holds for the embedded etcd and for an external cluster alike:
//
//   - a Commit that returned without an error is on disk; one that failed with
//     anything but a ConflictError may or may not be;
//   - Get, List and Revision are linearizable: they see every Commit that
//     returned before they were called;
//   - a watch delivers whole transactions in order, without loss and without
//     repeats, across lost connections; how old its picture may be is in
//     Batch.Fresh and Watch.LastProgress;
//   - every call ends with its context or after Config.Timeout, and a store
//     that is away is an error of kind trust.Unavailable with ErrUnavailable in
//     it, never a wait;
//   - a Lease is lost by its holder's own clock before etcd lets it go.
//
// A full disk: an embedded store refuses writes below Config.Reserve. Should
// etcd meet a failing write all the same, the store ends (Done, Err) and the
// process lives on to say so; it should then exit.
package store
