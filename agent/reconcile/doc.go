// Package reconcile makes a cluster hold what the signed state says, within
// what the cluster's owner accepted: state in, rbac.Plan, apply, report out.
//
// It owns the loop: when to look, when to apply nothing, what to tell the
// control plane. What should be there and how it is named is package rbac's,
// whom to believe is package mandate's. It holds no tunnel and sees no request.
package reconcile
