package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/bucket"
	"github.com/sallyport/sallyport/bucket/folder"
	"github.com/sallyport/sallyport/bucket/signed"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

// shelf is the store that sallyportd has, with a clock that goes on with each
// file given, and connections that are cut.
type shelf struct {
	t      *testing.T
	server *httptest.Server
	bucket *bucket.Bucket
	ca     string
	now    time.Time
	each   time.Duration // that a file takes
	cuts   int           // of connections, still to come
	after  int           // bytes, which a cut connection gives
	asks   []string      // Range of each request to the store
	lists  []string      // the file after which each list was asked for
	paused int
	files  map[string][]byte
	denied bool // for good
}

func newShelf(t *testing.T, files map[string][]byte) *shelf {
	s := &shelf{t: t, now: time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC), files: files}
	now := func() time.Time { return s.now }
	store, err := folder.New(folder.Config{Dir: t.TempDir(), Bucket: "b", Region: "local", AccessKeyID: "k", SecretKey: "a secret of the test's own", Now: now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			store.ServeHTTP(w, r)
			return
		}
		s.asks = append(s.asks, r.Header.Get("Range"))
		if s.denied {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		if s.cuts > 0 {
			s.cuts--
			w = &cutter{w, s.after}
		}
		store.ServeHTTP(w, r)
		s.now = s.now.Add(s.each)
	}))
	server.StartTLS()
	s.server = server
	t.Cleanup(server.Close)
	s.ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	if s.bucket, err = bucket.Open(bucket.Config{Endpoint: server.URL, Region: "local", Bucket: "b", PathStyle: true, AccessKeyID: "k", SecretKey: "a secret of the test's own", CA: s.ca, Now: now}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.bucket.Close)
	for name, content := range files {
		s.keep(name, content)
	}
	return s
}

func (s *shelf) keep(name string, content []byte) {
	s.t.Helper()
	u, header, err := s.bucket.Put(s.t.Context(), name, bucket.Upload{Size: int64(len(content))}, time.Minute)
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPut, u, bytes.NewReader(content))
	if err != nil {
		s.t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	hc := signed.Client(s.ca)
	defer hc.CloseIdleConnections()
	res, err := hc.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		s.t.Fatal(res.Status)
	}
	s.files[name] = content
}

