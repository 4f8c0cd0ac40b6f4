package client

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport/sallyport/trust"
)

// LoginClientID is the public client under which the sallyport command signs
// people in. It has no secret and is none.
const LoginClientID = "7c1e4a52-5f0d-4b7e-9b64-3c0f6d1e8a11"

// SignIn signs a person in at an authority.
type SignIn struct {
	Authority string // https://host[:port]
	Trust     ServerTrust
	Tenant    string
	Now       func() time.Time // nil: time.Now
}

// signInScope is what is asked for first: the control API, and a refresh token
// for all else.
func (s *SignIn) scope() string {
	return strings.TrimSuffix(s.Authority, "/") + "/.default openid profile offline_access"
}

func (s *SignIn) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

// DeviceCode is what a person is shown (RFC 8628, 3.2).
type DeviceCode struct {
	UserCode        string `json:"user_code"`
	VerificationURI string `json:"verification_uri"`
	Message         string `json:"message"`
	ExpiresIn       int    `json:"expires_in"`
	Interval        int    `json:"interval"`
	DeviceCode      string `json:"device_code"`
}

// Device signs in with a code that is typed in a browser anywhere. show is given
// what the person must see.
func (s *SignIn) Device(ctx context.Context, show func(DeviceCode)) (*Session, error) {
	a, err := newAuthority(s.Authority, s.Tenant, s.Trust)
	if err != nil {
		return nil, err
	}
	var d DeviceCode
	if err := a.post(ctx, "devicecode", url.Values{"client_id": {LoginClientID}, "scope": {s.scope()}}, &d); err != nil {
		return nil, err
	}
	if d.DeviceCode == "" || d.UserCode == "" || d.VerificationURI == "" {
		return nil, trust.Errorf(trust.Internal, "the device code answer of %s cannot be used", a.base)
	}
	show(d)
	wait := time.Duration(max(d.Interval, 1)) * time.Second
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(max(d.ExpiresIn, 60))*time.Second, trust.Errorf(trust.Timeout, "nobody signed in with the code %s in time", d.UserCode))
	defer cancel()
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "client_id": {LoginClientID}, "device_code": {d.DeviceCode}}
	for {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(wait):
		}
		_, answer, err := a.exchange(ctx, form, s.now)
		if e := asError(err); e != nil {
			switch e.Code {
			case "slow_down":
				wait += 5 * time.Second // RFC 8628 3.5
				continue
			case "authorization_pending":
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		return sessionOf(answer)
	}
}

// browserWait is as long as the sign-in page is good.
const browserWait = 15 * time.Minute

