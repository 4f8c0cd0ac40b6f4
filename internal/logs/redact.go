package logs

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// Redacted stands where a secret was.
const Redacted = "[redacted]"

// secretNames are the names, in lower case without "-" and "_", whose values are
// secrets wherever they occur: attributes, headers, form fields, JSON members.
var secretNames = []string{
	"authorization", "proxyauthorization", "token", "accesstoken", "idtoken", "refreshtoken", "bearertoken", "clientsecret", "clientassertion",
	"assertion", "password", "passwd", "secret", "apikey", "privatekey", "sealkey", "cookie", "setcookie", "devicecode", "xidentityheader",
}

func isSecretName(name string) bool {
	name = strings.ToLower(name)
	name = strings.NewReplacer("-", "", "_", "").Replace(name)
	for _, s := range secretNames {
		if name == s {
			return true
		}
	}
	return false
}

// redactAttr takes out values by name, and turns into text what would be
// printed whole.
func redactAttr(_ []string, a slog.Attr) slog.Attr {
	if isSecretName(a.Key) && !(a.Value.Kind() == slog.KindString && a.Value.String() == "") {
		return slog.String(a.Key, Redacted)
	}
	switch v := a.Value.Any().(type) {
	case []byte: // JSON would hide it in base64
		a.Value = slog.StringValue(string(v))
	case http.Header:
		a.Value = slog.AnyValue(map[string][]string(redactMap(v)))
	case url.Values:
		a.Value = slog.AnyValue(map[string][]string(redactMap(http.Header(v))))
	case *url.URL:
		if v != nil {
			a.Value = slog.StringValue(redactURL(v))
		}
	case url.URL:
		a.Value = slog.StringValue(redactURL(&v))
	case *http.Request:
		if v != nil && v.URL != nil {
			a.Value = slog.StringValue(v.Method + " " + redactURL(v.URL))
		}
	}
	return a
}

func redactMap(m http.Header) http.Header {
	out := make(http.Header, len(m))
	for k, v := range m {
		if isSecretName(k) {
			v = []string{Redacted}
		}
		out[k] = v
	}
	return out
}

func redactURL(u *url.URL) string {
	c := *u
	if c.User != nil {
		c.User = url.User(c.User.Username())
	}
	if c.RawQuery != "" {
		c.RawQuery = url.Values(redactMap(http.Header(c.Query()))).Encode()
	}
	return c.String()
}

// secrets are the shapes that are a secret whatever stands around them.
var secrets = []struct {
	hint  []byte // must be in the line (in any case) for the expression to be tried
	shape *regexp.Regexp
	keep  []byte
}{
	{[]byte("eyj"), regexp.MustCompile(`eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*(\.[A-Za-z0-9_-]*){0,3}`), []byte(Redacted)}, // JWS, JWE
	{[]byte("bearer"), regexp.MustCompile(`(?i)\b(bearer)[ +]+[A-Za-z0-9._~+/=-]{8,}`), []byte("$1 " + Redacted)},
	{[]byte("basic"), regexp.MustCompile(`(?i)\b(basic)[ +]+[A-Za-z0-9+/=]{8,}`), []byte("$1 " + Redacted)},
	{[]byte("bearer.authorization"), regexp.MustCompile(`base64url\.bearer\.authorization\.k8s\.io\.[A-Za-z0-9_-]+`), []byte("base64url.bearer.authorization.k8s.io." + Redacted)}, // WebSocket subprotocol
	{[]byte("sps_"), regexp.MustCompile(`sps_[A-Za-z0-9_-]{8,}`), []byte(Redacted)},                                                                                                // our client secrets
	{[]byte("private key"), regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----[^"]*?-----END [A-Z ]*PRIVATE KEY-----`), []byte(Redacted)},
	{[]byte("private key"), regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----[^"]*`), []byte(Redacted)}, // cut off
	{[]byte("client"), named("client_secret|client_assertion|clientsecret|clientassertion"), namedKeep},
	{[]byte("token"), named("access_token|id_token|refresh_token|accesstoken"), namedKeep},
	{[]byte("password"), named("password"), namedKeep},
	{[]byte("authorization"), regexp.MustCompile(`(?i)((?:proxy-)?authorization\\?"?\s*[:=]\s*\[?\\?"?)(?:[A-Za-z]+ )?[^\s"\\\[\]]{4,}`), namedKeep},
	{[]byte("cookie"), regexp.MustCompile(`(?i)((?:set-)?cookie\\?"?\s*[:=]\s*\[?\\?"?)[^"\\\]]{4,}`), namedKeep},
	{[]byte("://"), regexp.MustCompile(`(://[^/@\s:"]*:)[^/@\s"]+@`), []byte("${1}" + Redacted + "@")}, // user:password@ in a URL
}

var namedKeep = []byte("${1}" + Redacted)

// named finds name=value and "name":"value", the quotes escaped or not.
func named(names string) *regexp.Regexp {
	return regexp.MustCompile(`(?i)((?:` + names + `)\\?"?\s*[:=]\s*\[?\\?"?)[^\s"&\\,}\]]{4,}`)
}

// redactor goes over every finished line: whatever brought a secret into it, an
// error's text or a foreign package, it goes no further.
type redactor struct{ to io.Writer }

func (r *redactor) Write(line []byte) (int, error) {
	if _, err := r.to.Write(Redact(line)); err != nil {
		return 0, err
	}
	return len(line), nil
}

// Redact returns text without the secrets in it. It does not change its
// argument.
func Redact(text []byte) []byte {
	lower := bytes.ToLower(text)
	out := text
	for _, s := range secrets {
		if bytes.Contains(lower, s.hint) {
			out = s.shape.ReplaceAll(out, s.keep)
		}
	}
	return out
}
