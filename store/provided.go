package store

import (
	"encoding/json"

	"github.com/sallyport/sallyport/trust"
)

// ProvidedPrefix holds the resources of resource providers that are mounted
// behind control's front, by their ids.
const ProvidedPrefix = "/provided"

// ProvidedKey is the key of a provided resource, or the prefix of what lies
// below one.
func ProvidedKey(id string) string { return ProvidedPrefix + trust.Fold(id) }

// Provided is a resource of a resource provider, below a source resource.
type Provided struct {
	ID, Type string // in the casing of its creation
	UID      string // new at each creation
	// Parent is the revision at which the source that it lies under was
	// created: one made anew under the same name has no children.
	Parent   int64
	Location string
	Tags     map[string]string

	Properties json.RawMessage // as last sent, what we do not know included
	Other      json.RawMessage `json:",omitempty"` // other top-level members as last sent
	Private    json.RawMessage `json:",omitempty"` // the provider's own, never shown

	State     string   // provisioningState, or a job's status
	Reason    string   // why it is in it, readable
	Problem   *Failure `json:",omitempty"`
	Operation string   // id of the operation in charge
	Stamp     Stamp
}

// Key places a provided resource.
func (r Provided) Key() string { return ProvidedKey(r.ID) }
