package arm

import (
	"net/http"
	"strconv"
	"time"
)

// Operation is the document of a long-running operation, what the URL in
// Azure-AsyncOperation answers, always with 200.
type Operation struct {
	ID         string         `json:"id,omitempty"`
	Name       string         `json:"name"`
	Status     string         `json:"status"`
	StartTime  string         `json:"startTime,omitempty"`
	EndTime    string         `json:"endTime,omitempty"`
	Error      *Error         `json:"error,omitempty"`
	Properties map[string]any `json:"properties,omitempty"`
}

// Words of status and provisioningState.
const (
	InProgress = "InProgress"
	Succeeded  = "Succeeded"
	Failed     = "Failed"
	Canceled   = "Canceled"
	Updating   = "Updating"
	Deleting   = "Deleting"
)

// Terminal tells whether a status or provisioningState is a last one.
func Terminal(status string) bool {
	return is(status, Succeeded) || is(status, Failed) || is(status, Canceled)
}

// Time writes a time as operations do; "" for the zero time.
func Time(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.9999999Z")
}

// OperationLinks are where an operation is followed.
type OperationLinks struct {
	Async  string // the operation's document
	Result string // 202 while it runs, then 204 or its error
}

// Links are the URLs of an operation of namespace, e.g.
// "Microsoft.ContainerService", at a location of a subscription: they do not
// lie under the resource, so that they outlive it.
func Links(base, subscription, namespace, location, operation, version string) OperationLinks {
	at := base + "/subscriptions/" + subscription + "/providers/" + namespace + "/locations/" + NormalLocation(location)
	query := "?api-version=" + version
	return OperationLinks{Async: at + "/operations/" + operation + query, Result: at + "/operationresults/" + operation + query}
}

// Accepted sets the headers of a 202 to DELETE or POST: both links.
func (l OperationLinks) Accepted(h http.Header, retryAfter time.Duration) {
	h.Set("Azure-AsyncOperation", l.Async)
	h.Set("Location", l.Result)
	RetryAfter(h, retryAfter)
}

// Created sets the headers of a 201 or 200 to PUT: the operation's document
// alone, since the resource's own URL is its result.
func (l OperationLinks) Created(h http.Header, retryAfter time.Duration) {
	h.Set("Azure-AsyncOperation", l.Async)
	RetryAfter(h, retryAfter)
}

// RetryAfter sets the header in whole seconds, at least one.
func RetryAfter(h http.Header, d time.Duration) {
	h.Set("Retry-After", strconv.Itoa(max(1, int((d+time.Second-1)/time.Second))))
}
