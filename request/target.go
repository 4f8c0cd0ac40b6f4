package request

import (
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/sallyport/sallyport/trust"
)

// MaxTarget is the longest request target that is taken, in bytes. kubectl's
// longest are exec commands and label selectors, a few KiB.
const MaxTarget = 32 << 10

// Target is a cleaned request target. Cleaning the URI it prints gives the same
// Target, and Go's URL parser reads the same path from it.
//
// The part of a path that decides (everything, or for a proxy subresource
// everything up to and including ".../proxy") has one spelling only: no empty,
// "." or ".." segment, no encoded "/", "\", ".", "%", ";", "?" or "#", no
// control byte, valid UTF-8. What stands behind ".../proxy/" belongs to the
// service that is reached and travels as it came, "//", "%2F" and ";"
// included, since the API server hands it on and neither RequestInfo nor RBAC
// looks at it. Only what could climb out of the service's root is refused
// there: dot segments in any encoding, backslashes, control bytes.
type Target struct {
	Path  string // decoded: what decides
	Raw   string // escaped: what is sent
	Query string // as sent, without "?"
	Loose bool   // a proxy subresource: path behind it and query belong to the service
}

// URI is the request target as sent: path and query.
func (t Target) URI() string {
	if t.Query == "" {
		return t.Raw
	}
	return t.Raw + "?" + t.Query
}

// ParseTarget cleans a request target in origin-form (RFC 9112 3.2.1), as in
// http.Request.RequestURI. What has more than one reading is refused with kind
// Invalid, never repaired.
func ParseTarget(uri string) (Target, error) {
	if len(uri) > MaxTarget {
		return Target{}, trust.Errorf(trust.TooLarge, "the request target is longer than %d bytes", MaxTarget)
	}
	if uri == "" || uri[0] != '/' {
		return Target{}, trust.Errorf(trust.Invalid, "the request target must be a path: absolute-form, authority-form and * are refused")
	}
	for i := 0; i < len(uri); i++ {
		if c := uri[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return Target{}, trust.Errorf(trust.Invalid, "the request target holds byte %#02x, which must be percent-encoded", c)
		}
	}
	raw, query, _ := strings.Cut(uri, "?")
	end, loose := decidingPart(raw)
	path, clean, err := strictPath(raw[:end])
	if err != nil {
		return Target{}, err
	}
	t := Target{Path: path, Raw: clean, Query: query, Loose: loose}
	if end < len(raw) {
		tail, cleanTail, err := loosePath(raw[end:])
		if err != nil {
			return Target{}, err
		}
		t.Path, t.Raw = t.Path+tail, t.Raw+cleanTail
	}
	if !loose && query != "" {
		// The API server drops query pairs that it cannot parse; what is left
		// decides between list and watch.
		if _, err := url.ParseQuery(query); err != nil {
			return Target{}, trust.Errorf(trust.Invalid, "the query cannot be parsed without guessing")
		}
	}
	return t, nil
}

// decidingPart returns where the part of an escaped path ends that decides, and
// whether a proxy subresource ends it. It follows RequestInfoFactory's reading
// of the path; Parse compares the two.
func decidingPart(raw string) (end int, loose bool) {
	rest := raw[1:]
	at := 1
	next := func() (string, bool) {
		seg, tail, more := strings.Cut(rest, "/")
		at += len(seg)
		if more {
			at++
		}
		rest = tail
		return seg, more
	}
	skip := 0
	switch first, _ := next(); first {
	case "api":
		skip = 1 // version
	case "apis":
		skip = 2 // group, version
	default:
		return len(raw), false
	}
	for range skip {
		next()
	}
	resource, more := next()
	if resource == "proxy" || resource == "watch" || !more {
		return len(raw), false // verbs in the path: nothing behind them is a service's own
	}
	name, _ := next()
	if resource == "namespaces" {
		// /namespaces/{ns}/{resource}/..., unless it is the namespace's own subresource.
		third, more := next()
		if third == "status" || third == "finalize" || !more {
			return len(raw), false
		}
		name, _ = next()
	}
	sub, _ := next()
	if sub != "proxy" || name == "" {
		return len(raw), false
	}
	if at > len(raw) {
		at = len(raw)
	}
	if raw[at-1] == '/' {
		at--
	}
	return at, true
}

// strictPath decodes a path that decides and spells it in the one way.
func strictPath(raw string) (path, clean string, err error) {
	path, err = decode(raw, true)
	if err != nil {
		return "", "", err
	}
	if !utf8.ValidString(path) {
		return "", "", trust.Errorf(trust.Invalid, "the path is not valid UTF-8")
	}
	if path != "/" {
		segments := strings.TrimSuffix(path[1:], "/")
		for seg := range strings.SplitSeq(segments, "/") {
			switch seg {
			case "":
				return "", "", trust.Errorf(trust.Invalid, "the path has an empty segment (//)")
			case ".", "..":
				return "", "", trust.Errorf(trust.Invalid, "the path has a dot segment")
			}
		}
	}
	return path, encode(path), nil
}

