package signed

import (
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestRefusalsAreTold(t *testing.T) {
	status, body := 0, ""
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, _ := io.ReadAll(r.Body)
		if status == 0 {
			status = http.StatusOK
			body = string(got) + r.Header.Get("X-Signed")
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	defer server.Close()
	hc := Client(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	secret := server.URL + "/k?X-Amz-Signature=secret"
	if err := Put(t.Context(), hc, secret, map[string]string{"X-Signed": "!"}, strings.NewReader("bytes and more"), 5); err != nil || body != "bytes!" {
		t.Fatalf("put %q: %v", body, err)
	}
	for _, c := range []struct {
		status int
		body   string
		is     error
		says   string
	}{
		{403, "<Error><Code>AccessDenied</Code><Message>expired</Message></Error>", ErrExpired, "AccessDenied expired"},
		{507, "<Error><Code>StorageFull</Code><Message>full</Message></Error>", ErrFull, "full"},
		{400, "<Error><Code>BadDigest</Code><Message>other bytes</Message></Error>", nil, "BadDigest other bytes"},
		{307, "", nil, "307"},
		{500, "no XML", nil, "500"},
	} {
		status, body = c.status, c.body
		_, err := Get(t.Context(), hc, secret)
		if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%d: %v", c.status, err)
		}
	}
	server.Close()
	for _, hc := range []*http.Client{hc, Client(""), Client("no PEM")} {
		if _, err := Get(t.Context(), hc, secret); !errors.Is(err, ErrUnreachable) || strings.Contains(err.Error(), "secret") {
			t.Errorf("closed: %v", err)
		}
	}
}
