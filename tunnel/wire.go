package tunnel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"strings"
)

// What the two ends say to each other, besides the requests they carry.
//
// The first stream of a connection is the hello: a full-duplex POST from the
// gateway that stays open as long as the connection. Only the first stream
// can be one, so no later request, whatever its method, path or headers, is
// taken for it. Its headers name version and replica; its bodies carry
// notices, one word a line:
//
//	drain     from either end: send me nothing new, what runs may end
//	drained   the answer: nothing new will come
//	ended ID  from the agent: it has ended the request of that name (Handle.Name),
//	          and nobody need wait until its caller has read what was under way
//	renew P   from the agent: the connection may go on, as the proof P shows
//
// An upgrade (HTTP/2 has none) is a POST that carries the original method and
// Upgrade value in the two headers below. When the agent has been upgraded by
// its own server, it answers 200 with headerStatus 101; the request body is
// then raw bytes, and the answer's body is raw bytes in chunks (see frame.go),
// because net/http cannot end an HTTP/2 answer while the request goes on.
const (
	headerPrefix  = "Sallyport-Tunnel-"
	headerVersion = headerPrefix + "Version" // hello, both ways: "1"
	headerReplica = headerPrefix + "Replica" // hello: the gateway's replica id
	headerMethod  = headerPrefix + "Method"  // upgrade: the original method
	headerUpgrade = headerPrefix + "Upgrade" // upgrade: the original Upgrade value, both ways
	headerStatus  = headerPrefix + "Status"  // upgrade, answer: "101"

	helloVersion  = "1"
	helloPath     = "/hello"
	noticeDrain   = "drain"
	noticeDrained = "drained"
	noticeEnded   = "ended "
	noticeRenew   = "renew " // and a proof

	maxReplica = 128     // bytes in a replica id
	maxNotice  = 4 << 10 // bytes in a notice
	maxUpgrade = 256     // bytes in an Upgrade value
	maxName    = 48      // bytes in a request's name
)

// hasReserved reports whether h holds a header of the tunnel's own, in any
// case: such a header from a caller could turn a request into another one on
// the far side.
func hasReserved(h http.Header) bool {
	for k := range h {
		if len(k) >= len(headerPrefix) && strings.EqualFold(k[:len(headerPrefix)], headerPrefix) {
			return true
		}
	}
	return false
}

// dropReserved removes the tunnel's own headers from an answer.
func dropReserved(h http.Header) {
	for k := range h {
		if len(k) >= len(headerPrefix) && strings.EqualFold(k[:len(headerPrefix)], headerPrefix) {
			delete(h, k)
		}
	}
}

// single returns the only value of a header; two values or none are an error.
func single(h http.Header, key string) (string, error) {
	vs := h[textproto.CanonicalMIMEHeaderKey(key)]
	if len(vs) != 1 {
		return "", fmt.Errorf("header %s: want 1 value, have %d", key, len(vs))
	}
	return vs[0], nil
}

// parseHello checks the first request of a connection and returns the
// gateway's replica id ("" when it names none).
func parseHello(r *http.Request) (replica string, err error) {
	if r.Method != http.MethodPost || r.URL.Path != helloPath {
		return "", fmt.Errorf("first request is %q %q, not a hello", r.Method, r.URL.Path)
	}
	version, err := single(r.Header, headerVersion)
	if err != nil {
		return "", err
	}
	if version != helloVersion {
		return "", fmt.Errorf("tunnel version %q, this side speaks %q", version, helloVersion)
	}
	replica, err = single(r.Header, headerReplica)
	if err != nil {
		return "", err
	}
	return replica, checkReplica(replica)
}

func checkReplica(s string) error {
	if len(s) > maxReplica {
		return fmt.Errorf("replica id of %d bytes, at most %d", len(s), maxReplica)
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return fmt.Errorf("replica id %q: printable ASCII without spaces only", s)
		}
	}
	return nil
}

// parseUpgrade takes the original method and Upgrade value out of a request
// that came through the tunnel. upgrade is false for an ordinary request.
func parseUpgrade(r *http.Request) (method, proto string, upgrade bool, err error) {
	_, hasMethod := r.Header[headerMethod]
	_, hasProto := r.Header[headerUpgrade]
	if !hasMethod && !hasProto {
		return "", "", false, nil
	}
	if r.Method != http.MethodPost {
		return "", "", true, fmt.Errorf("upgrade sent as %s, not POST", r.Method)
	}
	if method, err = single(r.Header, headerMethod); err != nil {
		return "", "", true, err
	}
	if proto, err = single(r.Header, headerUpgrade); err != nil {
		return "", "", true, err
	}
	if err := checkUpgrade(method, proto); err != nil {
		return "", "", true, err
	}
	return method, proto, true, nil
}

func checkUpgrade(method, proto string) error {
	if !isToken(method) {
		return fmt.Errorf("method %q is not a token", method)
	}
	if proto == "" || len(proto) > maxUpgrade {
		return fmt.Errorf("upgrade value of %d bytes, want 1 to %d", len(proto), maxUpgrade)
	}
	for i := range len(proto) {
		if c := proto[i]; !isTokenByte(c) && c != '/' && c != ',' && c != ' ' {
			return fmt.Errorf("upgrade value %q: byte %q", proto, c)
		}
	}
	return nil
}

// isToken follows RFC 9110 section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		if !isTokenByte(s[i]) {
			return false
		}
	}
	return s != ""
}

func isTokenByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// parseEnded returns the name of the request that a notice says has ended.
func parseEnded(word string) (name string, ok bool) {
	name, ok = strings.CutPrefix(word, noticeEnded)
	return name, ok && isName(name)
}

// isName says whether a request may be called so: printable ASCII without
// spaces.
func isName(s string) bool { return s != "" && len(s) <= maxName && checkReplica(s) == nil }

// readNotices calls each for every notice until r ends; the end of r is no
// error. Unknown words are passed on: a newer peer may say more than this one
// knows.
func readNotices(r io.Reader, each func(word string)) error {
	br := bufio.NewReaderSize(r, maxNotice)
	for {
		line, err := br.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("notice longer than %d bytes", maxNotice)
		case err == io.EOF && len(line) == 0:
			return nil
		case err != nil:
			return fmt.Errorf("read notice: %w", err)
		}
		each(string(line[:len(line)-1]))
	}
}
