package authority

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// How long a sign-in lasts before the person must sign in again. What a built-in
// user may is looked at whenever a token is used, so theirs last; of a provider's
// people we learn only when they come by.
const (
	builtInSession  = 30 * 24 * time.Hour
	providerSession = 12 * time.Hour
)

const refreshPrefix = "spr_" // so that scanners for leaked secrets know one

// A refresh token names its session, and carries two secrets: the family's,
// which all of a session have, and its own.
type refreshToken struct{ session, family, own string }

func (t refreshToken) String() string {
	return refreshPrefix + t.session + "." + t.family + "." + t.own
}

func parseRefresh(s string) (t refreshToken, ok bool) {
	rest, ours := strings.CutPrefix(s, refreshPrefix)
	parts := strings.Split(rest, ".")
	if !ours || len(parts) != 3 || len(s) > 200 {
		return t, false
	}
	for _, p := range parts {
		if b, err := base64.RawURLEncoding.DecodeString(p); err != nil || len(b) != 16 && len(b) != 32 {
			return t, false
		}
	}
	return refreshToken{parts[0], parts[1], parts[2]}, true
}

// random is n random bytes as text.
func random(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails: it crashes instead
	return base64.RawURLEncoding.EncodeToString(b)
}

// hashText is SHA-256 with a purpose; for secrets that we made ourselves, as
// hashSecret says.
func hashText(purpose, value string) []byte {
	sum := sha256.Sum256([]byte("sallyport " + purpose + "\x00" + value))
	return sum[:]
}

// newSession makes the session of a sign-in, and its first refresh token if the
// client asked for one.
func (a *Authority) newSession(clientID string, p store.Person, offline bool, now time.Time) (store.Session, string) {
	life := providerSession
	if p.User != "" {
		life = builtInSession
	}
	if !offline {
		life = TokenLife
	}
	s := store.Session{ID: random(16), ClientID: clientID, Person: p, Created: now, Expires: now.Add(life)}
	if !offline {
		return s, ""
	}
	t := refreshToken{s.ID, random(16), random(32)}
	s.Family, s.Token = hashText("refresh family", t.family), hashText("refresh token", t.own)
	return s, t.String()
}

// refresh takes a refresh token, which is not good again, and gives the session
// with its next one. A token that was used before is in two hands: the session
// ends, and with it every token that came of it.
func (a *Authority) refresh(ctx context.Context, presented, clientID string) (signedIn, error) {
	t, ok := parseRefresh(presented)
	if !ok {
		return signedIn{}, errNoGrant
	}
	item, err := store.Get[store.Session](ctx, a.conf.Store, store.Session{ID: t.session}.Key())
	if trust.KindOf(err) == trust.NotFound {
		return signedIn{}, errNoGrant
	}
	if err != nil {
		return signedIn{}, err
	}
	s := item.Value
	switch {
	case subtle.ConstantTimeCompare(s.Family, hashText("refresh family", t.family)) != 1:
		return signedIn{}, errNoGrant
	case subtle.ConstantTimeCompare(s.Token, hashText("refresh token", t.own)) != 1:
		return signedIn{}, a.endSession(ctx, s, "a refresh token was used a second time")
	case trust.Fold(s.ClientID) != trust.Fold(clientID):
		return signedIn{}, a.endSession(ctx, s, "a refresh token was used by another client")
	case !a.conf.Now().Before(s.Expires):
		return signedIn{}, errGrantExpired
	}
	if s.Person, err = a.still(ctx, s); err != nil {
		return signedIn{}, err
	}
	t.own = random(32)
	s.Token = hashText("refresh token", t.own)
	revision, err := a.conf.Store.Commit(ctx, store.Update(s, item.Revision))
	if errors.Is(err, store.ErrConflict) { // two at once with one token
		return signedIn{}, a.endSession(ctx, s, "a refresh token was used twice at once")
	}
	return signedIn{session: s, created: item.Created, revision: revision, refresh: t.String()}, err
}

