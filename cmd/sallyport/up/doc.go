// Package up starts a whole Sallyport on this machine and tells the story of
// one binding: refused, allowed, revoked. It is what "sallyport up", "down" and
// "demo" run.
//
// It owns the plan that is shown before anything is built, the processes of
// that installation, and the steps of the story. Every step is a real command
// run against real servers; the package knows how to start them and nothing of
// how they work.
package up
