// Package operation finishes long-running work: an operation is stored, in the
// transaction that makes it necessary, before anything is done; some server
// takes it under its lease, runs the handler of its kind and stores the end.
// When that server dies or is stopped another one starts the handler again, so
// handlers are written to be repeated.
//
// It owns the operation's state, its reason, its problem and its removal. It
// knows nothing of what handlers do, nor of how an operation is shown.
package operation