// Browser signs in with a browser on this machine: open is given the page's URL,
// and the answer comes back to a port of ours that nobody else can be sent to
// (RFC 8252).
func (s *SignIn) Browser(ctx context.Context, open func(url string) error) (*Session, error) {
	a, err := newAuthority(s.Authority, s.Tenant, s.Trust)
	if err != nil {
		return nil, err
	}
	if err := a.answers(ctx); err != nil {
		return nil, err // the browser would only show its own error, and the wait is long
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the browser: %w", err)
	}
	state, nonce, verifier := rand.Text(), rand.Text(), rand.Text()+rand.Text()
	back := "http://" + l.Addr().String() + "/"
	answers := make(chan url.Values, 1)
	srv := &http.Server{Handler: backHandler(state, answers), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = srv.Shutdown(last) // the page that says that all is well
		_ = srv.Close()
		<-served
	}()
	sum := sha256.Sum256([]byte(verifier))
	at := a.at("authorize") + "?" + url.Values{
		"client_id": {LoginClientID}, "response_type": {"code"}, "response_mode": {"form_post"}, "redirect_uri": {back}, "scope": {s.scope()}, "state": {state}, "nonce": {nonce},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}.Encode()
	ctx, cancel := context.WithTimeoutCause(ctx, browserWait, trust.Errorf(trust.Timeout, "nobody signed in with the browser in time"))
	defer cancel()
	if err := open(at); err != nil {
		return nil, err
	}
	var got url.Values
	select {
	case got = <-answers:
	case err := <-served:
		served <- err
		return nil, fmt.Errorf("listen for the browser: %w", err)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if e := got.Get("error"); e != "" {
		return nil, trust.Errorf(trust.Unauthenticated, "the sign-in ended without one: %.100s (%.300s)", e, got.Get("error_description"))
	}
	_, answer, err := a.exchange(ctx, url.Values{"grant_type": {"authorization_code"}, "client_id": {LoginClientID}, "code": {got.Get("code")}, "redirect_uri": {back}, "code_verifier": {verifier}}, s.now)
	if err != nil {
		return nil, err
	}
	session, claims, err := readIDToken(answer)
	if err == nil && subtle.ConstantTimeCompare([]byte(claims.Nonce), []byte(nonce)) != 1 {
		return nil, trust.Errorf(trust.Unauthenticated, "the answer of %s is of another sign-in", a.base)
	}
	return session, err
}

// backHandler takes the browser's one answer.
func backHandler(state string, answers chan<- url.Values) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/plain; charset=utf-8")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		if r.URL.Path != "/" || r.Method != http.MethodPost || r.ParseForm() != nil || subtle.ConstantTimeCompare([]byte(r.PostForm.Get("state")), []byte(state)) != 1 {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintln(w, "This is not the answer that the sallyport command waits for.")
			return
		}
		select {
		case answers <- r.PostForm:
		default: // it has one already
		}
		if r.PostForm.Get("error") != "" {
			fmt.Fprintln(w, "You are not signed in. You may close this page.")
			return
		}
		fmt.Fprintln(w, "You are signed in. You may close this page and go back to the terminal.")
	})
}

type idClaims struct {
	ObjectID string `json:"oid"`
	UserName string `json:"preferred_username"`
	Nonce    string `json:"nonce"`
}

func sessionOf(answer *tokenAnswer) (*Session, error) {
	s, _, err := readIDToken(answer)
	return s, err
}

// readIDToken reads who signed in, to be shown. The token came from the authority
// itself over TLS, so its signature proves nothing more (OpenID Connect Core,
// 3.1.3.7).
func readIDToken(answer *tokenAnswer) (*Session, *idClaims, error) {
	parts := strings.Split(answer.IDToken, ".")
	var c idClaims
	var payload []byte
	err := fmt.Errorf("it has %d parts", len(parts))
	if len(parts) == 3 {
		if payload, err = base64.RawURLEncoding.DecodeString(parts[1]); err == nil {
			err = json.Unmarshal(payload, &c)
		}
	}
	if err != nil || answer.RefreshToken == "" {
		return nil, nil, trust.Errorf(trust.Internal, "the authority's answer to the sign-in cannot be used").Because(err)
	}
	return &Session{RefreshToken: answer.RefreshToken, UserName: c.UserName, ObjectID: c.ObjectID}, &c, nil
}

// FindTenant asks a server which tenant it is, as Azure's clients do: by the
// challenge to a call without a token.
func FindTenant(ctx context.Context, server string, t ServerTrust) (string, error) {
	conf, err := t.TLS(server)
	if err != nil {
		return "", err
	}
	base := strings.TrimSuffix(server, "/")
	c := &http.Client{Transport: newTransport(conf), CheckRedirect: noRedirect, Timeout: 30 * time.Second}
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/subscriptions?api-version="+ResourcesVersion, nil)
	if err != nil {
		return "", fmt.Errorf("ask for the tenant: %w", err)
	}
	res, err := c.Do(req)
	if err != nil {
		return "", unreachable(ctx, base, err)
	}
	defer res.Body.Close()
	_, rest, found := strings.Cut(res.Header.Get("WWW-Authenticate"), `authorization_uri="`)
	uri, _, closed := strings.Cut(rest, `"`)
	u, err := url.Parse(uri)
	if !found || !closed || err != nil || strings.Trim(u.Path, "/") == "" || strings.Contains(strings.Trim(u.Path, "/"), "/") {
		return "", trust.Errorf(trust.Unavailable, "%s does not say which tenant it is: give --tenant", base)
	}
	return strings.Trim(u.Path, "/"), nil
}
