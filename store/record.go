package store

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/trust"
)

// Record is anything stored: a struct that knows its key. It is encoded as
// JSON; fields may be added, and unknown ones are ignored, so that servers of
// two versions can share a store during an upgrade.
type Record interface{ Key() string }

// Item is a record with the revisions that compare-and-swap goes by.
type Item[T any] struct {
	Value    T
	Revision int64 // of the last change (etcd's mod revision)
	Created  int64 // revision of the creation
}

// KV is a stored key as bytes.
type KV struct {
	Key      string
	Value    []byte
	Revision int64 // of the last change
	Created  int64 // revision of the creation
}

// Decode reads a stored value. An error is of kind Internal: what this package
// wrote, it can read.
func Decode[T Record](value []byte) (T, error) {
	var r T
	if err := json.Unmarshal(value, &r); err != nil {
		return r, trust.Errorf(trust.Internal, "a stored %T cannot be read", r).Because(err)
	}
	return r, nil
}

// encode is the inverse of Decode.
func encode(r Record) (string, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("encode %T: %w", r, err)
	}
	return string(b), nil
}

// checkKey refuses keys that would land outside every prefix.
func checkKey(key string) error {
	if len(key) < 2 || key[0] != '/' || strings.HasSuffix(key, "/") || strings.Contains(key, "//") {
		return trust.Errorf(trust.Internal, "%q is not a key of the store", key)
	}
	return nil
}

// shaped is implemented by records that share a prefix with others: Owns tells
// their keys apart.
type shaped interface{ Owns(key string) bool }

// span is the etcd range of a prefix. A prefix that ends in "/" means what
// lies below it; one that does not means that key and what lies below it, so
// that "/a" never means "/ab".
func span(prefix string) (from, end string) {
	if strings.HasSuffix(prefix, "/") {
		return prefix, prefix[:len(prefix)-1] + "0" // "0" follows "/"
	}
	return prefix, prefix + "0"
}

// within tells whether key is what prefix means. Needed beside span: between
// "/a" and "/a/" sort "/a-b" and "/a.b".
func within(prefix, key string) bool {
	if strings.HasSuffix(prefix, "/") {
		return strings.HasPrefix(key, prefix)
	}
	return key == prefix || len(key) > len(prefix) && key[len(prefix)] == '/' && key[:len(prefix)] == prefix
}
