package ml

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/e2e/installation"
	"github.com/sallyport/sallyport/mlext/wire"
)

// ask asks the extension as a service does, with its own token for the gateway
// and another for the extension. code is the extension's, or "Status" where the
// gateway itself refused: no binding covers the request.
func (m *ml) ask(s *installation.Service, own, method, path, body string) (status int, code string) {
	m.t.Helper()
	ctx := m.t.Context()
	token, err := s.Token(ctx)
	m.must(err)
	req, err := http.NewRequestWithContext(ctx, method, m.URL+"/clusters/"+m.UID+wire.ProxyPath+wire.Prefix+path, strings.NewReader(body))
	m.must(err)
	req.Header.Set("Authorization", "Bearer "+token)
	if own != "" {
		req.Header.Set(wire.TokenHeader, own)
	}
	hc := m.HTTP(2)
	defer hc.CloseIdleConnections()
	res, err := hc.Do(req)
	m.must(err)
	defer res.Body.Close()
	var e struct {
		Kind string
		Code any
	}
	m.must(json.NewDecoder(res.Body).Decode(&e))
	if e.Kind == "Status" {
		return res.StatusCode, e.Kind
	}
	return res.StatusCode, fmt.Sprint(e.Code)
}

// extensionToken is a service's token for the cluster's extension.
func (m *ml) extensionToken(s *installation.Service) string {
	m.t.Helper()
	token, err := s.Credential.Token(m.t.Context(), wire.Audience(m.URL, m.UID)+"/.default", false)
	m.must(err)
	return token
}
