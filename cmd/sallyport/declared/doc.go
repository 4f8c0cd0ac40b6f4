// Package declared reads and writes resources kept as YAML in files: resource
// groups, trusted access roles, source resources with their federated
// credentials, managed clusters and trusted access role bindings.
//
// It owns the form of the files, what is wrong with them and where, and the
// order in which resources depend on each other. It speaks to no server; what
// a server has is compared and changed by the commands apply, diff and export.
package declared
