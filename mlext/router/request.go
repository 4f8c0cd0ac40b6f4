package router

import (
	"net/http"
	"net/textproto"
	"strings"

	"github.com/sallyport/sallyport/trust"
)

// Headers with a meaning of their own.
const (
	deploymentHeader       = "Azureml-Model-Deployment" // asks for a deployment, and says which one answered
	requestIDHeader        = "X-Request-Id"             // always the router's own
	serviceRequestIDHeader = "X-Ms-Request-Id"          // the same, by Azure's name
	clientRequestIDHeader  = "X-Ms-Client-Request-Id"
	modelStatusHeader      = "Ms-Azureml-Model-Error-Statuscode" // what the model server answered, where the caller gets 502
	modelReasonHeader      = "Ms-Azureml-Model-Error-Reason"
)

const (
	maxName            = 64
	maxCredential      = 16 << 10
	maxClientRequestID = 40
)

// endpointOf reads the endpoint's name from a scoring path, today's or that of
// Azure's first version.
func endpointOf(path string) (name string, ok bool) {
	rest, ok := strings.CutPrefix(path, "/api/v1/endpoint/")
	if !ok {
		if rest, ok = strings.CutPrefix(path, "/api/v1/service/"); !ok {
			return "", false
		}
	}
	name, ok = strings.CutSuffix(rest, "/score")
	return name, ok && isName(name)
}

// isName tells what may be a name of an endpoint or deployment at all.
func isName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		if !isWord(s[i]) {
			return false
		}
	}
	return true
}

func isWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// credential is the key or token that a request shows: exactly one.
func credential(h http.Header) (string, error) {
	given := h["Authorization"]
	if len(given) != 1 {
		return "", trust.Errorf(trust.Unauthenticated, "send one header Authorization: Bearer KEY, with a key or a token of the endpoint")
	}
	const scheme = "bearer "
	v := given[0]
	if len(v) <= len(scheme) || len(v) > maxCredential || !strings.EqualFold(v[:len(scheme)], scheme) {
		return "", trust.Errorf(trust.Unauthenticated, "the header Authorization is not of the form: Bearer KEY")
	}
	return v[len(scheme):], nil
}

// clientRequestID is the caller's own id of the request: as Azure keeps it, only
// of letters, digits, - and _, and cut at 40. "" if there is none to keep.
func clientRequestID(h http.Header) string {
	given := h[clientRequestIDHeader]
	if len(given) != 1 {
		return ""
	}
	id := given[0]
	if len(id) > maxClientRequestID {
		id = id[:maxClientRequestID]
	}
	for i := range len(id) {
		if !isWord(id[i]) {
			return ""
		}
	}
	return id
}

// hop are headers of one connection (RFC 9110 7.6.1, and what came before it).
var hop = []string{"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Authenticate"}

// private are request headers that end here: the credential, and what speaks for
// somebody in between, who is not known.
var private = []string{"Authorization", "Proxy-Authorization", "Expect", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host",
	"X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Real-Ip", clientRequestIDHeader, requestIDHeader, deploymentHeader}

// outgoing turns a request's headers into those that the model server gets, in
// place. The Connection header's own list goes first, so that it can strip
// nothing that is set here.
func outgoing(h http.Header, requestID, clientID, deployment string) {
	dropHop(h)
	for _, name := range private {
		delete(h, name)
	}
	// A transport sends again what carries one of these, when a connection ends
	// early. Under their names in lower case, which are the same to a server, it
	// does not see them.
	for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		if v, ok := h[name]; ok {
			delete(h, name)
			h[strings.ToLower(name)] = v
		}
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = noAgent // none, rather than Go's
	}
	if requestID != "" {
		h[requestIDHeader] = []string{requestID}
	}
	if clientID != "" {
		h[clientRequestIDHeader] = []string{clientID}
	}
	h[deploymentHeader] = []string{deployment}
}

var noAgent = []string{""}

// incoming copies the model server's headers to the answer.
func incoming(to, from http.Header) {
	dropHop(from)
	for name, values := range from {
		switch name {
		case requestIDHeader, serviceRequestIDHeader, clientRequestIDHeader, deploymentHeader, modelStatusHeader, modelReasonHeader:
		default:
			to[name] = values
		}
	}
}

func dropHop(h http.Header) {
	for _, list := range h["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			if name = textproto.TrimString(name); name != "" {
				h.Del(name)
			}
		}
	}
	for _, name := range hop {
		delete(h, name)
	}
}
