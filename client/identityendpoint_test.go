package client

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/trust"
)

func TestIdentityEndpoint(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var failure error
	e := &IdentityEndpoint{ClientID: "44444444-4444-4444-8444-444444444444", Header: "s3cret", IMDS: true, Addresses: []string{"127.0.0.1:99", "169.254.169.254"}, Now: func() time.Time { return now },
		Get: func(_ context.Context, scope string, _ bool) (Token, error) {
			return Token{Value: "token for " + scope, Expires: now.Add(time.Hour)}, failure
		}}
	ask := func(target string, change func(*http.Request)) (int, map[string]string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
		r.Host = "127.0.0.1:99"
		if strings.HasPrefix(target, IMDSPath) {
			r.Header.Set("Metadata", "true")
		} else {
			r.Header.Set("X-IDENTITY-HEADER", "s3cret")
		}
		if change != nil {
			change(r)
		}
		rec := httptest.NewRecorder()
		e.ServeHTTP(rec, r)
		var body map[string]string
		if err := json.Unmarshal(rec.Body.Bytes(), &body); err != nil {
			t.Fatalf("%s: %v: %s", target, err, rec.Body)
		}
		return rec.Code, body
	}
	const app, imds = IdentityPath + "?api-version=2019-08-01&resource=https://s", IMDSPath + "?api-version=2018-02-01&resource=https://s"
	status, body := ask(app, nil)
	if status != 200 || body["access_token"] != "token for https://s/.default" || body["expires_on"] != strconv.FormatInt(now.Add(time.Hour).Unix(), 10) || body["token_type"] != "Bearer" || body["resource"] != "https://s" || body["client_id"] != e.ClientID {
		t.Errorf("App Service: %d %v", status, body)
	}
	status, body = ask(imds, func(r *http.Request) { r.Host = "169.254.169.254" })
	if status != 200 || body["expires_in"] != "3600" || body["not_before"] == "" {
		t.Errorf("IMDS: %d %v", status, body)
	}
	if status, body := ask(IdentityPath+"?api-version=2017-09-01&resource=https://s&clientid="+strings.ToUpper(e.ClientID), func(r *http.Request) {
		r.Header.Del("X-IDENTITY-HEADER")
		r.Header.Set("secret", "s3cret")
	}); status != 200 {
		t.Errorf("Azure ML's form: %d %v", status, body)
	}
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for name, try := range map[string]struct {
		target string
		change func(*http.Request)
		status int
	}{
		"no header":                {app, func(r *http.Request) { r.Header.Del("X-IDENTITY-HEADER") }, 401},
		"wrong header":             {app, set("X-IDENTITY-HEADER", "s3cret2"), 401},
		"empty header":             {app, set("X-IDENTITY-HEADER", ""), 401},
		"two headers":              {app, func(r *http.Request) { r.Header.Add("X-IDENTITY-HEADER", "s3cret") }, 401},
		"Metadata is no secret":    {app, func(r *http.Request) { r.Header.Del("X-IDENTITY-HEADER"); r.Header.Set("Metadata", "true") }, 401},
		"no version":               {IdentityPath + "?resource=https://s", nil, 400},
		"no resource":              {IdentityPath + "?api-version=2019-08-01", nil, 400},
		"resource twice":           {app + "&resource=https://t", nil, 400},
		"another identity":         {app + "&client_id=55555555-5555-4555-8555-555555555555", nil, 400},
		"by resource id":           {app + "&mi_res_id=/subscriptions/x", nil, 400},
		"POST":                     {app, func(r *http.Request) { r.Method = "POST" }, 405},
		"elsewhere":                {"/", nil, 404},
		"forwarded":                {app, set("X-Forwarded-For", "10.0.0.1"), 400},
		"forwarded, empty":         {app, set("X-Forwarded-For", ""), 400},
		"by a proxy":               {app, set("Via", "1.1 x"), 400},
		"from a page":              {app, set("Origin", "https://evil.test"), 403},
		"from a page, same site":   {app, set("Sec-Fetch-Site", "same-origin"), 403},
		"foreign host":             {app, func(r *http.Request) { r.Host = "evil.test" }, 403},
		"foreign port":             {app, func(r *http.Request) { r.Host = "127.0.0.1:98" }, 403},
		"no host":                  {app, func(r *http.Request) { r.Host = "" }, 403},
		"IMDS without Metadata":    {imds, func(r *http.Request) { r.Header.Del("Metadata") }, 400},
		"IMDS, Metadata: false":    {imds, set("Metadata", "false"), 400},
		"IMDS, Metadata twice":     {imds, func(r *http.Request) { r.Header.Add("Metadata", "true") }, 400},
		"IMDS forwarded":           {imds, set("X-Forwarded-For", "10.0.0.1"), 400},
		"IMDS, foreign host":       {imds, func(r *http.Request) { r.Host = "metadata.evil.test" }, 403},
		"IMDS without version":     {IMDSPath + "?resource=https://s", nil, 400},
		"IMDS of another identity": {imds + "&object_id=x", nil, 400},
	} {
		if status, body := ask(try.target, try.change); status != try.status || body["access_token"] != "" || body["error"] == "" {
			t.Errorf("%s: %d %v, want %d", name, status, body, try.status)
		}
	}
	for _, f := range []struct {
		err    error
		status int
	}{{trust.Errorf(trust.Unauthenticated, "x"), 403}, {trust.Errorf(trust.Invalid, "x"), 400}, {trust.Errorf(trust.Unavailable, "x"), 503}, {errors.New("x"), 503}} {
		failure = f.err
		if status, body := ask(app, nil); status != f.status || body["access_token"] != "" {
			t.Errorf("%v: %d %v", f.err, status, body)
		}
	}
	failure, e.IMDS = nil, false
	if status, _ := ask(imds, nil); status != 404 {
		t.Errorf("IMDS, which was not asked for: %d", status)
	}
	e.Header = ""
	if status, _ := ask(app, set("X-IDENTITY-HEADER", "")); status != 401 {
		t.Errorf("an endpoint without a secret: %d", status)
	}
}

