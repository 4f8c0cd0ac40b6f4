package authn

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// site is an issuer's web site that a test can make misbehave.
func site(t *testing.T, change func(mux *http.ServeMux, url func() string)) (*httptest.Server, *x509.CertPool) {
	t.Helper()
	mux := http.NewServeMux()
	server := httptest.NewUnstartedServer(mux)
	change(mux, func() string { return server.URL })
	server.StartTLS()
	t.Cleanup(server.Close)
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	return server, pool
}

const wellKnown = "/.well-known/openid-configuration"

func TestDiscovery(t *testing.T) {
	jwks := fmt.Sprintf(`{"keys":[%s]}`, mustJSON(t, jwkOf("a", rsaKeys()[0].Public())))
	text := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, s) }
	}
	document := func(url func() string, issuer, keys string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, strings.Replace(issuer, "SELF", url(), 1), strings.Replace(keys, "SELF", url(), 1))
		}
	}
	tests := []struct {
		name, says string // says "" means it works
		site       func(mux *http.ServeMux, url func() string)
	}{
		{"a good issuer", "", func(mux *http.ServeMux, url func() string) {
			mux.HandleFunc(wellKnown, document(url, "SELF", "SELF/keys"))
			mux.HandleFunc("/keys", text(jwks))
		}},
		{"another issuer's document", "want", func(mux *http.ServeMux, url func() string) {
			mux.HandleFunc(wellKnown, document(url, "https://other.test", "SELF/keys"))
		}},
		{"issuer twice", "duplicate", func(mux *http.ServeMux, url func() string) {
			mux.HandleFunc(wellKnown, func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintf(w, `{"issuer":"x","issuer":%q,"jwks_uri":%q}`, url(), url()+"/keys")
			})
			mux.HandleFunc("/keys", text(jwks))
		}},
		{"redirect of the document", "redirects", func(mux *http.ServeMux, url func() string) {
			mux.Handle(wellKnown, http.RedirectHandler("/elsewhere", http.StatusFound))
			mux.HandleFunc("/elsewhere", document(url, "SELF", "SELF/keys"))
			mux.HandleFunc("/keys", text(jwks))
		}},
		{"redirect of the keys", "redirects", func(mux *http.ServeMux, url func() string) {
			mux.HandleFunc(wellKnown, document(url, "SELF", "SELF/keys"))
			mux.Handle("/keys", http.RedirectHandler("/other", http.StatusFound))
			mux.HandleFunc("/other", text(jwks))
		}},
		{"keys over http", "https URL", func(mux *http.ServeMux, url func() string) {
			mux.HandleFunc(wellKnown, document(url, "SELF", "http://127.0.0.1/keys"))
		}},
		{"keys in a file", "https URL", func(mux *http.ServeMux, url func() string) {
			mux.HandleFunc(wellKnown, document(url, "SELF", "file:///etc/passwd"))
		}},
		{"no keys named", "https URL", func(mux *http.ServeMux, url func() string) {
			mux.HandleFunc(wellKnown, document(url, "SELF", ""))
		}},
		{"endless document", "more than", func(mux *http.ServeMux, _ func() string) {
			mux.HandleFunc(wellKnown, text(strings.Repeat(" ", maxDocument+1)))
		}},
		{"endless keys", "more than", func(mux *http.ServeMux, url func() string) {
			mux.HandleFunc(wellKnown, document(url, "SELF", "SELF/keys"))
			mux.HandleFunc("/keys", text(strings.Repeat(" ", maxKeySet+1)))
		}},
		{"not there", "404", func(*http.ServeMux, func() string) {}},
		{"HTML", "invalid character", func(mux *http.ServeMux, _ func() string) { mux.HandleFunc(wellKnown, text("<html>")) }},
	}
	for _, tt := range tests {
		server, pool := site(t, tt.site)
		source, err := NewDiscovery(Discovery{Issuer: server.URL, Roots: pool})
		if err != nil {
			t.Fatal(err)
		}
		keys, err := source.Keys(t.Context())
		if tt.says == "" && (err != nil || len(keys) != 1 || keys[0].ID != "a") {
			t.Errorf("%s: %v, %v", tt.name, keys, err)
		}
		if tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%s: %v, want an error with %q", tt.name, err, tt.says)
		}
	}
}

