package carrier

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/bucket"
	"github.com/sallyport/sallyport/bucket/folder"
	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/mlext/wire"
)

// side is the extension's gateway, with an ML service behind it that signs for a
// store of ours: what is read lies below "in/", what is written goes below "out/".
type side struct {
	t     *testing.T
	b     *bucket.Bucket
	store *httptest.Server

	mu     sync.Mutex // guards what follows
	away   int        // how many asks are not answered
	refuse string
	stale  int // how many answers have URLs that do not work
	ended  chan struct{}
	asked  []wire.Ask

	broken atomic.Int32 // how many requests the store fails
}

func newSide(t *testing.T) (*side, Config) {
	t.Helper()
	s := &side{t: t, ended: make(chan struct{})}
	log := slog.New(slog.DiscardHandler)
	f, err := folder.New(folder.Config{Dir: t.TempDir(), Bucket: "b", Region: "r", AccessKeyID: "k", SecretKey: "s", Now: time.Now, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	s.store = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" && s.broken.Add(-1) >= 0 {
			http.Error(w, "no", http.StatusBadGateway)
			return
		}
		f.ServeHTTP(w, r)
	}))
	t.Cleanup(s.store.Close)
	if s.b, err = bucket.Open(bucket.Config{Endpoint: s.store.URL, Region: "r", Bucket: "b", PathStyle: true, AccessKeyID: "k", SecretKey: "s", CA: string(certificate(s.store))}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.b.Close)
	ca, err := pki.NewCA(pki.ServerTLS, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	name := wire.Service + "." + wire.Namespace + ".svc"
	keeper, err := pki.FromCA(ca, pki.Leaf{CommonName: name, DNS: []string{name}, Life: time.Hour}, log)
	if err != nil {
		t.Fatal(err)
	}
	gateway := httptest.NewUnstartedServer(s)
	gateway.TLS = pki.Server(keeper, []string{"http/1.1"}, nil)
	gateway.StartTLS()
	t.Cleanup(gateway.Close)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("of the pod\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return s, Config{Gateway: gateway.Listener.Addr().String(), Trust: string(ca.PEM()), TokenFile: token, Log: log, Pause: time.Millisecond, Every: time.Millisecond}
}

func certificate(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

func (s *side) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := func(status int, v any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	if r.Header.Get("Authorization") != "Bearer of the pod" {
		answer(http.StatusUnauthorized, wire.Error{Code: wire.Unauthenticated, Message: "who is it"})
		return
	}
	if r.URL.Path == wire.Prefix+"/pods/ended" {
		select {
		case <-s.ended:
			answer(http.StatusOK, wire.Ended{Ended: true})
		case <-time.After(5 * time.Millisecond):
			answer(http.StatusOK, wire.Ended{})
		case <-r.Context().Done():
		}
		return
	}
	var ask wire.Ask
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		s.t.Error(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, ask)
	switch {
	case s.away > 0:
		s.away--
		answer(http.StatusServiceUnavailable, wire.Error{Code: wire.Unavailable, Message: "no binding"})
		return
	case s.refuse != "":
		answer(http.StatusOK, wire.Answer{Error: &wire.Error{Code: "x", Message: s.refuse}})
		return
	}
	out := wire.Answer{Trust: s.b.CA}
	if len(ask.Files) == 0 {
		all, next, err := s.b.List(context.WithoutCancel(r.Context()), "in/", after(ask.After), 2)
		if err != nil {
			s.t.Error(err)
		}
		out.Next = strings.TrimPrefix(next, "in/")
		for _, o := range all {
			u, err := s.b.Get(r.Context(), o.Key, time.Minute)
			if err != nil {
				s.t.Error(err)
			}
			out.Files = append(out.Files, wire.SignedFile{File: wire.File{Path: strings.TrimPrefix(o.Key, "in/"), Size: o.Size}, URL: u})
		}
	}
	for _, f := range ask.Files {
		u, header, err := s.b.Put(r.Context(), "out/"+f.Path, bucket.Upload{Size: f.Size, SHA256: f.SHA256}, time.Minute)
		if err != nil {
			s.t.Error(err)
		}
		out.Files = append(out.Files, wire.SignedFile{File: f, URL: u, Header: header})
	}
	if s.stale > 0 {
		s.stale--
		for i := range out.Files {
			out.Files[i].URL += "0"
		}
	}
	answer(http.StatusOK, out)
}

func after(path string) string {
	if path == "" {
		return ""
	}
	return "in/" + path
}

func (s *side) put(key, content string) {
	s.t.Helper()
	u, header, err := s.b.Put(s.t.Context(), key, bucket.Upload{Size: int64(len(content))}, time.Minute)
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPut, u, strings.NewReader(content))
	if err != nil {
		s.t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := s.store.Client().Do(req)
	if err != nil || res.StatusCode != http.StatusOK {
		s.t.Fatal(res, err)
	}
	res.Body.Close()
}

// stored is what was written, by path, with its size.
func (s *side) stored() map[string]int64 {
	s.t.Helper()
	all, _, err := s.b.List(context.WithoutCancel(s.t.Context()), "out/", "", 1000)
	if err != nil {
		s.t.Fatal(err)
	}
	m := map[string]int64{}
	for _, o := range all {
		m[strings.TrimPrefix(o.Key, "out/")] = o.Size
	}
	return m
}

func carrier(t *testing.T, c Config, mounts ...wire.Mount) *Carrier {
	t.Helper()
	c.Mounts = mounts
	w, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestFetch(t *testing.T) {
	s, c := newSide(t)
	want := map[string]string{"a.txt": "1", "dir/b.txt": "22", "dir/deep/c.txt": "", "z.bin": strings.Repeat("z", 100_000)}
	for path, content := range want {
		s.put("in/"+path, content)
	}
	s.away, s.stale = 2, 2 // and it goes on
	s.broken.Store(3)
	dir := t.TempDir()
	if err := carrier(t, c, wire.Mount{Name: "inputs.a", Way: wire.Read, Path: dir}).Fetch(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			raw, err := os.ReadFile(path)
			got[strings.TrimPrefix(path, dir+"/")] = string(raw)
			return err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// The folder outlives its container: what is there already is enough.
	if err := carrier(t, c, wire.Mount{Name: "inputs.a", Way: wire.Read, Path: dir}).Fetch(t.Context()); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestWhatCannotBeFetchedSaysWhy(t *testing.T) {
	s, c := newSide(t)
	read := func() error {
		return carrier(t, c, wire.Mount{Name: "inputs.a", Way: wire.Read, Path: t.TempDir()}).Fetch(t.Context())
	}
	if err := read(); err == nil || !strings.Contains(err.Error(), "inputs.a: there is nothing to read") {
		t.Errorf("nothing: %v", err)
	}
	s.put("in/a", "1")
	s.broken.Store(100)
	if err := read(); err == nil || !strings.Contains(err.Error(), "502") || strings.Contains(err.Error(), "X-Amz") {
		t.Errorf("a broken store: %v", err)
	}
	s.broken.Store(0)
	s.stale = 1000
	if err := read(); err == nil || !strings.Contains(err.Error(), "the signed URL is not taken any more: ") {
		t.Errorf("a store that refuses every URL: %v", err)
	}
	s.stale = 0
	s.refuse = "the job has ended"
	if err := read(); err == nil || !strings.Contains(err.Error(), "the job has ended") {
		t.Errorf("refused: %v", err)
	}
	s.refuse = ""
	another, err := pki.NewCA(pki.ServerTLS, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	c.Trust = string(another.PEM())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	before := len(s.asked)
	if err := carrier(t, c, wire.Mount{Name: "inputs.a", Way: wire.Read, Path: t.TempDir()}).Fetch(ctx); err == nil || len(s.asked) != before {
		t.Errorf("a gateway that cannot be believed was asked: %v", err)
	}
}

func TestPush(t *testing.T) {
	s, c := newSide(t)
	dir := t.TempDir()
	write := func(path, content string) {
		t.Helper()
		file := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("early.txt", "kept while it runs")
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	s.away, s.stale = 1, 1
	s.broken.Store(1)
	w := carrier(t, c, wire.Mount{Name: "outputs.o", Way: wire.Write, Path: dir, Live: true})
	done := make(chan error, 1)
	go func() { done <- w.Push(t.Context(), t.Context()) }()
	for deadline := time.Now().Add(20 * time.Second); s.stored()["early.txt"] == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is kept while the program runs")
		}
	}
	write("sub/late.txt", "the end")
	write("early.txt", "changed once more")
	write("empty", "")
	close(s.ended)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int64{"early.txt": 17, "sub/late.txt": 7, "empty": 0}, s.stored()); diff != "" {
		t.Error(diff)
	}
}

// A pod that is being ended keeps what is there; what cannot be kept is an error.
func TestPushAtTheLast(t *testing.T) {
	s, c := newSide(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := carrier(t, c, wire.Mount{Name: "outputs.o", Way: wire.Write, Path: dir})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Push(ctx, t.Context()); err != nil || s.stored()["a"] != 1 {
		t.Errorf("kept %v, %v", s.stored(), err)
	}
	s.refuse = "no"
	if err := w.Push(ctx, t.Context()); err == nil || !strings.Contains(err.Error(), "outputs.o") {
		t.Errorf("refused: %v", err)
	}
}

// What no store takes is named, and hinders nothing else.
func TestAFileThatIsTooLargeIsNamed(t *testing.T) {
	s, c := newSide(t)
	close(s.ended)
	dir := t.TempDir()
	for name, size := range map[string]int64{"a": 1, "weights.bin": wire.MaxFileSize + 1} { // a hole, but for its length
		file := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, size)); err != nil {
			t.Fatal(err)
		}
	}
	err := carrier(t, c, wire.Mount{Name: "outputs.o", Way: wire.Write, Path: dir}).Push(t.Context(), t.Context())
	if err == nil || !strings.Contains(err.Error(), "weights.bin") || !strings.Contains(err.Error(), "5 GiB") {
		t.Errorf("%v", err)
	}
	if kept := s.stored(); kept["a"] != 1 || len(kept) != 1 {
		t.Errorf("kept %v", kept)
	}
}
