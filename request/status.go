package request

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/trust"
)

// Status is metav1.Status as kubectl and client-go read it, with the fields
// that a refusal needs
// (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/).
type Status struct {
	Kind       string         `json:"kind"`
	APIVersion string         `json:"apiVersion"`
	Metadata   struct{}       `json:"metadata"`
	Status     string         `json:"status"`
	Message    string         `json:"message"`
	Reason     string         `json:"reason"`
	Details    *StatusDetails `json:"details,omitempty"`
	Code       int            `json:"code"`
}

// StatusDetails names the object and says when to come back.
type StatusDetails struct {
	Name              string `json:"name,omitempty"`
	Group             string `json:"group,omitempty"`
	Kind              string `json:"kind,omitempty"`
	RetryAfterSeconds int    `json:"retryAfterSeconds,omitempty"`
}

type statusOf struct {
	code   int
	reason string
}

// By kind; Internal for what is not listed.
var statuses = map[trust.Kind]statusOf{
	trust.Internal:        {http.StatusInternalServerError, "InternalError"},
	trust.Invalid:         {http.StatusBadRequest, "BadRequest"},
	trust.Unauthenticated: {http.StatusUnauthorized, "Unauthorized"},
	trust.Forbidden:       {http.StatusForbidden, "Forbidden"},
	trust.NotFound:        {http.StatusNotFound, "NotFound"},
	trust.Conflict:        {http.StatusConflict, "Conflict"},
	trust.TooLarge:        {http.StatusRequestEntityTooLarge, "RequestEntityTooLarge"},
	trust.Throttled:       {http.StatusTooManyRequests, "TooManyRequests"},
	trust.Unsupported:     {http.StatusMethodNotAllowed, "MethodNotAllowed"},
	trust.Unavailable:     {http.StatusServiceUnavailable, "ServiceUnavailable"},
	trust.Timeout:         {http.StatusGatewayTimeout, "Timeout"},
}

// CodeOf is the HTTP status that answers err.
func CodeOf(err error) int {
	s, ok := statuses[trust.KindOf(err)]
	if !ok {
		s = statuses[trust.Internal]
	}
	return s.code
}

// StatusOf makes the object that answers err. What is shown is the message and
// hint of a trust.Error; any other error shows nothing of itself. retry is when
// to come back, in seconds; 0 says nothing.
func StatusOf(err error, a *trust.Attributes, retry int) Status {
	kind := trust.KindOf(err)
	s, ok := statuses[kind]
	if !ok {
		s = statuses[trust.Internal]
	}
	st := Status{Kind: "Status", APIVersion: "v1", Status: "Failure", Reason: s.reason, Code: s.code, Message: "internal error"}
	var te *trust.Error
	if errors.As(err, &te) {
		st.Message = te.Message
		if te.Hint != "" {
			st.Message += ": " + te.Hint
		}
	}
	if retry > 0 || a != nil && a.ResourceRequest {
		st.Details = &StatusDetails{RetryAfterSeconds: retry}
		if a != nil && a.ResourceRequest {
			st.Details.Name, st.Details.Group, st.Details.Kind = a.Name, a.APIGroup, a.Resource
		}
	}
	return st
}

// Refuse answers r with the Status of err, as WriteStatus does; or, on paths
// that are no resources' and wherever aggregated discovery is asked for, with
// the message alone as plain text: client-go reads no Status there, and kubectl
// (whose first request is discovery) would print "unknown".
func Refuse(w http.ResponseWriter, r *http.Request, err error, a *trust.Attributes, retry int) {
	if (a == nil || a.ResourceRequest) && !discovers(r.Header) {
		WriteStatus(w, err, a, retry)
		return
	}
	st := StatusOf(err, a, retry)
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	write(w, st.Code, retry, []byte(st.Message+"\n"))
}

// discovers says whether aggregated discovery is asked for (KEP-3352).
func discovers(h http.Header) bool {
	for _, v := range h["Accept"] {
		if strings.Contains(v, "as=APIGroupDiscoveryList") {
			return true
		}
	}
	return false
}

// WriteStatus answers a request with the Status of err. The answer is never
// cached, and is not sniffed for a type.
func WriteStatus(w http.ResponseWriter, err error, a *trust.Attributes, retry int) {
	st := StatusOf(err, a, retry)
	body, _ := json.Marshal(st) // strings and numbers: cannot fail
	w.Header().Set("Content-Type", "application/json")
	write(w, st.Code, retry, body)
}

func write(w http.ResponseWriter, code, retry int, body []byte) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if retry > 0 {
		h.Set("Retry-After", strconv.Itoa(retry))
	}
	w.WriteHeader(code)
	_, _ = w.Write(body) // the caller may have gone
}
