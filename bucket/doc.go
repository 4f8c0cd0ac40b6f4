// Package bucket is a place for bytes: a bucket of any S3-compatible service. It
// signs URLs that let others read or write one object for minutes, lists, copies
// and deletes.
//
// It owns the protocol towards the store and the store's key. What the objects
// are, and who may have which, is its caller's business. Package folder below it
// is a store of our own, for development, that speaks the same protocol; package
// signed is for those who hold a signed URL.
package bucket
