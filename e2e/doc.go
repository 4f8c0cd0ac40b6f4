// Package e2e holds no code: its tests are stories on the real binaries, as
// processes of their own, in front of a real API server, with a real node where
// one can run. What two rooms get wrong together is found in requestpath; here
// is what only the whole does: what takes a right away, what survives kill -9,
// which clusters and consumers it works for. Package ml tells the stories of
// machine learning.
//
// Everything is short by default. SALLYPORT_E2E_RUNS=200 makes the distribution
// of revocation times out of 200 runs. SALLYPORT_E2E_LONG=1 sends 100 MB instead
// of 8, each way, through cp, exec and services/proxy, and as one answer of the
// API server; and it keeps a watch and an exec silent for 70 s instead of 15.
// SALLYPORT_E2E_BIN names a folder with the three binaries, which are built
// otherwise.
package e2e
