// Package audit writes one line per proxied request (two for one that runs
// long) in the form of audit.k8s.io/v1, so that existing tools read it.
//
// It owns the record, the names of its annotations, the encoding, the bounded
// queue and the one writer. It loses nothing silently: when the queue has been
// full for a second Admit refuses new requests and Ready says so, until the
// sink takes lines again; what ran meanwhile is recorded then.
//
// What is written about a request is package gateway's choice; redaction of
// targets is package request's. Bodies, headers and tokens have no place in a
// record.
package audit