// loosePath checks what stands behind ".../proxy" and keeps its spelling.
func loosePath(raw string) (path, clean string, err error) {
	path, err = decode(raw, false)
	if err != nil {
		return "", "", err
	}
	for seg := range strings.SplitSeq(path, "/") {
		// Some servers drop everything behind ";" in a segment first.
		if name, _, _ := strings.Cut(seg, ";"); name == "." || name == ".." {
			return "", "", trust.Errorf(trust.Invalid, "the path has a dot segment")
		}
	}
	return path, escapeRaw(raw), nil
}

// decode undoes percent-encoding. strict refuses what a second reader could
// take for structure.
func decode(raw string, strict bool) (string, error) {
	plain := strings.IndexByte(raw, '%') < 0
	if plain && strings.IndexByte(raw, '\\') < 0 && (!strict || strings.IndexByte(raw, ';') < 0) {
		return raw, nil
	}
	b := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		c, encoded := raw[i], false
		if c == '%' {
			if i+2 >= len(raw) || !ishex(raw[i+1]) || !ishex(raw[i+2]) {
				return "", trust.Errorf(trust.Invalid, "the path has a broken percent-encoding")
			}
			c, encoded = unhex(raw[i+1])<<4|unhex(raw[i+2]), true
			i += 2
		}
		switch {
		case c < ' ' || c == 0x7f:
			return "", trust.Errorf(trust.Invalid, "the path holds the control byte %#02x", c)
		case c == '\\':
			return "", trust.Errorf(trust.Invalid, `the path holds "\"`)
		case !strict:
		case c == ';':
			return "", trust.Errorf(trust.Invalid, `the path holds ";"`)
		case encoded && (c == '/' || c == '.' || c == '%' || c == '?' || c == '#'):
			return "", trust.Errorf(trust.Invalid, "the path holds an encoded %q", c)
		}
		b = append(b, c)
	}
	return string(b), nil
}

// encode percent-encodes a decoded path: everything that RFC 3986's pchar and
// "/" do not hold.
func encode(path string) string {
	n := 0
	for i := 0; i < len(path); i++ {
		if !pathByte[path[i]] {
			n++
		}
	}
	if n == 0 {
		return path
	}
	b := make([]byte, 0, len(path)+2*n)
	for i := 0; i < len(path); i++ {
		b = appendPathByte(b, path[i])
	}
	return string(b)
}

// escapeRaw encodes what must be encoded in an escaped path and leaves its
// percent-encodings as they are.
func escapeRaw(raw string) string {
	ok := true
	for i := 0; i < len(raw) && ok; i++ {
		ok = pathByte[raw[i]] || raw[i] == '%'
	}
	if ok {
		return raw
	}
	b := make([]byte, 0, len(raw)+16)
	for i := 0; i < len(raw); i++ {
		if raw[i] == '%' {
			b = append(b, '%')
			continue
		}
		b = appendPathByte(b, raw[i])
	}
	return string(b)
}

const upperhex = "0123456789ABCDEF"

func appendPathByte(b []byte, c byte) []byte {
	if pathByte[c] {
		return append(b, c)
	}
	return append(b, '%', upperhex[c>>4], upperhex[c&15])
}

// pathByte is RFC 3986's pchar without percent-encodings, and "/".
var pathByte = func() (t [256]bool) {
	for c := range 256 {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
			t[c] = true
		}
	}
	for _, c := range []byte("-._~!$&'()*+,;=:@/") {
		t[c] = true
	}
	return t
}()

func ishex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}

// clustersPrefix begins the gateway's paths (the server: of a kubeconfig).
const clustersPrefix = "/clusters/"

// SplitCluster cuts a gateway's request target, "/clusters/{uid}" and the
// Kubernetes path, into its two parts. It checks the uid's form only: 36
// characters of lower-case hexadecimal digits and dashes.
func SplitCluster(uri string) (cluster trust.ClusterUID, rest string, ok bool) {
	tail, ok := strings.CutPrefix(uri, clustersPrefix)
	if !ok || len(tail) < 36 || !UUID(tail[:36]) {
		return "", "", false
	}
	rest = tail[36:]
	switch {
	case rest == "":
		rest = "/"
	case rest[0] == '?':
		rest = "/" + rest
	case rest[0] != '/':
		return "", "", false
	}
	return trust.ClusterUID(tail[:36]), rest, true
}
