// Package request is what gateway and agent agree on about one Kubernetes
// request: the cleaned target that is both decided on and sent, its
// attributes, whether it is an upgrade or runs long, which headers may pass in
// either direction, the envelope that travels between the two, and the Status
// object of a refusal.
//
// Both sides call the same functions on the same bytes, so that they cannot
// come to different answers. The package is pure: no I/O, no clock. It does not
// decide (package trust does), does not know bindings, and forwards nothing.
package request
