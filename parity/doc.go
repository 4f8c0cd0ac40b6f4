// Package parity compares Sallyport's own decisions with those of Kubernetes:
// what gateway and agent decide with the real RBAC authorizer, and what they
// read in a request with the API server's own reading of it.
//
// It owns tests only. It is a module of its own because the product must not
// depend on k8s.io/kubernetes.
package parity
