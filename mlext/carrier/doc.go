// Package carrier runs in the pods of jobs and deployments: it fills folders
// from the workspace's store before the program starts, and keeps what the
// program writes. It asks the extension's gateway for signed URLs, with its pod's
// token, and moves the bytes itself.
//
// It owns what a file is on the way: whole or not there. What the mounts mean is
// the ML service's business.
package carrier
