package arm

import (
	"net/http"
	"strings"
	"time"
)

// RequestIDs are the ids that every answer carries.
type RequestIDs struct {
	Request     string // ours, a GUID; also the id of an operation that the request starts
	Correlation string // the caller's, or Request
	Client      string // x-ms-client-request-id, "" if none was sent
}

// NewRequestIDs reads the caller's ids; request is a fresh GUID.
func NewRequestIDs(h http.Header, request string) RequestIDs {
	ids := RequestIDs{Request: request, Correlation: request}
	if c := h.Get("x-ms-correlation-request-id"); ValidGUID(c) {
		ids.Correlation = c
	}
	if c := h.Get("x-ms-client-request-id"); len(c) <= 128 && badSegment(c) == "" {
		ids.Client = c
	}
	return ids
}

// Write sets the headers that every answer of the control API carries.
func (ids RequestIDs) Write(h http.Header, region string, now time.Time) {
	h.Set("x-ms-request-id", ids.Request)
	h.Set("x-ms-correlation-request-id", ids.Correlation)
	h.Set("x-ms-routing-request-id", strings.ToUpper(NormalLocation(region))+":"+now.UTC().Format("20060102T150405Z")+":"+ids.Correlation)
	if ids.Client != "" {
		h.Set("x-ms-client-request-id", ids.Client)
	}
	h.Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-cache")
	h.Set("Pragma", "no-cache")
	h.Set("Expires", "-1")
}

// ContentType of every answer with a body.
const ContentType = "application/json; charset=utf-8"

// Challenge is the WWW-Authenticate header of a 401 (RFC 6750, 3). authority is
// the authority's URL of the tenant; code and description are "" when no token
// was sent.
func Challenge(authority, code, description string) string {
	s := `Bearer authorization_uri="` + quotable(authority) + `"`
	if code != "" {
		s += `, error="` + quotable(code) + `", error_description="` + quotable(description) + `"`
	}
	return s
}

// quotable drops what may not stand in a quoted-string.
func quotable(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			return -1
		}
		return c
	}, s)
}

// Bearer takes the token out of an Authorization header; ok is false when there
// is none, or more than one.
func Bearer(h http.Header) (token string, ok bool) {
	values := h.Values("Authorization")
	if len(values) != 1 {
		return "", false
	}
	scheme, token, found := strings.Cut(values[0], " ")
	token = strings.TrimSpace(token)
	if !found || !is(scheme, "Bearer") || token == "" {
		return "", false
	}
	return token, true
}
