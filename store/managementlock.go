package store

import (
	"strings"

	"github.com/sallyport/sallyport/trust"
)

// ManagementLock keeps what lies at a scope and below it from being deleted or
// changed by requests: one of Microsoft.Authorization's locks.
type ManagementLock struct {
	ID     string   // <scope>/providers/Microsoft.Authorization/locks/<name>
	Scope  string   // id of a subscription, a resource group or a resource
	Name   string   // as it was sent
	Level  string   // CanNotDelete or ReadOnly
	Notes  string   `json:",omitempty"`
	Owners []string `json:",omitempty"` // application ids
	Stamp  Stamp
}

// LocksPrefix holds the locks of all scopes.
const LocksPrefix = "/locks/"

// LocksBelow is the prefix of the locks at a scope and below it.
func LocksBelow(scope string) string {
	return LocksPrefix + trust.Fold(strings.TrimPrefix(scope, "/")) + "/"
}

// LocksAt is the prefix of the locks at one scope. No resource type is named
// ":".
func LocksAt(scope string) string { return LocksBelow(scope) + ":/" }

// Key places a lock at its scope.
func (r ManagementLock) Key() string { return LocksAt(r.Scope) + trust.Fold(r.Name) }
