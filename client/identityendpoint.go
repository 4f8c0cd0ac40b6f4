package client

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/trust"
)

// Paths of the managed-identity endpoint: that of the App Service form, whose URL
// is free to choose, and that of the IMDS form, which is not.
const (
	IdentityPath = "/msi/token"
	IMDSPath     = "/metadata/identity/oauth2/token"
	IMDSAddress  = "169.254.169.254"
)

// IdentityEndpoint serves the tokens of one identity to programs on this machine,
// in the forms that Azure's SDKs look for: App Service's (IDENTITY_ENDPOINT and
// IDENTITY_HEADER, also MSI_ENDPOINT and MSI_SECRET), and, if IMDS is set, that of
// the instance metadata service, where everybody who can connect gets a token.
// Requests that came through a proxy, from a web page or for another host are
// refused: none of these is a program on this machine.
type IdentityEndpoint struct {
	// Get gets a token for a scope; *AuthorityCredential has it.
	Get      func(ctx context.Context, scope string, fresh bool) (Token, error)
	ClientID string
	Header   string // the secret that callers of the App Service form show
	IMDS     bool
	// Addresses that callers may name as Host; nil takes any, for a socket that
	// has none.
	Addresses []string
	Now       func() time.Time // nil: time.Now
}

// refusal is an answer that is no token.
type refusal struct {
	status     int
	code, text string
}

// ServeHTTP answers one request.
func (e *IdentityEndpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	body, no := e.answer(r)
	if no != nil {
		if no.status == http.StatusServiceUnavailable {
			h.Set("Retry-After", "1")
		}
		w.WriteHeader(no.status)
		body = map[string]string{"error": no.code, "error_description": no.text}
	}
	_ = json.NewEncoder(w).Encode(body) // the caller is gone: nothing to do
}

func (e *IdentityEndpoint) answer(r *http.Request) (map[string]string, *refusal) {
	if no := e.local(r); no != nil {
		return nil, no
	}
	q := r.URL.Query()
	for name, values := range q {
		if len(values) > 1 {
			return nil, &refusal{http.StatusBadRequest, "invalid_request", "The parameter " + strconv.QuoteToASCII(name) + " is given twice."}
		}
	}
	imds := false
	version, clientID := q.Get("api-version"), q.Get("client_id")
	switch r.URL.Path {
	case IdentityPath:
		shown := r.Header.Values("X-Identity-Header")
		if version == "2017-09-01" {
			shown, clientID = r.Header.Values("Secret"), q.Get("clientid")
		} else if version != "2019-08-01" {
			return nil, &refusal{http.StatusBadRequest, "invalid_request", "The api-version must be 2019-08-01 or 2017-09-01."}
		}
		if len(shown) != 1 || e.Header == "" || subtle.ConstantTimeCompare([]byte(shown[0]), []byte(e.Header)) != 1 {
			return nil, &refusal{http.StatusUnauthorized, "unauthorized", "The header X-IDENTITY-HEADER does not have the value of IDENTITY_HEADER."}
		}
	case IMDSPath:
		if !e.IMDS {
			return nil, &refusal{http.StatusNotFound, "not_found", "This endpoint does not serve the form of the instance metadata service."}
		}
		if m := r.Header.Values("Metadata"); len(m) != 1 || !strings.EqualFold(m[0], "true") {
			return nil, &refusal{http.StatusBadRequest, "invalid_request", "The header Metadata: true is required."}
		}
		if version == "" {
			return nil, &refusal{http.StatusBadRequest, "invalid_request", "The parameter api-version is required."}
		}
		imds = true
	default:
		return nil, &refusal{http.StatusNotFound, "not_found", "There is nothing here."}
	}
	for _, other := range []string{"object_id", "principal_id", "mi_res_id", "msi_res_id"} {
		if q.Get(other) != "" {
			return nil, &refusal{http.StatusBadRequest, "invalid_request", "Identity not found: ask without " + other + ", or by client_id."}
		}
	}
	if clientID != "" && trust.Fold(clientID) != trust.Fold(e.ClientID) {
		return nil, &refusal{http.StatusBadRequest, "invalid_request", "Identity not found: this endpoint has the identity " + e.ClientID + " alone."}
	}
	resource := q.Get("resource")
	if resource == "" {
		return nil, &refusal{http.StatusBadRequest, "invalid_resource", "The parameter resource is required."}
	}
	return e.token(r.Context(), resource, imds)
}

// local refuses what cannot be a program on this machine.
func (e *IdentityEndpoint) local(r *http.Request) *refusal {
	switch {
	case r.Method != http.MethodGet:
		return &refusal{http.StatusMethodNotAllowed, "invalid_request", "The endpoint takes GET requests."}
	case len(r.Header.Values("X-Forwarded-For")) > 0 || len(r.Header.Values("Forwarded")) > 0 || len(r.Header.Values("Via")) > 0:
		return &refusal{http.StatusBadRequest, "invalid_request", "The request came through a proxy (X-Forwarded-For)."}
	case r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" || r.Header.Get("Referer") != "":
		return &refusal{http.StatusForbidden, "invalid_request", "The request came from a web page."}
	}
	if e.Addresses == nil {
		return nil
	}
	for _, a := range e.Addresses {
		if r.Host == a {
			return nil
		}
	}
	// Or a name that somebody made point here could be called by a web page.
	return &refusal{http.StatusForbidden, "invalid_request", "The request is for another host."}
}

func (e *IdentityEndpoint) token(ctx context.Context, resource string, imds bool) (map[string]string, *refusal) {
	t, err := e.Get(ctx, resource+"/.default", false)
	if err != nil {
		no := &refusal{http.StatusServiceUnavailable, "temporarily_unavailable", err.Error()}
		switch trust.KindOf(err) {
		case trust.Invalid:
			no.status, no.code = http.StatusBadRequest, "invalid_resource"
		case trust.Unauthenticated, trust.Forbidden, trust.NotFound:
			no.status, no.code = http.StatusForbidden, "unauthorized_client"
		}
		return nil, no
	}
	now := time.Now()
	if e.Now != nil {
		now = e.Now()
	}
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	body := map[string]string{"access_token": t.Value, "expires_on": number(t.Expires.Unix()), "resource": resource, "token_type": "Bearer", "client_id": e.ClientID}
	if imds {
		left := number(max(0, int64(t.Expires.Sub(now)/time.Second)))
		body["expires_in"], body["ext_expires_in"], body["not_before"] = left, left, number(now.Unix())
	}
	return body, nil
}

// IdentityAddresses are what callers of a listener name it, an error if callers
// from other machines could reach it: only loopback and the IMDS address are
// taken.
func IdentityAddresses(l net.Addr) ([]string, error) {
	at, err := netip.ParseAddrPort(l.String())
	if err != nil {
		return nil, err
	}
	switch {
	case at.Addr() == netip.MustParseAddr(IMDSAddress):
	case !at.Addr().IsLoopback():
		return nil, trust.Errorf(trust.Invalid, "%s can be reached from other machines: listen on 127.0.0.1, [::1] or %s", at, IMDSAddress).Because(errors.New("not loopback"))
	}
	names := []string{at.String()}
	if at.Addr().IsLoopback() {
		names = append(names, net.JoinHostPort("localhost", strconv.Itoa(int(at.Port()))))
	}
	// Clients of the IMDS form name its address wherever they were led.
	names = append(names, IMDSAddress)
	if at.Port() == 80 {
		names = append(names, at.Addr().String(), "localhost")
	}
	return names, nil
}
