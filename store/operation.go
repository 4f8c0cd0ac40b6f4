package store

import (
	"encoding/json"
	"time"

	"github.com/sallyport/sallyport/trust"
)

// OperationPrefix holds long-running operations.
const OperationPrefix = "/operations/"

// The states of an operation; all but the first are final.
const (
	OperationInProgress = "InProgress"
	OperationSucceeded  = "Succeeded"
	OperationFailed     = "Failed"
	OperationCanceled   = "Canceled"
)

// Operation is a long-running operation: stored before it starts, finished by
// whichever server holds its lease.
type Operation struct {
	ID           string // GUID
	Kind         string // which handler runs it: "binding.apply", …
	Subscription string // GUID, for its URL
	Location     string
	Target       string // resource id it works on
	Caller       string // oid of who asked
	Status       string // one of the four above
	Started      time.Time
	Ended        time.Time
	Problem      *Failure `json:",omitempty"`
	Reason       string   // what it waits for
	Input        json.RawMessage
}

// Key places an operation.
func (r Operation) Key() string { return OperationPrefix + trust.Fold(r.ID) }

// Done tells whether the operation has ended.
func (r Operation) Done() bool { return r.Status != OperationInProgress }
