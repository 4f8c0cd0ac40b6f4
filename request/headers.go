package request

import (
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/trust"
)

// Headers are compared as a careless backend would: without regard to case,
// and with "_" for "-" (CGI, WSGI and nginx make one of the two).

// matches compares a header name with a lower-case name.
func matches(name, lower string) bool {
	return len(name) == len(lower) && begins(name, lower)
}

func begins(name, lowerPrefix string) bool {
	if len(name) < len(lowerPrefix) {
		return false
	}
	for i := 0; i < len(lowerPrefix); i++ {
		if lowered(name[i]) != lowerPrefix[i] {
			return false
		}
	}
	return true
}

func lowered(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c + 'a' - 'A'
	case c == '_':
		return '-'
	}
	return c
}

// hopByHop are the connection's own headers (RFC 9110 7.6.1), to be dropped in
// both directions.
var hopByHop = []string{
	"connection", "keep-alive", "te", "trailer", "trailers", "transfer-encoding", "upgrade", "http2-settings",
}

// identity are headers that say who is calling or from where. None comes from
// the caller: the one identity that travels is the binding's.
var identity = []string{
	"authorization", "cookie", "cookie2", "forwarded", "remote-user", "audit-id",
	"x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "client-ip", "cf-connecting-ip", "via",
	"expect", // answered by the first hop
}

var identityPrefixes = []string{
	"proxy-", "x-remote-", "x-forwarded-", "x-original-forwarded-", "x-auth-request-", "x-authenticated-",
	"x-ssl-", "ssl-client-", "x-client-cert", "x-client-verify", "x-ms-client-principal",
	"x-amzn-oidc-", "x-goog-authenticated-", "x-goog-iap-", "cf-access-", "tailscale-user-",
	"sallyport-", "impersonate",
}

var (
	notSent     = newHeaderSet(hopByHop, identity).withPrefixes(identityPrefixes...)
	notAnswered = newHeaderSet(hopByHop, toCaller).withPrefixes(toCallerPrefixes...)
)

// bearerProtocol begins a WebSocket subprotocol that carries a bearer token
// (k8s.io/apiserver, pkg/authentication/request/websocket).
const bearerProtocol = "base64url.bearer.authorization.k8s.io."

// CheckRequestHeaders refuses what must not be passed on, not even without the
// offending header: a request that asks for impersonation means to run with
// less, and dropping the header would run it with more. Trailers are refused
// since nothing in the Kubernetes API sends them and they would pass the
// filter unseen.
func CheckRequestHeaders(h, trailer http.Header) error {
	for name, values := range h {
		if begins(name, "impersonate-") || matches(name, "impersonate") {
			return trust.Errorf(trust.Forbidden, "impersonation (--as, header %.60s) is refused: what a request may do is what its binding's roles allow", name)
		}
		if matches(name, "connection") {
			for _, v := range values {
				for token := range strings.SplitSeq(v, ",") {
					if t := strings.TrimSpace(token); begins(t, "impersonate") {
						return trust.Errorf(trust.Forbidden, "impersonation (header %.60s named by Connection) is refused", t)
					}
				}
			}
		}
	}
	if len(trailer) > 0 {
		return trust.Errorf(trust.Invalid, "request trailers are refused")
	}
	return nil
}

// FilterRequest drops from h, in place, everything that a caller cannot send on:
// first the connection's own headers and what Connection names, then identity.
// The order matters: whatever the next step sets cannot be stripped by the
// caller's Connection header.
func FilterRequest(h http.Header) {
	dropNamed(h)
	for name := range h {
		if notSent.has(name) {
			delete(h, name)
		}
	}
	dropBearerProtocols(h)
}

// dropNamed drops what Connection names.
func dropNamed(h http.Header) {
	for name, values := range h {
		if !matches(name, "connection") {
			continue
		}
		for _, v := range values {
			for token := range strings.SplitSeq(v, ",") {
				token = strings.TrimSpace(token)
				if token == "" {
					continue
				}
				for other := range h {
					if strings.EqualFold(other, token) && !matches(other, "connection") {
						delete(h, other)
					}
				}
			}
		}
	}
}

