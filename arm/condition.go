package arm

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/trust"
)

// ETag is the entity tag of a store revision.
func ETag(revision int64) string { return `"` + strconv.FormatInt(revision, 16) + `"` }

// Conditions are a request's If-Match and If-None-Match (RFC 9110, 13.1; ARM
// RPC addendum).
type Conditions struct {
	match, none []string
}

// ParseConditions reads the headers.
func ParseConditions(h http.Header) Conditions {
	return Conditions{match: tags(h.Values("If-Match")), none: tags(h.Values("If-None-Match"))}
}

func tags(values []string) []string {
	var out []string
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if t = strings.TrimPrefix(strings.TrimSpace(t), "W/"); t != "" {
				// ARM clients send the eTag property back without its quotes.
				out = append(out, strings.Trim(t, `"`))
			}
		}
	}
	return out
}

// Given tells whether there is any condition.
func (c Conditions) Given() bool { return len(c.match)+len(c.none) > 0 }

// Check holds the conditions against a resource; etag is "" if it does not
// exist. An error is of kind Precondition.
func (c Conditions) Check(etag string) error {
	tag := strings.Trim(etag, `"`)
	if len(c.match) > 0 && !holds(c.match, tag) {
		return Errorf(trust.Precondition, PreconditionFailed, "The condition 'If-Match' of the request is not met: the resource %s.", found(etag))
	}
	if len(c.none) > 0 && holds(c.none, tag) {
		return Errorf(trust.Precondition, PreconditionFailed, "The condition 'If-None-Match' of the request is not met: the resource %s.", found(etag))
	}
	return nil
}

func holds(tags []string, tag string) bool {
	for _, t := range tags {
		if tag != "" && (t == "*" || t == tag) {
			return true
		}
	}
	return false
}

func found(etag string) string {
	if etag == "" {
		return "does not exist"
	}
	return "has ETag " + etag
}
