// Package installation runs one whole Sallyport as processes of their own, for
// the stories below e2e/: servers, both agents, the command line, and services
// with identities.
//
// It owns what is built, where it listens, and that every process ends with the
// test; what a cluster is belongs to internal/devcluster, and what is expected
// to the stories.
package installation
