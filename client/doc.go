// Package client speaks to a Sallyport server: the ARM API for people and
// programs, the agents' API for what runs in a cluster.
//
// It owns the calls and their shapes, paging, long-running operations, how a
// caller gets its token and keeps it, which CA it trusts, and the file of
// contexts. It prints nothing and decides nothing about rights. Of all packages
// here it alone promises compatibility: exported names stay, fields may come.
package client
