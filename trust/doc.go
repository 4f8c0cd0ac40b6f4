// Package trust is the core of Sallyport: what a role, a binding, a source and
// a caller are, and the one function that decides whether a binding covers a
// Kubernetes request.
//
// It owns the vocabulary and the error kinds that every other room speaks. It
// does no I/O, reads no clock, and imports the standard library only. How
// roles look on the wire is package arm's, how they become Kubernetes objects
// is package rbac's, how a request is parsed is package request's.
package trust
