package authority

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Limits of passwords. There are no rules of composition: length is what counts
// (NIST SP 800-63B, 3.1.1.2).
const (
	MinPassword = 12  // characters
	MaxPassword = 256 // bytes
)

// Cost of argon2id, OWASP's least: about 20 ms and 19 MiB.
const (
	argonTime   = 2
	argonMemory = 19 << 10 // KiB
	argonLanes  = 1
	argonKey    = 32
	argonSalt   = 16
	// hashersAtOnce bounds what strangers can make us spend.
	hashersAtOnce = 4
)

var argonHead = fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$", argon2.Version, argonMemory, argonTime, argonLanes)

// HashPassword makes what is stored of a password: argon2id in PHC form.
func HashPassword(password string) (string, error) {
	if n := utf8.RuneCountInString(password); n < MinPassword || len(password) > MaxPassword || !utf8.ValidString(password) {
		return "", trust.Errorf(trust.Invalid, "a password has at least %d characters and at most %d bytes", MinPassword, MaxPassword)
	}
	salt := make([]byte, argonSalt)
	if _, err := rand.Read(salt); err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	enc := base64.RawStdEncoding.EncodeToString
	return argonHead + enc(salt) + "$" + enc(argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonLanes, argonKey)), nil
}

// VerifyPassword compares a password with a hash. A hash of another cost or kind
// fits nothing.
func VerifyPassword(hash, password string) bool {
	rest, ours := strings.CutPrefix(hash, argonHead)
	salt, key, _ := strings.Cut(rest, "$")
	s, err1 := base64.RawStdEncoding.DecodeString(salt)
	k, err2 := base64.RawStdEncoding.DecodeString(key)
	if !ours || err1 != nil || err2 != nil || len(s) != argonSalt || len(k) != argonKey || len(password) > MaxPassword {
		return false
	}
	return subtle.ConstantTimeCompare(k, argon2.IDKey([]byte(password), s, argonTime, argonMemory, argonLanes, argonKey)) == 1
}

// nobody is the hash that names without a user are checked against, so that an
// answer takes as long for them.
var nobody = argonHead + strings.Repeat("A", 22) + "$" + strings.Repeat("A", 43)

// builtIn checks name and password of a built-in user. Which of the two is
// wrong, or that the user is disabled, nobody is told.
func (a *Authority) builtIn(ctx context.Context, name, password string) (*store.Person, error) {
	select {
	case a.hashing <- struct{}{}:
		defer func() { <-a.hashing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var user store.Item[store.User]
	hash := nobody
	if userName.MatchString(name) {
		var err error
		user, err = store.Get[store.User](ctx, a.conf.Store, store.User{Name: name}.Key())
		if err != nil && trust.KindOf(err) != trust.NotFound {
			return nil, err
		}
		have, err := store.Get[store.Password](ctx, a.conf.Store, store.Password{Name: name}.Key())
		if err != nil && trust.KindOf(err) != trust.NotFound {
			return nil, err
		}
		if have.Revision != 0 {
			hash = have.Value.Hash
		}
	}
	if !VerifyPassword(hash, password) || user.Revision == 0 || user.Value.Disabled {
		return nil, errWrongPassword
	}
	u := user.Value
	return &store.Person{ObjectID: u.ObjectID, Issuer: a.issuer, User: u.Name, Name: u.Name, Display: u.DisplayName, Groups: u.Groups}, nil
}

var errWrongPassword = trust.Errorf(trust.Unauthenticated, "The user name or the password is wrong, or the user is disabled.")