func dropBearerProtocols(h http.Header) {
	for name, values := range h {
		if !matches(name, "sec-websocket-protocol") {
			continue
		}
		var kept []string
		dropped := false
		for _, v := range values {
			for p := range strings.SplitSeq(v, ",") {
				switch p = strings.TrimSpace(p); {
				case begins(p, bearerProtocol):
					dropped = true
				case p != "":
					kept = append(kept, p)
				}
			}
		}
		switch {
		case !dropped:
		case len(kept) == 0:
			delete(h, name)
		default:
			h[name] = []string{strings.Join(kept, ", ")}
		}
	}
}

// toCaller are answer headers that would speak for the gateway's own origin,
// which all clusters share.
var toCaller = []string{
	"set-cookie", "set-cookie2", "strict-transport-security", "public-key-pins", "public-key-pins-report-only",
	"alt-svc", "alt-used", "clear-site-data", "nel", "report-to", "reporting-endpoints", "refresh",
	"service-worker-allowed", "www-authenticate", "authentication-info", "audit-id", "origin-agent-cluster",
}

var toCallerPrefixes = []string{"access-control-", "proxy-", "sallyport-"}

// FilterResponse drops from an answer's header, in place, what must not reach
// the caller.
func FilterResponse(h http.Header) {
	dropNamed(h)
	for name := range h {
		if notAnswered.has(name) {
			delete(h, name)
		}
	}
}

// CheckResponse refuses redirects: neither side follows one, and the caller,
// who would send a token along, is not led elsewhere.
func CheckResponse(code int, h http.Header) error {
	if code >= 300 && code < 400 && len(h["Location"]) > 0 {
		return trust.Errorf(trust.Unavailable, "the answer was a redirect (%d), which is refused", code)
	}
	return nil
}

// Upgrade reads what a request upgrades to: "", WebSocket or SPDY. An unknown
// protocol, several, an upgrade with a body or over HTTP/2 is refused.
func Upgrade(h http.Header, protoMajor int, contentLength int64) (string, error) {
	wants := false
	for _, v := range h["Connection"] {
		for token := range strings.SplitSeq(v, ",") {
			wants = wants || strings.EqualFold(strings.TrimSpace(token), "upgrade")
		}
	}
	values := h["Upgrade"]
	if !wants && len(values) == 0 {
		return "", nil
	}
	if !wants || len(values) != 1 {
		return "", trust.Errorf(trust.Invalid, "Connection and Upgrade headers disagree")
	}
	if protoMajor != 1 {
		return "", trust.Errorf(trust.Invalid, "an upgrade needs HTTP/1.1")
	}
	if contentLength != 0 {
		return "", trust.Errorf(trust.Invalid, "an upgrade cannot carry a body")
	}
	return Protocol(values[0])
}

// Protocol gives an Upgrade header's value its one spelling: WebSocket or SPDY.
func Protocol(value string) (string, error) {
	switch {
	case strings.EqualFold(value, WebSocket):
		return WebSocket, nil
	case strings.EqualFold(value, SPDY):
		return SPDY, nil
	}
	return "", trust.Errorf(trust.Unsupported, "upgrade to %.40q is refused: Kubernetes speaks websocket and SPDY/3.1", value)
}

// headerSet is names and prefixes of headers, by first letter: most headers of
// a request begin with one that nothing here begins with.
type headerSet [256]headerGroup

type headerGroup struct{ names, prefixes []string }

func newHeaderSet(names ...[]string) (s headerSet) {
	for _, list := range names {
		for _, n := range list {
			g := &s[n[0]]
			g.names = append(g.names, n)
		}
	}
	return s
}

func (s headerSet) withPrefixes(prefixes ...string) headerSet {
	for _, p := range prefixes {
		g := &s[p[0]]
		g.prefixes = append(g.prefixes, p)
	}
	return s
}

func (s *headerSet) has(name string) bool {
	if name == "" {
		return false
	}
	g := &s[lowered(name[0])]
	for _, n := range g.names {
		if matches(name, n) {
			return true
		}
	}
	for _, p := range g.prefixes {
		if begins(name, p) {
			return true
		}
	}
	return false
}
