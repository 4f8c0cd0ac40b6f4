package store

import (
	"fmt"
	"math"
	"time"

	"github.com/sallyport/sallyport/trust"
)

// Activity is an entry of the activity log: one request that changed something
// on the control API or was refused, or the end of an operation. It holds no
// body, no header and no token.
type Activity struct {
	ID           string // GUID
	Time         time.Time
	Subscription string // GUID, "" for what lies in none
	Operation    string // id of the operation that it began or ended, else of the request
	Correlation  string
	Resource     string // id
	Type         string // of the resource
	Action       string // "Microsoft.ContainerService/managedClusters/write"
	Ended        bool   // the end of an operation, not of a request
	Status       string // Accepted, Succeeded, Failed, Canceled
	Code         string // of the error
	HTTPStatus   int    `json:",omitempty"`

	Caller                                string // as people know it
	Object, ClientID, Tenant, ResourceID  string // of the caller
	Address, Method, ClientRequest, Agent string `json:",omitempty"`
}

// ActivityPrefix holds the activity log, by subscription.
const ActivityPrefix = "/activity/"

// ActivitiesOf is the prefix of one subscription's entries; "" is for what lies
// in none.
func ActivitiesOf(subscription string) string {
	if subscription == "" {
		subscription = "-"
	}
	return ActivityPrefix + trust.Fold(subscription) + "/"
}

// Key places an entry so that the newest comes first.
func (r Activity) Key() string {
	return ActivitiesOf(r.Subscription) + activityTime(r.Time) + "-" + trust.Fold(r.ID)
}

// ActivityBefore is a key that sorts before every entry of at or earlier, and
// after every later one.
func ActivityBefore(subscription string, at time.Time) string {
	return ActivitiesOf(subscription) + activityTime(at)
}

func activityTime(t time.Time) string { return fmt.Sprintf("%016x", math.MaxInt64-t.UnixNano()) }
