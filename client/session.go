package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/sallyport/sallyport/trust"
)

// Session is a person's sign-in, as it is kept in a file, mode 0600. Its refresh
// token changes with each use, so that whoever uses one must write the next.
type Session struct {
	RefreshToken string `json:"refreshToken"`
	UserName     string `json:"userName"`
	ObjectID     string `json:"objectId"`
}

// KeepSession writes a person's sign-in into a file of its own beside the
// configuration and returns its path. Each has another path, so that what was
// cached for one is never taken for another.
func (f *File) KeepSession(context string, s *Session) (string, error) {
	data, err := json.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("keep session: %w", err)
	}
	dir := filepath.Dir(f.secretPath(context))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("keep session: %w", err)
	}
	file, err := os.CreateTemp(dir, filepath.Base(f.secretPath(context))+".session-*") // made 0600
	if err != nil {
		return "", fmt.Errorf("keep session: %w", err)
	}
	path := file.Name()
	if err := file.Close(); err != nil {
		return "", fmt.Errorf("keep session: %w", err)
	}
	return path, writeFile(path, data)
}

func readSession(path string) (*Session, error) {
	data, err := os.ReadFile(path)
	var s Session
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err == nil && s.RefreshToken == "" {
		err = errors.New("it holds no refresh token")
	}
	if err != nil {
		return nil, signInAgain(trust.Errorf(trust.Unauthenticated, "the sign-in kept in %s is gone", path).Because(err))
	}
	return &s, nil
}

func signInAgain(e *trust.Error) error {
	e.Hint = "sallyport login"
	return e
}

// refresh exchanges the kept refresh token and keeps the next one. Processes that
// share a file take turns: a refresh token that is used twice ends the sign-in.
// cached is asked once it is our turn: another may have got what we want; keep is
// given what we got before it is another's.
func (a *authority) refresh(ctx context.Context, path, clientID, scope string, now func() time.Time, cached func() (Token, bool), keep func(Token)) (Token, error) {
	unlock, err := lockFile(ctx, lockOf(path))
	if err != nil {
		return Token{}, err
	}
	defer unlock()
	if t, ok := cached(); ok {
		return t, nil
	}
	s, err := readSession(path)
	if err != nil {
		return Token{}, err
	}
	t, answer, err := a.exchange(ctx, url.Values{"grant_type": {"refresh_token"}, "client_id": {clientID}, "refresh_token": {s.RefreshToken}, "scope": {scope + " offline_access"}}, now)
	if err != nil {
		if e := asError(err); e != nil && e.Code == "invalid_grant" {
			e.Hint = "sallyport login"
		}
		return Token{}, err
	}
	if answer.RefreshToken == "" {
		return Token{}, trust.Errorf(trust.Internal, "the authority %s gave no next refresh token", a.base)
	}
	s.RefreshToken = answer.RefreshToken
	data, err := json.Marshal(s)
	if err != nil {
		return Token{}, fmt.Errorf("keep session: %w", err)
	}
	if err := writeFile(path, data); err != nil {
		return Token{}, err
	}
	keep(t)
	return t, nil
}

// lockOf is the lock of a session's file.
func lockOf(path string) string { return path + ".lock" }

// EndSession signs a person out: the authority ends the session, and its file
// goes. A session that the authority does not know any more is no error.
func EndSession(ctx context.Context, c *Context) error {
	unlock, err := lockFile(ctx, lockOf(c.SessionFile)) // whoever renews it now would keep it again
	if err != nil {
		return err
	}
	defer unlock()
	s, err := readSession(c.SessionFile)
	if err == nil {
		var a *authority
		if a, err = newAuthority(c.authority(), c.Tenant, ServerTrust{CA: c.CA}); err == nil {
			err = a.post(ctx, "revoke", url.Values{"token": {s.RefreshToken}, "token_type_hint": {"refresh_token"}, "client_id": {c.ClientID}}, nil)
		}
	} else if trust.KindOf(err) == trust.Unauthenticated {
		err = nil // nothing is kept: nothing to end
	}
	if gone := os.Remove(c.SessionFile); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	_ = os.Remove(lockOf(c.SessionFile)) // whoever waits for it finds no session
	return err
}

// lockFile waits for its turn among the processes that share a file. The system
// lets go of a lock whose owner died. The file that carries it stays: another
// one under its name would be another lock.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	l := flock.New(path, flock.SetPermissions(0o600))
	if _, err := l.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("lock %s: %w", strings.TrimSuffix(path, ".lock"), err)
	}
	return func() { _ = l.Close() }, nil
}
