package client

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/trust"
)

// tokens is an authority that hands out numbered tokens of one hour.
type tokens struct {
	forms []map[string]string
}

func (a *tokens) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil || r.URL.Path != "/tenant/oauth2/v2.0/token" {
		http.Error(w, "no", http.StatusNotFound)
		return
	}
	form := map[string]string{}
	for k, v := range r.PostForm {
		form[k] = v[0]
	}
	a.forms = append(a.forms, form)
	if form["client_secret"] == "wrong" {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"error":"invalid_client","error_description":"AADSTS7000215: wrong secret"}`)
		return
	}
	fmt.Fprintf(w, `{"access_token":"t%d","token_type":"Bearer","expires_in":"3600"}`, len(a.forms))
}

func TestTokensAreKeptUntilShortlyBeforeTheirEnd(t *testing.T) {
	t.Parallel()
	authority := &tokens{}
	s := newTestServer(t, authority, nil)
	now := time.Now()
	dir := filepath.Join(t.TempDir(), "tokens")
	fresh := func() *AuthorityCredential {
		return &AuthorityCredential{Authority: s.URL, Trust: s.trust, Tenant: "tenant", ClientID: "id", Secret: Secret{Text: "s"}, Cache: &TokenCache{dir}, Now: func() time.Time { return now }}
	}
	a := fresh()
	get := func(a *AuthorityCredential, scope string, again bool, want string) {
		t.Helper()
		if got, err := a.Token(t.Context(), scope, again); err != nil || got != want {
			t.Errorf("token %q, %v; want %q", got, err, want)
		}
	}
	get(a, "x/.default", false, "t1")
	get(a, "x/.default", false, "t1")
	get(a, "y/.default", false, "t2")
	get(fresh(), "x/.default", false, "t1") // another process finds it
	get(a, "x/.default", true, "t3")
	now = now.Add(57 * time.Minute)
	get(a, "x/.default", false, "t3")
	now = now.Add(90 * time.Second)
	get(a, "x/.default", false, "t4")
	other := fresh()
	other.ClientID = "other"
	get(other, "x/.default", false, "t5") // never another's

	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 3 {
		t.Fatalf("cache holds %q, %v", files, err)
	}
	for _, f := range append(files, dir) {
		st, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", f, st.Mode())
		}
	}
	if err := os.WriteFile(files[0], []byte("{broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	get(fresh(), "x/.default", true, "t6")
	if err := (&TokenCache{dir}).Clear(); err != nil {
		t.Fatal(err)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) != 0 {
		t.Errorf("after Clear: %q", files)
	}
}

func TestFederatedTokenIsReadEachTime(t *testing.T) {
	t.Parallel()
	authority := &tokens{}
	s := newTestServer(t, authority, nil)
	file := filepath.Join(t.TempDir(), "token")
	a := &AuthorityCredential{Authority: s.URL, Trust: s.trust, Tenant: "tenant", ClientID: "id", Secret: Secret{AssertionFile: file}}
	for i, assertion := range []string{"one", "two"} {
		if err := os.WriteFile(file, []byte(assertion+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Token(t.Context(), "x/.default", true); err != nil {
			t.Fatal(err)
		}
		f := authority.forms[i]
		if f["client_assertion"] != assertion || f["client_assertion_type"] != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" || f["client_secret"] != "" || f["scope"] != "x/.default" {
			t.Errorf("asked with %v", f)
		}
	}
}

func TestAWrongSecretIsSaidInTheAuthoritysWords(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, &tokens{}, nil)
	a := &AuthorityCredential{Authority: s.URL, Trust: s.trust, Tenant: "tenant", ClientID: "id", Secret: Secret{Text: "wrong"}}
	_, err := a.Token(t.Context(), "x", false)
	if trust.KindOf(err) != trust.Unauthenticated || !strings.Contains(err.Error(), "AADSTS7000215") {
		t.Errorf("got %v", err)
	}
	if strings.Contains(fmt.Sprint(err), "wrong&") {
		t.Errorf("the error holds the request: %v", err)
	}
}

func TestAServerMustBeKnown(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, http.NotFoundHandler(), nil)
	other, err := pki.NewCA(pki.ServerTLS, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		trust ServerTrust
		want  trust.Kind
	}{
		{"its CA", s.trust, trust.NotFound},
		{"its CA's hash", ServerTrust{Hash: s.ca.Hash()}, trust.NotFound},
		{"nothing", ServerTrust{}, trust.Unauthenticated},
		{"another CA", ServerTrust{CA: string(other.PEM())}, trust.Unauthenticated},
		{"another hash", ServerTrust{Hash: other.Hash()}, trust.Unauthenticated},
	}
	for _, tt := range tests {
		c, err := New(Config{Server: s.URL, Trust: tt.trust, Credential: &fixed{}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Get(t.Context(), "/x", "v"); trust.KindOf(err) != tt.want {
			t.Errorf("%s: %v, want kind %v", tt.name, err, tt.want)
		}
		c.Close()
	}
	if got, err := FetchCA(t.Context(), s.URL, s.ca.Hash()); err != nil || CAHash(got) != s.ca.Hash() {
		t.Errorf("FetchCA = %q, %v", got, err)
	}
	if _, err := FetchCA(t.Context(), s.URL, other.Hash()); trust.KindOf(err) != trust.Unauthenticated {
		t.Errorf("FetchCA with another hash: %v", err)
	}
	for _, bad := range []string{"http://h", "https://", "https://h/path", "https://u@h", "h:1", "https://h?q"} {
		if _, err := New(Config{Server: bad, Credential: &fixed{}}); err == nil {
			t.Errorf("server %q was accepted", bad)
		}
	}
}

func TestFileOfContexts(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sub", "config.yaml")
	f, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Use(""); trust.KindOf(err) != trust.Unauthenticated {
		t.Errorf("no context: %v", err)
	}
	secret, err := f.KeepSecret("a/../b", "s3cr3t")
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Dir(secret) != filepath.Join(filepath.Dir(path), "secrets") {
		t.Errorf("secret lies at %s", secret)
	}
	f.Put(Context{Name: "a/../b", Server: "https://h", Tenant: "t", ClientID: "c", SecretFile: secret})
	f.Put(Context{Name: "two", Server: "https://h", Tenant: "t", ClientID: "c", AssertionFile: "/x"})
	f.Current = "two"
	if err := f.Save(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(data), "s3cr3t") {
		t.Errorf("configuration %s, %v", data, err)
	}
	for _, p := range []string{path, secret} {
		if st, err := os.Stat(p); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", p, st, err)
		}
	}
	again, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := again.Use(""); err != nil || c.Name != "two" {
		t.Errorf("current %+v, %v", c, err)
	}
	c, err := again.Use("a/../b")
	if err != nil {
		t.Fatal(err)
	}
	if credential, err := c.Credential(nil); err != nil || credential.Secret.Text != "s3cr3t" || credential.Authority != "https://h" {
		t.Errorf("credential %+v, %v", credential, err)
	}
	if err := again.Remove("a/../b"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(secret); !os.IsNotExist(err) {
		t.Errorf("the secret of a removed context is still there: %v", err)
	}
	if _, err := again.Use("a/../b"); trust.KindOf(err) != trust.NotFound {
		t.Errorf("removed context: %v", err)
	}
	if err := os.WriteFile(path, []byte("contexts: []\nsurprise: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); trust.KindOf(err) != trust.Invalid {
		t.Errorf("unknown key: %v", err)
	}
}

func TestAdminFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "admin.json")
	if err := os.WriteFile(path, []byte(`{"server":"https://h","tenantId":"t","clientId":"c","clientSecret":"s","ca":"pem"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := ReadAdminFile(path)
	if err != nil || a.ClientSecret != "s" || a.CA != "pem" {
		t.Errorf("read %+v, %v", a, err)
	}
	credential, err := (&Context{Server: "https://h", ClientID: "old", Admin: path}).Credential(nil)
	if err != nil || credential.Secret.Text != "s" || credential.ClientID != "c" {
		t.Errorf("credential %+v, %v", credential, err)
	}
	if err := os.WriteFile(path, []byte(`{"server":"https://h"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadAdminFile(path); trust.KindOf(err) != trust.Invalid {
		t.Errorf("half a credential: %v", err)
	}
}
