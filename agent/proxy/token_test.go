package proxy

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// issuing is an API server that makes tokens by its own clock.
type issuing struct {
	now  func() time.Time
	made int
}

func (i *issuing) RoundTrip(*http.Request) (*http.Response, error) {
	i.made++
	body, err := json.Marshal(authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{
		Token: "t", ExpirationTimestamp: metav1.NewTime(i.now().Add(tokenLife)),
	}})
	return &http.Response{StatusCode: http.StatusCreated, Body: io.NopCloser(strings.NewReader(string(body)))}, err
}

// The two clocks need not agree: a token lasts as long as was asked for, from
// when it was asked for.
func TestTokensOutliveNoClock(t *testing.T) {
	for _, ahead := range []time.Duration{-2 * time.Hour, -time.Minute, 0, time.Minute, 10 * time.Minute, 2 * time.Hour} {
		now := time.Now()
		api := &issuing{now: func() time.Time { return now.Add(-ahead) }}
		tokens := newTokens(api, &url.URL{Scheme: "https", Host: "x"}, func() time.Time { return now })
		get := func() int {
			if _, err := tokens.get(t.Context(), "b"); err != nil {
				t.Fatal(err)
			}
			return api.made
		}
		get()
		if n := get(); n != 1 {
			t.Errorf("agent's clock %s ahead: %d tokens for two requests", ahead, n)
		}
		now = now.Add(tokenLife)
		if n := get(); n != 2 {
			t.Errorf("agent's clock %s ahead: an expired token was kept", ahead)
		}
	}
}
