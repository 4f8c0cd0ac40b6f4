package request

import (
	"net/http"
	"strconv"

	"github.com/sallyport/sallyport/trust"
)

// The headers that a gateway adds for the agent. Callers' headers that begin
// like them are dropped first.
const (
	headerBinding   = "Sallyport-Binding"
	headerRevision  = "Sallyport-Revision"
	headerRequestID = "Sallyport-Request-Id"
)

// AuditID is the header by which a request's id reaches the cluster's own audit
// log, and the caller in the answer.
const AuditID = "Audit-Id"

// RefusedBy marks an answer that the agent itself gave, not the API server; its
// value is the kind of the refusal. FilterResponse drops it wherever else it
// comes from, and before the caller.
const RefusedBy = "Sallyport-Refused"

// Envelope is what the gateway tells the agent beside the request itself. It
// says under which binding the gateway let the request through; the agent
// decides again and takes nothing else on trust. No caller's identity and no
// token travels. An upgrade's method and protocol are the tunnel's to carry.
type Envelope struct {
	Binding   trust.BindingUID
	Revision  int64  // the binding's mod revision at the gateway
	RequestID string // lower-case UUID
}

// Write sets the envelope's headers, after FilterRequest.
func (e Envelope) Write(h http.Header) {
	h[headerBinding] = []string{string(e.Binding)}
	h[headerRevision] = []string{strconv.FormatInt(e.Revision, 10)}
	h[headerRequestID] = []string{e.RequestID}
}

// ReadEnvelope reads the headers that Write sets: each exactly once, nothing
// else that begins with "Sallyport-". Kind Invalid otherwise.
func ReadEnvelope(h http.Header) (Envelope, error) {
	var e Envelope
	for name, values := range h {
		if !begins(name, "sallyport-") {
			continue
		}
		if len(values) != 1 || values[0] == "" || len(values[0]) > 128 {
			return Envelope{}, trust.Errorf(trust.Invalid, "header %.60s must stand once, with a value", name)
		}
		v := values[0]
		switch name {
		case headerBinding:
			e.Binding = trust.BindingUID(v)
		case headerRevision:
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil || n < 0 || strconv.FormatInt(n, 10) != v {
				return Envelope{}, trust.Errorf(trust.Invalid, "header %s is not a revision", headerRevision)
			}
			e.Revision = n
		case headerRequestID:
			e.RequestID = v
		default:
			return Envelope{}, trust.Errorf(trust.Invalid, "header %.60s is unknown: gateway and agent are of different versions", name)
		}
	}
	if !UUID(string(e.Binding)) || !UUID(e.RequestID) {
		return Envelope{}, trust.Errorf(trust.Invalid, "the gateway named no binding or no request id")
	}
	return e, nil
}

// UUID reports whether s is a lower-case RFC 9562 UUID in its usual form. Ids of
// that form cannot break out of a path, a header or an object's name.
func UUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range 36 {
		c := s[i]
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (c == '-') || !dash && !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return false
		}
	}
	return true
}
