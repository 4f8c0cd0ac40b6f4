package control

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/trust"
)

// bag is a JSON object whose members we know in part: what newer api-versions
// add is kept as it was sent and given back.
type bag map[string]json.RawMessage

// parseBag reads an object; null and nothing are an empty one.
func parseBag(raw json.RawMessage) (bag, error) {
	b := bag{}
	if len(raw) == 0 || string(bytes.TrimSpace(raw)) == "null" {
		return b, nil
	}
	if err := json.Unmarshal(raw, &b); err != nil {
		return nil, arm.Errorf(trust.Invalid, arm.InvalidRequestContent, "The request content was invalid and could not be deserialized: 'The member 'properties' is not an object.'")
	}
	return b, nil
}

// drop removes members, whatever their case.
func (b bag) drop(names ...string) bag {
	for k := range b {
		if slices.ContainsFunc(names, func(n string) bool { return arm.SameID(n, k) }) {
			delete(b, k)
		}
	}
	return b
}

// get decodes a member, whatever its case; false if it is not there.
func (b bag) get(name string, into any) (bool, error) {
	for k, raw := range b {
		if !arm.SameID(k, name) {
			continue
		}
		if err := json.Unmarshal(raw, into); err != nil {
			return true, arm.BadParameter("properties."+name, "it has the wrong type")
		}
		return true, nil
	}
	return false, nil
}

// has tells whether a member is there.
func (b bag) has(name string) bool { return b.raw(name) != nil }

func (b bag) raw(name string) json.RawMessage {
	for k, raw := range b {
		if arm.SameID(k, name) {
			return raw
		}
	}
	return nil
}

// set puts a member in, replacing one of the same name in any case.
func (b bag) set(name string, value any) bag {
	raw, err := json.Marshal(value)
	if err != nil {
		return b
	}
	b.drop(name)[name] = raw
	return b
}

// store is the bag as it is stored, nil when empty.
func (b bag) store() json.RawMessage {
	if len(b) == 0 {
		return nil
	}
	raw, err := json.Marshal(b)
	if err != nil {
		return nil
	}
	return raw
}

// others are the top-level members of a body that no record has a field for.
func others(body []byte) (json.RawMessage, error) {
	b, err := parseBag(body)
	if err != nil {
		return nil, err
	}
	b.drop(notOther...)
	for k, raw := range b {
		if string(raw) == "null" {
			delete(b, k)
		}
	}
	return b.store(), nil
}

// notOther are the top-level members that records have fields for, or that are
// nobody's to set.
var notOther = []string{"id", "name", "type", "location", "tags", "properties", "identity", "systemData", "etag", "apiVersion", "resourceGroup"}

// patched is a stored bag with the members of a patch; null removes one.
func patched(old json.RawMessage, patch bag) (json.RawMessage, error) {
	b, err := parseBag(old)
	if err != nil {
		return nil, err
	}
	for name, raw := range patch {
		b.drop(name)
		if string(raw) != "null" {
			b[name] = raw
		}
	}
	return b.store(), nil
}

// joined lists names for a message.
func joined(names []string) string { return strings.Join(names, ", ") }