func TestUsersIssuersMayOnlyBePublic(t *testing.T) {
	server, pool := site(t, func(*http.ServeMux, func() string) {})
	for _, name := range []string{"127.0.0.1", "localhost"} {
		url := strings.Replace(server.URL, "127.0.0.1", name, 1)
		source, err := NewDiscovery(Discovery{Issuer: url, Roots: pool, PublicOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := source.Keys(t.Context()); err == nil || !strings.Contains(err.Error(), "not public") {
			t.Errorf("%s: %v, want a refusal", url, err)
		}
	}
	for address, public := range map[string]bool{
		"8.8.8.8:443": true, "[2606:4700::1111]:443": true, "[::ffff:8.8.8.8]:443": true,
		"127.0.0.1:443": false, "127.9.9.9:1": false, "[::1]:443": false, "0.0.0.0:443": false, "[::]:443": false,
		"10.1.2.3:443": false, "172.16.0.1:443": false, "172.31.255.255:443": false, "192.168.1.1:443": false, "100.64.0.1:443": false,
		"169.254.169.254:80": false, "[fe80::1%25lo]:443": false, "[fe80::1]:443": false, "[fd00::1]:443": false, "[fec0::1]:443": false,
		"[::ffff:127.0.0.1]:443": false, "[::ffff:169.254.169.254]:80": false, "[64:ff9b::a9fe:a9fe]:80": false, "[2002:a9fe:a9fe::1]:80": false,
		"[::7f00:1]:443": false, "168.63.129.16:80": false, "224.0.0.1:443": false, "255.255.255.255:443": false, "198.18.0.1:443": false, "host:443": false,
	} {
		if err := publicAddress(address); (err == nil) != public {
			t.Errorf("%s: %v, want public: %v", address, err, public)
		}
	}
}

func TestIssuerURLs(t *testing.T) {
	for _, bad := range []string{"", "http://a.test", "https://", "https://u@a.test", "https://u:p@a.test", "https://a.test?x=1", "https://a.test?", "https://a.test#f", "a.test", "https:a.test", "ftp://a.test", "https://a.test/" + strings.Repeat("x", 2048)} {
		if _, err := NewDiscovery(Discovery{Issuer: bad}); err == nil {
			t.Errorf("issuer %.60q was taken", bad)
		}
		if _, err := NewDiscovery(Discovery{Issuer: "https://a.test", URL: bad}); err == nil && bad != "" {
			t.Errorf("discovery URL %.60q was taken", bad)
		}
	}
}

func TestADiscoveredIssuerEndToEnd(t *testing.T) {
	w := newWorld(t, nil)
	server, _ := site(t, func(mux *http.ServeMux, url func() string) {
		mux.HandleFunc(wellKnown, func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, url(), url()+"/keys")
		})
		mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"keys":[%s]}`, mustJSON(t, jwkOf("rsa-1", rsaKeys()[0].Public())))
		})
	})
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	issuers, err := ParseFile(fmt.Appendf(nil, `
apiVersion: sallyport.dev/v1
kind: AuthenticationConfiguration
jwt:
- issuer:
    url: %s
    certificateAuthority: |
%s
    audiences: [client-1]
    audienceStandsFor:
      client-1: %s
  claimValidationRules:
  - claim: ver
    requiredValue: "2.0"
  claimMappings:
    uid: {claim: sub}
    tenant: {claim: "-"}
    username: {claim: email}
    groups: {claim: groups}
  tenants: [Corp]
`, server.URL, indent(string(ca)), aud))
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Config{Issuers: issuers, Now: w.clock.Now, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	token := w.token(t, object{"iss": server.URL, "aud": "client-1", "xms_mirid": nil, "email": "jo@test", "groups": "ops"})
	got, err := a.Authenticate(t.Context(), token, Audiences{aud})
	if err != nil || got.Tenant != "corp" || got.Object != "principal" || got.Name != "jo@test" || len(got.Groups) != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func indent(s string) string {
	return "      " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n      ")
}

func TestFilesAreReadStrictly(t *testing.T) {
	const head = "apiVersion: sallyport.dev/v1\nkind: AuthenticationConfiguration\n"
	jwt := func(s string) string { return head + "jwt:\n- " + s }
	const good = "issuer: {url: 'https://a.test'}\n  tenants: [t]\n"
	if issuers, err := ParseFile([]byte(jwt(good))); err != nil || len(issuers) != 1 {
		t.Fatalf("a good file: %v", err)
	}
	for name, text := range map[string]string{
		"another version":      "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n",
		"unknown key":          head + "anonymous: {enabled: true}\n",
		"CEL":                  jwt(good + "  userValidationRules: [{expression: 'true'}]\n"),
		"CEL in a rule":        jwt(good + "  claimValidationRules: [{expression: 'true'}]\n"),
		"rule without value":   jwt(good + "  claimValidationRules: [{claim: a}]\n"),
		"rule twice":           jwt(good + "  claimValidationRules: [{claim: a, requiredValue: b}, {claim: a, requiredValue: c}]\n"),
		"key twice":            jwt(good + "  tenants: [u]\n"),
		"no tenants":           jwt("issuer: {url: 'https://a.test'}\n"),
		"http":                 jwt("issuer: {url: 'http://a.test'}\n  tenants: [t]\n"),
		"policy":               jwt("issuer: {url: 'https://a.test', audienceMatchPolicy: MatchAll}\n  tenants: [t]\n"),
		"CA without certs":     jwt("issuer: {url: 'https://a.test', certificateAuthority: x}\n  tenants: [t]\n"),
		"not YAML":             "\t",
		"several tenants, '-'": jwt("issuer: {url: 'https://a.test'}\n  tenants: [t, u]\n  claimMappings: {tenant: {claim: '-'}}\n"),
	} {
		if _, err := ParseFile([]byte(text)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
