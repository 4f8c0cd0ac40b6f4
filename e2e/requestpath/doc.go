// Package requestpath holds no code: its tests send requests the whole way,
// from a caller through gateway, tunnel and proxy agent, to an API server that
// writes down what arrives and to a real one, kubectl included. What each room
// does alone is tested there; here is what only both together can get wrong.
package requestpath