// revoke ends the session of a refresh token (RFC 7009). Whoever holds one may.
func (a *Authority) revoke(w http.ResponseWriter, r *http.Request) {
	client := a.conf.ClientAddress(r)
	oerr := a.limited(client)
	var get func(string) string
	if oerr == nil {
		get, oerr = a.readForm(w, r)
	}
	if oerr != nil {
		a.fail(w, r, oerr)
		return
	}
	t, ok := parseRefresh(get("token"))
	if ok {
		item, err := store.Get[store.Session](r.Context(), a.conf.Store, store.Session{ID: t.session}.Key())
		switch {
		case err == nil && subtle.ConstantTimeCompare(item.Value.Family, hashText("refresh family", t.family)) == 1:
			err = a.endSession(r.Context(), item.Value, "it was signed out")
		case err == nil || trust.KindOf(err) == trust.NotFound:
			err = errNoGrant
		}
		if !errors.Is(err, errNoGrant) {
			a.fail(w, r, unavailable(err))
			return
		}
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK) // for an unknown token too (RFC 7009, 2.2)
}

// still is the person of a session as they are now, an error if they may not be
// signed in any more.
func (a *Authority) still(ctx context.Context, s store.Session) (store.Person, error) {
	p := s.Person
	name := p.User
	if name == "" {
		name = p.ObjectID // under which a provider's people are shut out
	}
	user, err := store.Get[store.User](ctx, a.conf.Store, store.User{Name: name}.Key())
	switch {
	case trust.KindOf(err) == trust.NotFound && p.User == "":
		return p, nil
	case trust.KindOf(err) == trust.NotFound:
		return p, a.endSession(ctx, s, "the user was deleted")
	case err != nil:
		return p, err
	case user.Value.Disabled || user.Value.ObjectID != p.ObjectID || s.Created.Before(user.Value.SessionsFrom):
		return p, a.endSession(ctx, s, "the user was disabled, made anew or signed out everywhere")
	}
	if p.User != "" {
		p.Display, p.Groups = user.Value.DisplayName, user.Value.Groups
	}
	return p, nil
}

// endSession ends a session and says that there is none.
func (a *Authority) endSession(ctx context.Context, s store.Session, why string) error {
	if _, err := a.conf.Store.Commit(ctx, store.Delete(s.Key(), 0)); err != nil {
		return err
	}
	a.conf.Log.Warn("session ended", "session", s.ID, "object", s.Person.ObjectID, "client", s.ClientID, "reason", why)
	return errNoGrant
}

var (
	errNoGrant      = trust.Errorf(trust.Unauthenticated, "the grant is unknown, was used before or was revoked")
	errGrantExpired = trust.Errorf(trust.Unauthenticated, "the grant has expired")
)

// forgetPeople removes what has ended by itself: sessions, codes, device
// sign-ins.
func (a *Authority) forgetPeople(ctx context.Context) error {
	now := a.conf.Now()
	sessions, _, err := store.List[store.Session](ctx, a.conf.Store, store.SessionPrefix)
	if err != nil {
		return fmt.Errorf("list sessions: %w", err)
	}
	codes, _, err := store.List[store.Code](ctx, a.conf.Store, store.CodePrefix)
	if err != nil {
		return fmt.Errorf("list codes: %w", err)
	}
	devices, _, err := store.List[store.Device](ctx, a.conf.Store, store.DevicePrefix)
	if err != nil {
		return fmt.Errorf("list device sign-ins: %w", err)
	}
	var ended []store.Op
	for _, s := range sessions {
		if !now.Before(s.Value.Expires) {
			ended = append(ended, store.Delete(s.Value.Key(), s.Revision))
		}
	}
	for _, c := range codes {
		// Kept a while, so that its second use is noticed.
		if now.After(c.Value.Expires.Add(codeLife)) {
			ended = append(ended, store.Delete(c.Value.Key(), c.Revision))
		}
	}
	for _, d := range devices {
		if now.After(d.Value.Expires.Add(codeLife)) {
			ended = append(ended, store.Delete(d.Value.Key(), d.Revision))
		}
	}
	for _, op := range ended {
		if _, err := a.conf.Store.Commit(ctx, op); err != nil && !errors.Is(err, store.ErrConflict) {
			return fmt.Errorf("forget what has ended: %w", err)
		}
	}
	return nil
}

// sessionName is the credential of a session's tokens. It stays the same when
// the refresh token changes.
func sessionName(s *store.Session, created int64) string {
	return credentialName(s.Key(), created, []byte(s.ClientID+" "+s.Person.ObjectID))
}
