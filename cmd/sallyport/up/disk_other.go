//go:build !unix

package up

func diskFree(string) uint64 { return 0 }
