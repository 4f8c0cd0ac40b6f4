//go:build !unix

package store

import (
	"os"

	"github.com/sallyport/sallyport/trust"
)

// lockDir refuses: the server is built for Linux, the client tools never open
// a store.
func lockDir(string) (*os.File, error) {
	return nil, trust.Errorf(trust.Unsupported, "an embedded store needs a Unix system")
}

func freeBytes(string) (int64, error) {
	return 0, trust.Errorf(trust.Unsupported, "an embedded store needs a Unix system")
}
