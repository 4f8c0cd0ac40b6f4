package folder

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := New(Config{Dir: dir, Bucket: "b", Region: "local", AccessKeyID: "id", SecretKey: "secret", Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Whatever is claimed, only the key's own signature is let through.
func FuzzAuthenticate(f *testing.F) {
	s := open(f, f.TempDir())
	now := time.Now().UTC().Format(dateFormat)
	scope := "id/" + now[:8] + "/local/s3/aws4_request"
	f.Add("AWS4-HMAC-SHA256 Credential="+scope+", SignedHeaders=host;x-amz-date, Signature="+strings.Repeat("0", 64), now, "")
	f.Add("", "", "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential="+url.QueryEscape(scope)+"&X-Amz-Date="+now+"&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature="+strings.Repeat("0", 64))
	f.Fuzz(func(t *testing.T, authorization, date, query string) {
		r := httptest.NewRequest(http.MethodGet, "https://host/b/key", nil)
		r.URL.RawQuery = query
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		r.Header.Set("X-Amz-Date", date)
		r.Header.Set("X-Amz-Content-Sha256", unsigned)
		if _, e := s.authenticate(r); e == nil {
			t.Errorf("let through: %q %q %q", authorization, date, query)
		}
	})
}

// A full disk is said, and nothing half-written is left.
func TestAFullDisk(t *testing.T) {
	s := open(t, tiny(t))
	write := func(key string, size int) *failure {
		return s.write(nil, key, strings.NewReader(strings.Repeat("x", size)), int64(size), false, nothing)
	}
	if e := write("small", 1000); e != nil {
		t.Fatal(e)
	}
	if e := write("large", 4<<20); e == nil || e.Status != http.StatusInsufficientStorage || e.Code != "StorageFull" {
		t.Errorf("a full disk: %+v", e)
	}
	all, err := s.below("")
	if err != nil || len(all) != 1 || all[0].Key != "small" {
		t.Errorf("there is %v, %v", all, err)
	}
	if left, err := os.ReadDir(s.Dir + "/" + unsettled); err != nil || len(left) != 0 {
		t.Errorf("left behind %v, %v", left, err)
	}
	if e := write("again", 1000); e != nil {
		t.Errorf("afterwards: %+v", e)
	}
}
