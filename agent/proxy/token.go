package proxy

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

// tokenLife is what is asked for: the shortest that TokenRequest gives.
const tokenLife = 10 * time.Minute

// tokens keeps one token per binding, made by TokenRequest and renewed at about
// four fifths of its life.
type tokens struct {
	agent http.RoundTripper
	base  *url.URL
	now   func() time.Time

	mu      sync.Mutex
	entries map[trust.BindingUID]*tokenEntry
}

// tokenEntry is one binding's token. mu is held while it is being made, so that
// one request makes it and the others wait.
type tokenEntry struct {
	mu      chan struct{} // a lock that a context can give up on
	token   string
	renew   time.Time
	expires time.Time
}

func newTokens(agent http.RoundTripper, base *url.URL, now func() time.Time) *tokens {
	return &tokens{agent: agent, base: base, now: now, entries: map[trust.BindingUID]*tokenEntry{}}
}

func (t *tokens) entry(uid trust.BindingUID) *tokenEntry {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[uid]
	if e == nil {
		e = &tokenEntry{mu: make(chan struct{}, 1)}
		t.entries[uid] = e
	}
	return e
}

// errMayNot: the API server knows the agent and refuses it a binding's token.
// The owner took that right away, with the namespace of all bindings perhaps.
var errMayNot = errors.New("HTTP 403")

// get returns a token of the binding's ServiceAccount.
func (t *tokens) get(ctx context.Context, uid trust.BindingUID) (string, error) {
	e := t.entry(uid)
	select {
	case e.mu <- struct{}{}:
		defer func() { <-e.mu }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	now := t.now()
	if e.token != "" && now.Before(e.renew) {
		return e.token, nil
	}
	token, expires, err := t.request(ctx, uid)
	if err != nil {
		if e.token != "" && now.Before(e.expires) && trust.KindOf(err) == trust.Unavailable {
			return e.token, nil // good for a while: tried again by the next request
		}
		e.token = ""
		return "", err
	}
	life := expires.Sub(now)
	if life <= 0 || life > tokenLife { // the clocks differ
		life = tokenLife
	}
	e.token, e.expires = token, now.Add(life)
	e.renew = now.Add(life*8/10 - time.Duration(rand.Int64N(int64(life/20)+1)))
	return token, nil
}

// drop forgets a token that the API server did not take.
func (t *tokens) drop(uid trust.BindingUID, token string) {
	e := t.entry(uid)
	e.mu <- struct{}{}
	defer func() { <-e.mu }()
	if e.token == token {
		e.token = ""
	}
}

// keep forgets the tokens of all bindings but these.
func (t *tokens) keep(bindings []trust.Binding) {
	t.mu.Lock()
	defer t.mu.Unlock()
	keep := make(map[trust.BindingUID]bool, len(bindings))
	for _, b := range bindings {
		keep[b.UID] = true
	}
	for uid := range t.entries {
		if !keep[uid] {
			delete(t.entries, uid)
		}
	}
}

// request makes a token (authentication.k8s.io/v1 TokenRequest).
func (t *tokens) request(ctx context.Context, uid trust.BindingUID) (string, time.Time, error) {
	seconds := int64(tokenLife / time.Second)
	body, err := json.Marshal(authenticationv1.TokenRequest{
		TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenRequest"},
		Spec:     authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds},
	})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("token request: %w", err)
	}
	u := t.base.JoinPath("api/v1/namespaces", rbac.BindingsNamespace, "serviceaccounts", rbac.Account(uid), "token")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return "", time.Time{}, fmt.Errorf("token request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	resp, err := t.agent.RoundTrip(req)
	if err != nil {
		return "", time.Time{}, trust.Errorf(trust.Unavailable, "the API server does not answer the agent").Because(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", time.Time{}, trust.Errorf(trust.Unavailable, "the API server does not answer the agent").Because(err)
	}
	switch {
	case resp.StatusCode == http.StatusCreated:
	case resp.StatusCode == http.StatusNotFound:
		return "", time.Time{}, trust.Errorf(trust.Forbidden, "the binding's identity does not exist in the cluster: it is not applied yet, or the cluster's owner removed it")
	case resp.StatusCode == http.StatusForbidden:
		return "", time.Time{}, trust.Errorf(trust.Unavailable, "the cluster does not let the agent make the binding's token").Because(fmt.Errorf("%w: %.200s", errMayNot, data))
	case resp.StatusCode == http.StatusUnauthorized:
		return "", time.Time{}, trust.Errorf(trust.Unavailable, "the cluster does not know the agent's own token").Because(fmt.Errorf("HTTP %d: %.200s", resp.StatusCode, data))
	default:
		return "", time.Time{}, trust.Errorf(trust.Unavailable, "the API server did not make the binding's token").Because(fmt.Errorf("HTTP %d: %.200s", resp.StatusCode, data))
	}
	var answer authenticationv1.TokenRequest
	if err := json.Unmarshal(data, &answer); err != nil || answer.Status.Token == "" {
		return "", time.Time{}, trust.Errorf(trust.Unavailable, "the API server's token answer is unreadable")
	}
	return answer.Status.Token, answer.Status.ExpirationTimestamp.Time, nil
}

// identityOf reads the uid of the ServiceAccount out of a token that the API
// server just made, "" if it is not there. It verifies nothing: the answer only
// tells one ServiceAccount from another of the same name.
func identityOf(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var claims struct {
		Kubernetes struct {
			ServiceAccount struct {
				UID string `json:"uid"`
			} `json:"serviceaccount"`
		} `json:"kubernetes.io"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return ""
	}
	return claims.Kubernetes.ServiceAccount.UID
}
