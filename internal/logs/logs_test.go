package logs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

const (
	jwt    = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJodHRwczovL2F1dGhvcml0eS50ZXN0In0.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"
	secret = "sps_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
	pemKey = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIPrivatePartOfTheKey\n-----END EC PRIVATE KEY-----\n"
	opaque = "opaque-credential-0123456789"
)

// revealing are what must never be seen in any line.
var revealing = []string{"c2lnbmF0dXJlLW9m", "eyJpc3MiOiJodHRw", "0123456789abcdefghij", "MHcCAQEEIPrivate", "opaque-credential", "b3BhcXVlLWNyZWRl"}

type valuer struct{}

func (valuer) LogValue() slog.Value {
	return slog.GroupValue(slog.String("token", opaque), slog.String("name", jwt))
}

type body struct {
	Name         string `json:"name"`
	ClientSecret string `json:"client_secret"`
}

// Every way we know for a secret to get into a line, in both formats.
func TestNoSecretPasses(t *testing.T) {
	header := http.Header{"Authorization": {"Bearer " + opaque}, "Cookie": {"session=" + opaque}, "Accept": {"text/plain"}}
	u, err := url.Parse("https://user:" + opaque + "@host.test/path?access_token=" + opaque + "&x=1")
	if err != nil {
		t.Fatal(err)
	}
	req := &http.Request{Method: "GET", URL: u, Header: header}
	form := url.Values{"client_secret": {opaque}, "client_id": {"visible"}}
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		l, err := New(&out, Options{Level: slog.LevelDebug, Format: format})
		if err != nil {
			t.Fatal(err)
		}
		l.Info("token " + jwt)
		l.Info("a", "token", opaque, "Authorization", opaque, "client_secret", opaque, "clientSecret", opaque, "X-Identity-Header", opaque)
		l.Info("b", "value", jwt, "other", "Bearer "+opaque, "basic", "Basic b3BhcXVlLWNyZWRlbnRpYWw=")
		l.Info("c", "error", fmt.Errorf("post: %w", errors.New("form client_secret="+opaque+"&scope=x refused")))
		l.Info("d", "error", fmt.Errorf("answer: %s", `{"access_token":"`+opaque+`","token_type":"Bearer"}`))
		l.Info("e", "header", header)
		l.Info("f", "url", u, "url2", *u, "request", req, "form", form, "text", u.String())
		l.Info("g", "key", pemKey, "cut", pemKey[:60])
		l.Info("h", "secret", secret, "also", "got "+secret+" here")
		l.Info("i", slog.Group("g", slog.String("password", opaque), slog.Group("h", slog.Any("v", valuer{}))))
		l.With("token", opaque, "jwt", jwt).WithGroup("z").Info("j", "refresh_token", opaque)
		l.Info("k", "body", body{Name: "visible", ClientSecret: opaque}, "map", map[string]any{"Authorization": "Bearer " + opaque})
		l.Info("l", "text", fmt.Sprintf("%v", header), "dump", "GET / HTTP/1.1\r\nAuthorization: "+opaque+"\r\nCookie: a="+opaque+"; b="+opaque+"\r\n")
		l.Info("m", "protocol", "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.b3BhcXVlLWNyZWRlbnRpYWw")
		l.Info("n", "bytes", []byte("password="+opaque))
		Std(l, slog.LevelDebug, "http").Printf("http: bad header Authorization: Bearer %s", opaque)
		slog.NewLogLogger(l.Handler(), slog.LevelInfo).Printf("token %s", jwt)

		for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
			for _, r := range revealing {
				if strings.Contains(line, r) {
					t.Errorf("%s: %q is in %s", format, r, line)
				}
			}
			if format == "json" && !json.Valid([]byte(line)) {
				t.Errorf("redaction broke the JSON: %s", line)
			}
		}
		if n := strings.Count(out.String(), "visible"); n < 2 {
			t.Errorf("%s: %d harmless values are left, want 2: redaction takes too much\n%s", format, n, out.String())
		}
	}
}

func TestHarmlessLinesStay(t *testing.T) {
	for _, line := range []string{
		`level=INFO msg="token issued" client=1 audience=https://a.test/gateways/west credential=/secrets/a/b`,
		`{"msg":"signing key made","kid":"NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"}`,
		`msg="basic checks done" bearer=no`,
		`msg="key" sha256:0123456789012345678901234567890123456789012345678901234567890123`,
		`msg=x path=/api/v1/namespaces/default/serviceaccounts/x/token user=system:serviceaccount:a:b`,
		`msg=x url=https://host:8443/clusters/1?watch=true`,
	} {
		if got := string(Redact([]byte(line))); got != line {
			t.Errorf("changed:\n%s\n%s", line, got)
		}
	}
}

func TestFormatsAndLevels(t *testing.T) {
	var out bytes.Buffer
	l, err := New(&out, Options{})
	if err != nil {
		t.Fatal(err)
	}
	l.Debug("no")
	l.Info("yes", "n", 1)
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line["msg"] != "yes" || line["n"] != 1.0 {
		t.Errorf("default on a buffer: %s", out.String())
	}
	if l.Enabled(context.Background(), slog.LevelDebug) {
		t.Error("debug is on by default")
	}
	if _, err := New(&out, Options{Format: "xml"}); err == nil {
		t.Error("an unknown format was taken")
	}
	for name, want := range map[string]slog.Level{"": slog.LevelInfo, "debug": slog.LevelDebug, "WARN": slog.LevelWarn, "error": slog.LevelError} {
		if got, err := ParseLevel(name); err != nil || got != want {
			t.Errorf("ParseLevel(%q) = %v, %v", name, got, err)
		}
	}
	if _, err := ParseLevel("loud"); err == nil {
		t.Error("an unknown level was taken")
	}
}

func FuzzRedact(f *testing.F) {
	for _, s := range []string{"", jwt, "x " + secret, pemKey, "Authorization: Bearer " + opaque, `{"access_token":"` + opaque + `"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		before := bytes.Clone(text)
		_ = Redact(text)
		if !bytes.Equal(text, before) {
			t.Fatal("the argument was changed")
		}
		// A JWT amid anything printable that cannot be part of one is found.
		if framed := Redact([]byte(string(text) + " " + jwt + " ")); bytes.Contains(framed, []byte(jwt)) {
			t.Fatalf("not redacted: %q", framed)
		}
	})
}

func BenchmarkAHarmlessLine(b *testing.B) {
	line := []byte(`{"time":"2026-01-01T00:00:00Z","level":"INFO","msg":"request","source":"/subscriptions/1/resourcegroups/rg/providers/X.Y/z/w","decision":"allowed","path":"/api/v1/namespaces/default/pods","ms":12}` + "\n")
	b.ReportAllocs()
	for b.Loop() {
		Redact(line)
	}
}
