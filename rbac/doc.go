// Package rbac turns roles and bindings into Kubernetes objects and compares
// them with what a cluster holds: names, the ClusterRoles an owner accepts, the
// objects of a binding, the plan that leads from what is to what should be, the
// agents' own rights, and the two admission policies that fence agents and
// bindings in.
//
// It owns every name and label of Sallyport inside a cluster. It is pure: API
// types and decisions only, no client, no clock. Package agent/reconcile
// applies its plans, package deploy writes its objects into a bundle, and an
// owner applies acceptances with their own rights.
package rbac
