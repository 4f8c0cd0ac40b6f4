// Package sallyport is the map of the code; it holds no code of its own.
//
// The folder list is the architecture: each folder at the root is a room named
// after a thing of the domain, and rooms meet only in the composition functions
// under cmd/. Which room may import which is written in arch_test.go, and
// docs/architecture.md follows one request through them by file name.
//
// Only package client is a public API; every other package may change at any
// time.
package sallyport
