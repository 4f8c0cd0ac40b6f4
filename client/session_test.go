package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/trust"
)

// strictAuthority takes each refresh token once: a second use ends the session,
// as ours does.
type strictAuthority struct {
	mu       sync.Mutex // guards what follows
	good     string
	uses     int
	ended    bool
	reused   string
	revoked  int
	hesitate time.Duration // between taking a token and answering
}

func (s *strictAuthority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if strings.HasSuffix(r.URL.Path, "/revoke") {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.revoked, s.ended = s.revoked+1, true
		return
	}
	given := r.PostFormValue("refresh_token")
	s.mu.Lock()
	if given != s.good && !s.ended {
		s.ended, s.reused = true, given
	}
	if s.ended {
		s.mu.Unlock()
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":"invalid_grant","error_description":"AADSTS70043: the session has ended"}`)
		return
	}
	s.uses++
	s.good = fmt.Sprintf("refresh-%d", s.uses)
	next, n := s.good, s.uses
	s.mu.Unlock()
	time.Sleep(s.hesitate) // the caller's time, so that others come meanwhile
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": fmt.Sprintf("token-%d", n), "expires_in": 3600, "refresh_token": next})
}

// sessionEnv names, for a process of its own, whose token it is to get.
const sessionEnv = "SALLYPORT_TEST_SESSION"

// shared is what such a process is told.
type shared struct{ URL, CA, File, Tokens, Scope string }

func (s shared) credential() *AuthorityCredential {
	return &AuthorityCredential{Authority: s.URL, Trust: ServerTrust{CA: s.CA}, Tenant: "t", ClientID: LoginClientID, Secret: Secret{SessionFile: s.File}, Cache: &TokenCache{Dir: s.Tokens}}
}

// TestSessionProcess is no test of its own: it is what a process of
// TestProcessesShareASession runs.
func TestSessionProcess(t *testing.T) {
	told := os.Getenv(sessionEnv)
	if told == "" {
		t.Skip("run by TestProcessesShareASession")
	}
	var s shared
	if err := json.Unmarshal([]byte(told), &s); err != nil {
		t.Fatal(err)
	}
	token, err := s.credential().Token(t.Context(), s.Scope, false)
	if err != nil || !strings.HasPrefix(token, "token-") {
		t.Fatalf("%q, %v", token, err)
	}
}

func keepSession(t *testing.T, dir string, s Session) string {
	t.Helper()
	file, err := Load(filepath.Join(dir, "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	path, err := file.KeepSession("c", &s)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Processes that renew one session at the same time take turns: no refresh token
// is used twice, and nobody is signed out. One that was killed in its turn holds
// up nobody.
func TestProcessesShareASession(t *testing.T) {
	t.Parallel()
	a := &strictAuthority{good: "refresh-0", hesitate: 20 * time.Millisecond}
	server := newTestServer(t, a, nil)
	dir := t.TempDir()
	path := keepSession(t, dir, Session{RefreshToken: "refresh-0"})
	// What a killed process leaves: the file of the lock, which nobody holds.
	if err := os.WriteFile(lockOf(path), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const scopes, each = 4, 3
	var wg sync.WaitGroup
	for i := range scopes * each {
		told, err := json.Marshal(shared{server.URL, server.trust.CA, path, filepath.Join(dir, "tokens"), fmt.Sprintf("scope-%d", i%scopes)})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestSessionProcess$")
			cmd.Env = append(os.Environ(), sessionEnv+"="+string(told))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	wg.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	kept, err := readSession(path)
	if a.ended || err != nil || kept.RefreshToken != a.good {
		t.Errorf("ended %v (by %q), kept %+v, %v", a.ended, a.reused, kept, err)
	}
	if a.uses != scopes {
		t.Errorf("%d uses of a refresh token for %d scopes: what one got, others of its scope need not ask for", a.uses, scopes)
	}
}

// So do the goroutines of one process, each with a credential of its own.
func TestCredentialsShareASession(t *testing.T) {
	t.Parallel()
	a := &strictAuthority{good: "refresh-0"}
	server := newTestServer(t, a, nil)
	dir := t.TempDir()
	s := shared{URL: server.URL, CA: server.trust.CA, File: keepSession(t, dir, Session{RefreshToken: "refresh-0"}), Tokens: filepath.Join(dir, "tokens")}
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			if _, err := s.credential().Token(t.Context(), "scope", true); err != nil { // fresh: each asks
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if a.uses != 30 || a.ended {
		t.Errorf("%d uses, ended %v", a.uses, a.ended)
	}
}

// Signing out waits for whoever renews the session, and ends what that got;
// no refresh token stays.
func TestSigningOutMeetsARenewal(t *testing.T) {
	t.Parallel()
	a := &strictAuthority{good: "refresh-0", hesitate: 50 * time.Millisecond}
	server := newTestServer(t, a, nil)
	dir := t.TempDir()
	path := keepSession(t, dir, Session{RefreshToken: "refresh-0"})
	s := shared{URL: server.URL, CA: server.trust.CA, File: path, Tokens: filepath.Join(dir, "tokens")}
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := s.credential().Token(t.Context(), "scope", false)
		if err != nil && trust.KindOf(err) != trust.Unauthenticated {
			t.Error(err)
		}
	})
	wg.Go(func() {
		if err := EndSession(t.Context(), &Context{Server: server.URL, CA: server.trust.CA, Tenant: "t", ClientID: LoginClientID, SessionFile: path}); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) || a.revoked != 1 || a.reused != "" {
		t.Errorf("what is left: %v; revoked %d times, reused %q", err, a.revoked, a.reused)
	}
}

// Whoever gives up waiting says why it did, and who holds the lock keeps it.
func TestLockFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.lock")
	unlock, err := lockFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := lockFile(ctx, path); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
	got := make(chan error, 1)
	go func() {
		unlock, err := lockFile(t.Context(), path)
		if err == nil {
			unlock()
		}
		got <- err
	}()
	unlock()
	if err := <-got; err != nil {
		t.Error(err)
	}
	if _, err := lockFile(t.Context(), filepath.Join(path, "below", "a", "file")); err == nil {
		t.Error("a lock that cannot be made was given")
	}
}
