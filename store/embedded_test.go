package store_test

import "os"

const clusterLease = 10_000_000_000 // 10 s

func child() {
	if os.Getenv("SALLYPORT_TEST_STORE") == "" {
		return
	}
}
