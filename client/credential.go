package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sallyport/sallyport/trust"
)

// Secret is how a client proves itself to the authority: exactly one field is
// set.
type Secret struct {
	Text          string                                    // client secret
	AssertionFile string                                    // a file with a token of another issuer (workload identity), read anew each time
	Assertion     func(ctx context.Context) (string, error) // gives such a token, for who signs its own
	Certificate   string                                    // a PEM file with a private key and its registered certificate, read anew each time
	SessionFile   string                                    // a file with a person's Session, which changes with each use
}

// AuthorityCredential gets tokens from an authority by client credentials
// (RFC 6749, 4.4; with an assertion RFC 7523, 2.2) and keeps them.
type AuthorityCredential struct {
	Authority string // https://host[:port]
	Trust     ServerTrust
	Tenant    string
	ClientID  string
	Secret    Secret
	Cache     *TokenCache // nil: memory only
	Now       func() time.Time

	mu        sync.Mutex // one call to the authority at a time; guards what follows
	authority *authority
	kept      map[string]Token
}

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" // RFC 7523 2.2

// Token is an access token with its end.
type Token struct {
	Value   string    `json:"accessToken"`
	Expires time.Time `json:"expires"`
}

// good tells whether a token lasts long enough to be used for a while.
func (t Token) good(now time.Time) bool {
	return t.Value != "" && t.Expires.Sub(now) > 2*time.Minute
}

// Token fits Credential.
func (a *AuthorityCredential) Token(ctx context.Context, scope string, fresh bool) (string, error) {
	t, err := a.Get(ctx, scope, fresh)
	return t.Value, err
}

// Get is Token with the token's end.
func (a *AuthorityCredential) Get(ctx context.Context, scope string, fresh bool) (Token, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now
	if a.Now != nil {
		now = a.Now
	}
	key := a.key(scope)
	if !fresh {
		if t := a.kept[key]; t.good(now()) {
			return t, nil
		}
		if t, ok := a.Cache.get(key); ok && t.good(now()) {
			a.keep(key, t)
			return t, nil
		}
	}
	t, err := a.ask(ctx, scope, now, func() (Token, bool) {
		t, ok := a.Cache.get(key)
		return t, ok && !fresh && t.good(now())
	})
	if err != nil {
		return Token{}, err
	}
	a.keep(key, t)
	a.Cache.put(key, t)
	return t, nil
}

func (a *AuthorityCredential) keep(key string, t Token) {
	if a.kept == nil {
		a.kept = map[string]Token{}
	}
	a.kept[key] = t
}

// key names a token in a cache without giving anything away.
func (a *AuthorityCredential) key(scope string) string {
	h := sha256.New()
	for _, s := range []string{a.Authority, a.Tenant, a.ClientID, a.Secret.Text, a.Secret.AssertionFile, a.Secret.Certificate, a.Secret.SessionFile, scope} {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func (a *AuthorityCredential) ask(ctx context.Context, scope string, now func() time.Time, cached func() (Token, bool)) (Token, error) {
	if a.authority == nil {
		var err error
		if a.authority, err = newAuthority(a.Authority, a.Tenant, a.Trust); err != nil {
			return Token{}, err
		}
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {a.ClientID}, "scope": {scope}}
	switch {
	case a.Secret.SessionFile != "":
		return a.authority.refresh(ctx, a.Secret.SessionFile, a.ClientID, scope, now, cached, func(t Token) { a.Cache.put(a.key(scope), t) })
	case a.Secret.Certificate != "":
		assertion, err := certificateAssertion(a.Secret.Certificate, a.ClientID, a.authority.at("token"), now())
		if err != nil {
			return Token{}, err
		}
		form.Set("client_assertion_type", assertionType)
		form.Set("client_assertion", assertion)
	case a.Secret.AssertionFile != "" || a.Secret.Assertion != nil:
		get := a.Secret.Assertion
		if get == nil {
			get = TokenFile(a.Secret.AssertionFile)
		}
		assertion, err := get(ctx)
		if err != nil {
			return Token{}, err
		}
		form.Set("client_assertion_type", assertionType)
		form.Set("client_assertion", assertion)
	case a.Secret.Text != "":
		form.Set("client_secret", a.Secret.Text)
	default:
		return Token{}, trust.Errorf(trust.Unauthenticated, "client %s has no secret, certificate or federated token to show", a.ClientID)
	}
	t, _, err := a.authority.exchange(ctx, form, now)
	return t, err
}

// TokenCache keeps tokens in a folder, one file each, for the caller's eyes
// only. What cannot be read or written counts as absent: a cache is no reason
// to fail.
type TokenCache struct{ Dir string }

func (c *TokenCache) get(key string) (Token, bool) {
	if c == nil {
		return Token{}, false
	}
	path := filepath.Join(c.Dir, key+".json")
	data, err := os.ReadFile(path)
	var t Token
	if err != nil || json.Unmarshal(data, &t) != nil {
		return Token{}, false
	}
	return t, true
}

func (c *TokenCache) put(key string, t Token) {
	if c == nil {
		return
	}
	data, err := json.Marshal(t)
	if err != nil || os.MkdirAll(c.Dir, 0o700) != nil {
		return
	}
	_ = writeFile(filepath.Join(c.Dir, key+".json"), data)
}

// Clear forgets all tokens.
func (c *TokenCache) Clear() error {
	if c == nil {
		return nil
	}
	files, err := filepath.Glob(filepath.Join(c.Dir, "*.json"))
	if err != nil {
		return fmt.Errorf("clear token cache: %w", err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("clear token cache: %w", err)
		}
	}
	return nil
}

// writeFile replaces a file at once, mode 0600: a reader sees the old or the new.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // made 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