func TestIdentityAddresses(t *testing.T) {
	for address, ok := range map[string]bool{"127.0.0.1:80": true, "[::1]:1": true, "169.254.169.254:80": true, "10.0.0.1:80": false, "0.0.0.0:80": false, "[::]:80": false, "169.254.1.1:80": false} {
		at, err := net.ResolveTCPAddr("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if names, err := IdentityAddresses(at); (err == nil) != ok || ok && names[0] != address {
			t.Errorf("%s: %v, %v", address, names, err)
		}
	}
}

func FuzzIdentityEndpoint(f *testing.F) {
	f.Add("/msi/token?api-version=2019-08-01&resource=x", "127.0.0.1:1", "X-IDENTITY-HEADER", "x")
	f.Add("/metadata/identity/oauth2/token?api-version=1&resource=x", "169.254.169.254", "Metadata", "true")
	f.Add("/msi/token?%zz&;", "", "Secret", "")
	e := &IdentityEndpoint{ClientID: "c", Header: "s3cret", Addresses: []string{"127.0.0.1:1", "169.254.169.254"},
		Get: func(context.Context, string, bool) (Token, error) { return Token{Value: "leaked"}, nil }}
	f.Fuzz(func(t *testing.T, target, host, name, value string) {
		if !strings.HasPrefix(target, "/") || strings.ContainsFunc(target, func(c rune) bool { return c <= ' ' || c > '~' }) || strings.Contains(value, "s3cret") {
			return
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x"+target, nil)
		if err != nil {
			return
		}
		r.Host = host
		r.Header[http.CanonicalHeaderKey(name)] = []string{value}
		rec := httptest.NewRecorder()
		e.ServeHTTP(rec, r)
		if rec.Code < 400 || rec.Code > 405 || strings.Contains(rec.Body.String(), "leaked") {
			t.Fatalf("%s %s: %d %s", host, target, rec.Code, rec.Body)
		}
	})
}