// list is what getFiles answers: at most three files, with URLs for 15 minutes.
func (s *shelf) list(ctx context.Context, after string) (page signedFiles, err error) {
	s.lists = append(s.lists, after)
	page.Trust = s.ca
	var names []string
	for name := range s.files {
		if name > after {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if len(names) > 3 {
		names = names[:3]
		page.Next = names[2]
	}
	for _, name := range names {
		u, err := s.bucket.Get(ctx, name, 15*time.Minute)
		if err != nil {
			return page, err
		}
		page.Files = append(page.Files, wire.SignedFile{File: wire.File{Path: name, Size: int64(len(s.files[name]))}, URL: u})
	}
	return page, nil
}

// run downloads into a folder.
func (s *shelf) run(ctx context.Context, to string) error {
	root, err := os.OpenRoot(to)
	if err != nil {
		s.t.Fatal(err)
	}
	defer root.Close()
	d := download{list: s.list, root: root, pause: func(context.Context, time.Duration) error { s.paused++; return ctx.Err() }}
	_, err = d.run(ctx)
	return err
}

// cutter gives so many bytes of a body, and then hangs up.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	if len(p) < c.left {
		c.left -= len(p)
		return c.ResponseWriter.Write(p)
	}
	c.ResponseWriter.Write(p[:c.left])
	c.ResponseWriter.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// in reads a folder.
func in(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	got := map[string][]byte{}
	err := filepath.WalkDir(dir, func(at string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, at)
		if err != nil {
			return err
		}
		got[filepath.ToSlash(name)], err = os.ReadFile(at)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func noise(n int) []byte {
	p := make([]byte, n)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

// Files that take longer than their URLs are good for come all the same: the list
// is asked for again from the last one.
func TestDownloadLongerThanURLs(t *testing.T) {
	t.Parallel()
	files := map[string][]byte{"a": noise(10), "b/c": noise(3), "b/d": nil, "e": noise(70000), "f": noise(1)}
	s := newShelf(t, files)
	s.each = 16 * time.Minute
	to := t.TempDir()
	if err := s.run(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s.files, in(t, to), cmp.Transformer("text", func(b []byte) string { return string(b) })); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"", "a", "b/c", "b/d", "e"}, slices.Compact(s.lists)); diff != "" {
		t.Error(diff)
	}
}

// A file that is cut goes on where it was cut, and one that has become another
// begins again.
func TestDownloadCutOff(t *testing.T) {
	t.Parallel()
	content := noise(1 << 20)
	s := newShelf(t, map[string][]byte{"big": content})
	s.cuts, s.after = 7, 100_000 // more often than a try without a byte may be repeated
	to := t.TempDir()
	if err := s.run(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	if got := in(t, to); len(got) != 1 || !bytes.Equal(got["big"], content) {
		t.Errorf("%d files, or other bytes", len(got))
	}
	if len(s.asks) != 8 || s.asks[0] != "" || s.asks[7] != "bytes=700000-" {
		t.Errorf("asked for %q", s.asks)
	}

	s = newShelf(t, map[string][]byte{"big": content})
	s.cuts, s.after = 1, 100_000
	to = t.TempDir()
	other := noise(1<<20 - 5)
	list := s.list
	root, err := os.OpenRoot(to)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	d := download{root: root, pause: func(context.Context, time.Duration) error { s.keep("big", other); return nil }, list: list}
	if _, err := d.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := in(t, to); len(got) != 1 || !bytes.Equal(got["big"], other) {
		t.Errorf("%d files, or other bytes", len(got))
	}
}

// What cannot be had ends, with its reason, and leaves nothing half-written.
func TestDownloadGivesUp(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(s *shelf, stop context.CancelFunc)
		want   string
		pauses int
	}{
		"refused for good":    {func(s *shelf, _ context.CancelFunc) { s.denied = true }, "403 Forbidden", downloadTries - 1},
		"cut again and again": {func(s *shelf, _ context.CancelFunc) { s.cuts = 1000 }, "was cut", downloadTries - 1},
		"stopped":             {func(s *shelf, stop context.CancelFunc) { stop() }, context.Canceled.Error(), 0},
		"another length": {func(s *shelf, _ context.CancelFunc) {
			s.keep("a", noise(20))
			s.files["a"] = noise(30)
		}, "gave 20 bytes, and it should have 30", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShelf(t, map[string][]byte{"a": noise(1000)})
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			c.change(s, stop)
			to := t.TempDir()
			err := s.run(ctx, to)
			if err == nil || !strings.Contains(err.Error(), c.want) || s.paused != c.pauses {
				t.Errorf("%v after %d pauses, want %q after %d", err, s.paused, c.want, c.pauses)
			}
			if got := in(t, to); len(got) != 0 {
				t.Errorf("left behind: %d files", len(got))
			}
		})
	}
}

// A store that was never reached is said at once, without its URL.
func TestDownloadFromNowhere(t *testing.T) {
	t.Parallel()
	s := newShelf(t, map[string][]byte{"a": noise(10)})
	page, err := s.list(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	s.server.Close()
	d := download{root: root, list: func(context.Context, string) (signedFiles, error) { return page, nil }, pause: func(context.Context, time.Duration) error { return errors.New("paused") }}
	_, err = d.run(t.Context())
	if trust.KindOf(err) != trust.Unavailable || !strings.Contains(err.Error(), "not reachable from here") || strings.Contains(err.Error(), "Signature") {
		t.Errorf("%v", err)
	}
}
