package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport/sallyport/trust"
)

// authority is the token service of a tenant, as its clients call it.
type authority struct {
	base, tenant string
	client       *http.Client
}

func newAuthority(base, tenant string, t ServerTrust) (*authority, error) {
	conf, err := t.TLS(base)
	if err != nil {
		return nil, err
	}
	return &authority{base: strings.TrimSuffix(base, "/"), tenant: tenant,
		client: &http.Client{Transport: newTransport(conf), CheckRedirect: noRedirect, Timeout: 30 * time.Second}}, nil
}

func (a *authority) at(path string) string {
	return a.base + "/" + url.PathEscape(a.tenant) + "/oauth2/v2.0/" + path
}

// post sends a form to one of the endpoints and reads the answer.
func (a *authority) post(ctx context.Context, path string, form url.Values, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.at(path), strings.NewReader(form.Encode()))
	if err != nil {
		return fmt.Errorf("ask the authority: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	res, err := a.client.Do(req)
	if err != nil {
		return unreachable(ctx, a.base, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		return unreachable(ctx, a.base, err)
	}
	if res.StatusCode != http.StatusOK {
		e := failure(res, body)
		if e.Status == http.StatusBadRequest && (e.Code == "invalid_client" || e.Code == "invalid_grant" || e.Code == "unauthorized_client") {
			e.Status = http.StatusUnauthorized
		}
		return e
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(body, into); err != nil {
		return trust.Errorf(trust.Internal, "the answer of %s cannot be read", a.base).Because(err)
	}
	return nil
}

// answers tells that the authority is there, whatever it says.
func (a *authority) answers(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+"/"+url.PathEscape(a.tenant)+"/v2.0/.well-known/openid-configuration", nil)
	if err != nil {
		return fmt.Errorf("ask the authority: %w", err)
	}
	res, err := a.client.Do(req)
	if err != nil {
		return unreachable(ctx, a.base, err)
	}
	return res.Body.Close()
}

// tokenAnswer is a success of the token endpoint (RFC 6749 5.1).
type tokenAnswer struct {
	AccessToken  string      `json:"access_token"`
	ExpiresIn    json.Number `json:"expires_in"`
	RefreshToken string      `json:"refresh_token"`
	IDToken      string      `json:"id_token"`
}

// exchange gets a token for a grant.
func (a *authority) exchange(ctx context.Context, form url.Values, now func() time.Time) (Token, *tokenAnswer, error) {
	var answer tokenAnswer
	asked := now()
	if err := a.post(ctx, "token", form, &answer); err != nil {
		return Token{}, nil, err
	}
	life, err := answer.ExpiresIn.Int64()
	if answer.AccessToken == "" || err != nil || life <= 0 {
		return Token{}, nil, trust.Errorf(trust.Internal, "the token answer of %s has no token, or does not say how long it lasts", a.base)
	}
	return Token{Value: answer.AccessToken, Expires: asked.Add(time.Duration(life) * time.Second)}, &answer, nil
}
