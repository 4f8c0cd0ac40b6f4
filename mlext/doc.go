// Package mlext is what the ML extension keeps in its cluster: the kinds
// Compute and TrainingJob, Azure's InstanceType, the labels, and how they are
// read and written.
//
// Who may ask for what is package gateway's, what becomes of a TrainingJob
// package operator's; what travels to the ML service is package wire's.
package mlext
