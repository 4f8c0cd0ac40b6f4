package store

import (
	"strings"
	"time"
)

// Registrations are the resource providers and features that a subscription
// registered or unregistered; what was never touched is not in it. They lie
// below the subscription, "/arm/subscriptions/<guid>/registrations".
type Registrations struct {
	Subscription string                  // GUID
	Providers    map[string]Registration // by namespace in lower case
	Features     map[string]Registration // by "namespace/feature" in lower case
}

// Registration is what was last asked for, and when.
type Registration struct {
	Registered bool
	Since      time.Time
}

const registrations = "/registrations"

// Key places the registrations of a subscription.
func (r Registrations) Key() string {
	return ResourceKey("/subscriptions/"+r.Subscription) + registrations
}

// Owns tells whether key is that of a subscription's registrations.
func (Registrations) Owns(key string) bool {
	guid, ok := strings.CutPrefix(key, "/arm/subscriptions/")
	guid, there := strings.CutSuffix(guid, registrations)
	return ok && there && guid != "" && !strings.Contains(guid, "/")
}
