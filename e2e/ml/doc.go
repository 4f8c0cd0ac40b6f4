// Package ml holds no code: its tests are stories of machine learning on a real
// cluster, with real nodes: what a bound workspace does there, through the
// gateway and the extension, and nobody else.
//
// All share one cluster and one workspace, attached by the first test that asks
// (see start). Without a real node they are skipped.
package ml
