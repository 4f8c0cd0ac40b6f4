package audit

import (
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/sallyport/sallyport/trust"
)

// Stage is when in a request's life a record is written.
type Stage string

// The stages, as audit.k8s.io/v1 names them.
const (
	ResponseStarted  Stage = "ResponseStarted"  // of a request that runs long: before the first byte of the answer
	ResponseComplete Stage = "ResponseComplete" // after the last byte, or instead of an answer
)

// The annotations that Sallyport writes beside authorization.k8s.io/decision
// ("allow" or "forbid") and authorization.k8s.io/reason, which are Kubernetes'
// own.
const (
	KeyCluster   = "sallyport.dev/cluster"    // uid
	KeyBinding   = "sallyport.dev/binding"    // resource id
	KeyBindingID = "sallyport.dev/binding-id" // uid
	KeyRole      = "sallyport.dev/role"       // that allowed it; "base" for the base set
	KeySource    = "sallyport.dev/source"     // resource id of the source
	KeyIssuer    = "sallyport.dev/issuer"
	KeyTenant    = "sallyport.dev/tenant"
	KeyToken     = "sallyport.dev/token-id"  // uti or jti
	KeyEnded     = "sallyport.dev/ended"     // why a request ended
	KeyUpgrade   = "sallyport.dev/upgrade"   // the protocol
	KeyReceived  = "sallyport.dev/bytes-in"  // from the caller, of an upgraded request
	KeySent      = "sallyport.dev/bytes-out" // to the caller
	keyDecision  = "authorization.k8s.io/decision"
	keyReason    = "authorization.k8s.io/reason"
	apiVersion   = "audit.k8s.io/v1"
	microTime    = "2006-01-02T15:04:05.000000Z" // metav1.MicroTime
	levelOfEvent = "Metadata"
)

// Event is one record, as the gateway fills it.
type Event struct {
	Stage      Stage
	ID         string // the request id, which is the Audit-ID in the cluster's own log
	Received   time.Time
	At         time.Time
	RequestURI string // redacted
	Attributes *trust.Attributes
	Verb       string // for a request that was not parsed: the method
	SourceIP   string
	UserAgent  string

	Caller  *trust.Caller // nil when nobody known called
	Cluster trust.ClusterUID
	Binding *trust.Binding // nil when none covers it
	Role    trust.RoleName

	Allowed bool
	Reason  string // of the decision
	Code    int    // HTTP status of the answer; 0 when none was sent
	Message string // of a refusal
	Ended   string // why the request ended, for one that ran long or was cut
	Upgrade string
	In, Out int64 // bytes of an upgraded request
}

// append encodes the event as one line.
func (e *Event) append(b []byte) []byte {
	b = append(b, `{"kind":"Event","apiVersion":"`+apiVersion+`","level":"`+levelOfEvent+`","auditID":`...)
	b = appendString(b, e.ID)
	b = append(b, `,"stage":"`...)
	b = append(b, e.Stage...)
	b = append(b, `","requestURI":`...)
	b = appendString(b, e.RequestURI)
	verb := e.Verb
	if e.Attributes != nil {
		verb = e.Attributes.Verb
	}
	b = append(b, `,"verb":`...)
	b = appendString(b, verb)
	b = e.appendUser(b)
	if e.SourceIP != "" {
		b = append(b, `,"sourceIPs":[`...)
		b = appendString(b, e.SourceIP)
		b = append(b, ']')
	}
	b = field(b, "userAgent", e.UserAgent)
	b = e.appendObject(b)
	if e.Code != 0 {
		b = append(b, `,"responseStatus":{"metadata":{},`...)
		if e.Message != "" {
			b = append(b, `"status":"Failure","message":`...)
			b = appendString(b, e.Message)
			b = append(b, ',')
		}
		b = append(b, `"code":`...)
		b = strconv.AppendInt(b, int64(e.Code), 10)
		b = append(b, '}')
	}
	b = append(b, `,"requestReceivedTimestamp":"`...)
	b = e.Received.UTC().AppendFormat(b, microTime)
	b = append(b, `","stageTimestamp":"`...)
	b = e.At.UTC().AppendFormat(b, microTime)
	b = append(b, `","annotations":`...)
	b = e.appendAnnotations(b)
	return append(b, '}', '\n')
}

func (e *Event) appendUser(b []byte) []byte {
	b = append(b, `,"user":{`...)
	if c := e.Caller; c != nil {
		name := c.ResourceID
		if name == "" {
			name = c.Name
		}
		if name == "" {
			name = c.Object
		}
		b = append(b, `"username":`...)
		b = appendString(b, name)
		b = field(b, "uid", c.Object)
	}
	return append(b, '}')
}

func (e *Event) appendObject(b []byte) []byte {
	a := e.Attributes
	if a == nil || !a.ResourceRequest {
		return b
	}
	b = append(b, `,"objectRef":{"resource":`...)
	b = appendString(b, a.Resource)
	b = field(b, "namespace", a.Namespace)
	b = field(b, "name", a.Name)
	b = field(b, "apiGroup", a.APIGroup)
	b = field(b, "apiVersion", a.APIVersion)
	b = field(b, "subresource", a.Subresource)
	return append(b, '}')
}

func (e *Event) appendAnnotations(b []byte) []byte {
	decision := "forbid"
	if e.Allowed {
		decision = "allow"
	}
	b = append(b, `{"`+keyDecision+`":"`...)
	b = append(b, decision...)
	b = append(b, '"')
	b = field(b, keyReason, e.Reason)
	b = field(b, KeyCluster, string(e.Cluster))
	if e.Binding != nil {
		b = field(b, KeyBinding, e.Binding.ID)
		b = field(b, KeyBindingID, string(e.Binding.UID))
		role := string(e.Role)
		if role == "" && e.Allowed {
			role = "base"
		}
		b = field(b, KeyRole, role)
	}
	if c := e.Caller; c != nil {
		b = field(b, KeySource, c.ResourceID)
		b = field(b, KeyIssuer, c.Issuer)
		b = field(b, KeyTenant, c.Tenant)
		b = field(b, KeyToken, c.TokenID)
	}
	b = field(b, KeyEnded, e.Ended)
	b = field(b, KeyUpgrade, e.Upgrade)
	if e.In != 0 || e.Out != 0 {
		b = field(b, KeyReceived, strconv.FormatInt(e.In, 10))
		b = field(b, KeySent, strconv.FormatInt(e.Out, 10))
	}
	return append(b, '}')
}

// field appends ,"name":"value" unless value is empty.
func field(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	return appendString(b, value)
}

const hex = "0123456789abcdef"

// appendString appends s as a JSON string (RFC 8259). Bytes that are not UTF-8
// become U+FFFD; line and paragraph separators are escaped, so that a line
// stays a line in every reader.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < 0x7f {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			b = append(b, s[start:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			default:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 || r == '\u2028' || r == '\u2029' || r == '\u0085' {
			b = append(b, s[start:i]...)
			b = append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
			i += size
			start = i
			continue
		}
		i += size
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}
