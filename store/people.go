package store

import (
	"time"

	"github.com/sallyport/sallyport/trust"
)

// Prefixes of what is kept about people. Control writes the built-in users and
// which groups are registered; the authority alone writes who is signed in, and
// the codes of sign-ins under way.
const (
	UserPrefix     = "/users/"
	PasswordPrefix = "/passwords/"
	GroupPrefix    = "/groups/"
	SessionPrefix  = "/sessions/"
	CodePrefix     = "/codes/"
	DevicePrefix   = "/devices/"
)

// User is a person whom the built-in authority knows by itself. One named by an
// object id, without a password, is a person of the provider that people are
// sent to, who is shut out here.
type User struct {
	Name        string // userPrincipalName; signs in with it
	ObjectID    string
	DisplayName string
	Groups      []string // names of groups of the built-in authority
	Disabled    bool
	// SessionsFrom ends all sessions that began before.
	SessionsFrom time.Time
	Stamp        Stamp
}

// Key places a user.
func (r User) Key() string { return UserPrefix + trust.Fold(r.Name) }

// Password is a user's, apart from the user so that only who checks passwords
// reads it.
type Password struct {
	Name string
	Hash string // argon2id in PHC form
	Set  time.Time
}

// Key places a password.
func (r Password) Key() string { return PasswordPrefix + trust.Fold(r.Name) }

// RegisteredGroup is which group of people a principal id means: that of a
// resource which names the group.
type RegisteredGroup struct {
	PrincipalID string
	Group       trust.Principal // issuer, tenant and the group's name
	SourceID    string
}

// Key places a registration by its principal id.
func (r RegisteredGroup) Key() string { return GroupPrefix + trust.Fold(r.PrincipalID) }

// Session is one sign-in of a person with one client. Its removal ends every
// token that came of it.
type Session struct {
	ID       string
	ClientID string
	Person   Person
	Created  time.Time
	Expires  time.Time // no token of it lasts longer

	// Refresh tokens: one is good at a time. All of them carry the family's
	// secret, by which one that was used before is told from a guess.
	Family, Token []byte // hashes; nil: there are none
}

// Person is who signed in, as it was then.
type Person struct {
	ObjectID string
	Issuer   string // who knows the person: the built-in authority, or the provider that it sent the person to
	User     string // name of a User of the built-in authority, "" for others
	Name     string // to be shown: preferred_username
	Display  string
	Groups   []string
}

// Key places a session.
func (r Session) Key() string { return SessionPrefix + r.ID }

// Code is an authorization code (RFC 6749, 4.1.2), until it ends.
type Code struct {
	ID          string // hash of the code
	ClientID    string
	RedirectURI string
	Challenge   string // RFC 7636, S256
	Scope       string // as asked for
	Nonce       string
	Person      Person
	Expires     time.Time
	Session     string // id of the session it was exchanged for; its second use ends that
}

// Key places a code.
func (r Code) Key() string { return CodePrefix + r.ID }

// Device is a sign-in that another machine waits for (RFC 8628).
type Device struct {
	ID       string // hash of the device code
	UserCode string // hash of what the person types
	ClientID string
	Scope    string
	From     string // address that asked
	Created  time.Time
	Expires  time.Time
	Denied   bool
	Person   *Person // who approved
}

// Key places a device sign-in by the code that its person types.
func (r Device) Key() string { return DevicePrefix + r.UserCode }
