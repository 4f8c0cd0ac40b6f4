package bucket_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/bucket"
	"github.com/sallyport/sallyport/bucket/folder"
	"github.com/sallyport/sallyport/bucket/signed"
	"github.com/sallyport/sallyport/trust"
)

// clock can be moved.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// form is a store as its users see it.
type form struct {
	*bucket.Bucket
	http  *http.Client
	clock *clock // nil: the store's clock is its own
	dir   string // of our own store
}

const secret = "a secret of the test's own"

func ours(t *testing.T) *form {
	t.Helper()
	c := &clock{at: time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)}
	return oursIn(t, t.TempDir(), c)
}

func oursIn(t *testing.T, dir string, c *clock) *form {
	t.Helper()
	store, err := folder.New(folder.Config{Dir: dir, Bucket: "workspaces", Region: "local", AccessKeyID: "sallyport", SecretKey: secret, Now: c.now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(store)
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	b, err := bucket.Open(bucket.Config{Endpoint: server.URL, Region: "local", Bucket: "workspaces", PathStyle: true, AccessKeyID: "sallyport", SecretKey: secret, CA: string(ca), Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return &form{b, server.Client(), c, dir}
}

// another is the store that the environment names, "https://KEY:SECRET@host/bucket",
// with its CA in a file if need be: whatever speaks S3.
func another(t *testing.T) *form {
	t.Helper()
	u, err := url.Parse(os.Getenv("SALLYPORT_TEST_S3"))
	if err != nil || u.Host == "" {
		t.Skip("SALLYPORT_TEST_S3 names no store: https://KEY:SECRET@host:port/bucket")
	}
	key, _ := u.User.Password()
	c := bucket.Config{Endpoint: "https://" + u.Host, Bucket: strings.Trim(u.Path, "/"), Prefix: fmt.Sprintf("test-%d", time.Now().UnixNano()),
		PathStyle: true, AccessKeyID: u.User.Username(), SecretKey: key, Now: time.Now}
	hc := &http.Client{}
	if file := os.Getenv("SALLYPORT_TEST_S3_CA"); file != "" {
		ca, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		c.CA = string(ca)
		hc = signed.Client(c.CA)
	}
	b, err := bucket.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return &form{b, hc, nil, ""}
}

// do sends a signed request as a pod does: no header but those signed.
func (f *form) do(t *testing.T, method, url string, header map[string]string, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := f.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(got)
}

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

func (f *form) write(t *testing.T, key, body string) {
	t.Helper()
	u, header, err := f.Put(t.Context(), key, bucket.Upload{Size: int64(len(body)), SHA256: sum(body)}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if status, said := f.do(t, http.MethodPut, u, header, body); status != http.StatusOK {
		t.Fatalf("write %s: %d %s", key, status, said)
	}
}

func (f *form) read(t *testing.T, key string) (int, string) {
	t.Helper()
	u, err := f.Get(t.Context(), key, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return f.do(t, http.MethodGet, u, nil, "")
}

func (f *form) keys(t *testing.T, prefix string) []string {
	t.Helper()
	all, next, err := f.List(t.Context(), prefix, "", 1000)
	if err != nil || next != "" {
		t.Fatalf("list %s: %q %v", prefix, next, err)
	}
	var keys []string
	for _, o := range all {
		keys = append(keys, fmt.Sprintf("%s %d", o.Key, o.Size))
	}
	return keys
}

func TestBucket(t *testing.T) {
	for name, open := range map[string]func(*testing.T) *form{"ours": ours, "another": another} {
		t.Run(name, func(t *testing.T) { contract(t, open(t)) })
	}
}

// contract is what every store must do.
func contract(t *testing.T, f *form) {
	ctx := t.Context()
	if err := f.Check(ctx); err != nil {
		t.Fatal(err)
	}
	odd := "a/wörk+load (1)&=%25 ~x.txt"
	f.write(t, odd, "odd name")
	f.write(t, "a/b", "a file")
	f.write(t, "a/c/d", "in a folder")
	f.write(t, "a.txt", "")
	f.write(t, "a/b", "another content")
	for key, want := range map[string]string{odd: "odd name", "a/b": "another content", "a/c/d": "in a folder", "a.txt": ""} {
		if status, got := f.read(t, key); status != http.StatusOK || got != want {
			t.Errorf("%s: %d %q", key, status, got)
		}
	}
	if status, _ := f.read(t, "a/none"); status != http.StatusNotFound {
		t.Errorf("what is not there: %d", status)
	}
	if diff := cmp.Diff([]string{"a/b 15", "a/c/d 11", fmt.Sprintf("%s 8", odd)}, f.keys(t, "a/")); diff != "" {
		t.Error(diff)
	}
	page, next, err := f.List(ctx, "a", "", 2)
	if err != nil || len(page) != 2 || page[0].Key != "a.txt" || next != page[1].Key {
		t.Fatalf("page %+v, next %q, %v", page, next, err)
	}
	if rest, next, err := f.List(ctx, "a", next, 2); err != nil || len(rest) != 2 || next != "" {
		t.Errorf("rest %+v, next %q, %v", rest, next, err)
	}
	if none, _, err := f.List(ctx, "nothing/", "", 10); err != nil || len(none) != 0 {
		t.Errorf("below nothing: %v, %v", none, err)
	}

	if err := f.Copy(ctx, odd, "copy/"+odd); err != nil {
		t.Fatal(err)
	}
	if _, got := f.read(t, "copy/"+odd); got != "odd name" {
		t.Errorf("copy %q", got)
	}
	if err := f.Copy(ctx, "a/none", "copy/none"); trust.KindOf(err) != trust.NotFound {
		t.Errorf("copy of nothing: %v", err)
	}
	refusals(t, f)

	for _, prefix := range []string{"a/", "a/", "copy/", "a.txt", "once"} {
		if err := f.Delete(ctx, prefix); err != nil {
			t.Fatal(err)
		}
	}
	if left := f.keys(t, "a"); left != nil {
		t.Errorf("left %v", left)
	}
	if err := f.Delete(ctx, ""); err == nil {
		t.Error("everything was deleted")
	}
}

// refusals: a signed URL is good for what was signed and nothing else.
func refusals(t *testing.T, f *form) {
	ctx := t.Context()
	get, err := f.Get(ctx, "a/b", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	put, header, err := f.Put(ctx, "a/b", bucket.Upload{Size: 5, SHA256: sum("hello")}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	empty, emptyHeader, err := f.Put(ctx, "a/empty", bucket.Upload{}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	unsigned, _, _ := strings.Cut(get, "?")
	for what, c := range map[string]struct {
		method, url string
		header      map[string]string
		body        string
	}{
		"without a signature":     {"GET", unsigned, nil, ""},
		"another object":          {"GET", strings.Replace(get, "/a/b?", "/a/c/d?", 1), nil, ""},
		"another method":          {"DELETE", get, nil, ""},
		"writing by a read's URL": {"PUT", get, nil, "hello"},
		"a longer life":           {"GET", strings.Replace(get, "X-Amz-Expires=60", "X-Amz-Expires=600", 1), nil, ""},
		"the whole list":          {"GET", strings.Replace(get, "/a/b?", "/?list-type=2&", 1), nil, ""},
		"another size":            {"PUT", put, header, "hello, world"},
		"another content":         {"PUT", put, header, "HELLO"},
		"more than nothing":       {"PUT", empty, emptyHeader, "hello"},
		"without what was signed": {"PUT", put, nil, "hello"},
	} {
		if status, said := f.do(t, c.method, c.url, c.header, c.body); status < 400 || status >= 500 {
			t.Errorf("%s: %d %s", what, status, said)
		}
	}
	if _, got := f.read(t, "a/b"); got != "another content" {
		t.Errorf("it was changed to %q", got)
	}
	for range 2 {
		once, header, err := f.Put(ctx, "once", bucket.Upload{Size: 1, Once: true}, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		status, _ := f.do(t, "PUT", once, header, "x")
		if there := f.keys(t, "once"); len(there) != 1 || status != http.StatusOK && status != http.StatusPreconditionFailed {
			t.Errorf("once: %d %v", status, there)
		}
	}
	if f.clock != nil {
		f.clock.add(61 * time.Second)
		if status, said := f.do(t, "GET", get, nil, ""); status != http.StatusForbidden || !strings.Contains(said, "expired") {
			t.Errorf("expired: %d %s", status, said)
		}
	}
}

func TestManyAtOnceAreEachWhole(t *testing.T) {
	f := ours(t)
	var wg sync.WaitGroup
	for i := range 8 {
		body := strings.Repeat(fmt.Sprint(i), 100_000)
		wg.Go(func() {
			for range 5 {
				f.write(t, "same/key", body)
				if err := f.Delete(context.WithoutCancel(t.Context()), "other/"); err != nil {
					t.Error(err)
				}
				f.write(t, fmt.Sprintf("other/%d", i), body)
			}
		})
		wg.Go(func() {
			for range 10 {
				if status, got := f.read(t, "same/key"); status == http.StatusOK && (len(got) != 100_000 || strings.Trim(got, got[:1]) != "") {
					t.Error("an object of two writers")
				}
			}
		})
	}
	wg.Wait()
}

func TestWhatIsCutOffIsNotThere(t *testing.T) {
	f := ours(t)
	u, header, err := f.Put(t.Context(), "cut", bucket.Upload{Size: 1 << 20}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	body, feed := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, u, body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 1 << 20
	for k, v := range header {
		req.Header.Set(k, v)
	}
	go func() {
		_, _ = feed.Write(bytes.Repeat([]byte("x"), 1000))
		cancel()
		_ = feed.CloseWithError(context.Canceled) // the client waits for whoever reads
	}()
	if res, err := f.http.Do(req); err == nil {
		res.Body.Close()
		t.Fatal("it was answered")
	}
	if there := f.keys(t, "cut"); there != nil {
		t.Errorf("there is %v", there)
	}
	if again := oursIn(t, f.dir, f.clock); again.keys(t, "") != nil {
		t.Error("a restart brought it back")
	}
	left, err := os.ReadDir(f.dir + "/unsettled")
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestARestartKeepsWhatIsThere(t *testing.T) {
	f := ours(t)
	f.write(t, "a/b", "kept")
	f.write(t, "a/b/c", "below a file's name")
	f.write(t, "a/b-", "between them")
	if diff := cmp.Diff([]string{"a/b 4", "a/b- 12", "a/b/c 19"}, f.keys(t, "a/b")); diff != "" {
		t.Error(diff)
	}
	again := oursIn(t, f.dir, f.clock)
	if _, got := again.read(t, "a/b"); got != "kept" {
		t.Errorf("read %q", got)
	}
}

func TestKeysThatStoresDifferIn(t *testing.T) {
	f := ours(t)
	for _, key := range []string{"", "/a", "a/", "a//b", "../a", "a/../b", "a/.", "a\x00b", "a\nb", `a\b`, strings.Repeat("x", 251), strings.Repeat("x/", 500) + "x", "a\xffb"} {
		if _, err := f.Get(t.Context(), key, time.Minute); trust.KindOf(err) != trust.Invalid {
			t.Errorf("%q: %v", key, err)
		}
	}
	for what, u := range map[string]bucket.Upload{"size": {Size: 6 << 30}, "hash": {SHA256: "x"}} {
		if _, _, err := f.Put(t.Context(), "a", u, time.Minute); err == nil {
			t.Errorf("%s was taken", what)
		}
	}
	for what, change := range map[string]func(*bucket.Config){
		"http":      func(c *bucket.Config) { c.Endpoint = "http://host" },
		"no key":    func(c *bucket.Config) { c.SecretKey = "" },
		"no bucket": func(c *bucket.Config) { c.Bucket = "a/b" },
		"bad CA":    func(c *bucket.Config) { c.CA = "x" },
	} {
		c := f.Config
		change(&c)
		if _, err := bucket.Open(c); trust.KindOf(err) != trust.Invalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	wrong := f.Config
	wrong.SecretKey = "another"
	b, err := bucket.Open(wrong)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Check(t.Context()); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("with another key: %v", err)
	}
	f.clock.add(time.Hour)
	late := f.Config
	late.Now = func() time.Time { return f.clock.now().Add(-time.Hour) }
	if b, err = bucket.Open(late); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if u, err := b.Get(t.Context(), "a", time.Minute); err != nil {
		t.Error(err)
	} else if status, _ := f.do(t, "GET", u, nil, ""); status != http.StatusForbidden {
		t.Errorf("a URL of an hour ago: %d", status)
	}
}
