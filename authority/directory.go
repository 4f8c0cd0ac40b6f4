package authority

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// staleAfter is how old the store's last sign of life may be before the
// Directory refuses to vouch for anybody (design 5.3: with etcd's own detection
// time this keeps a revocation within 10 s).
const staleAfter = 4 * time.Second

// prefixes are what the Directory follows.
var prefixes = []string{store.SigningKeyPrefix, store.RevokedKeyPrefix, store.IdentityPrefix, store.FederatedPrefix, store.SecretPrefix, store.CertificatePrefix, store.UserPrefix, store.SessionPrefix}

// DirectoryConfig is what NewDirectory needs.
type DirectoryConfig struct {
	Store  *store.Store
	Issuer string           // see IssuerURL
	Tenant string           // GUID, lower case
	Now    func() time.Time // for dates
	Clock  func() time.Time // the store's clock, for freshness; nil: time.Now
	Log    *slog.Logger
}

// Directory is the built-in authority as verifiers see it: its public keys, and
// which identities and credentials exist, in memory. It is safe for concurrent
// use. Run keeps it true; until Run has read everything, and when the store has
// not been heard of for 4 s, it vouches for nobody.
type Directory struct {
	conf DirectoryConfig

	mu          sync.RWMutex // guards what follows
	keys        map[string]store.SigningKey
	revoked     map[string]bool           // ids of signing keys
	identities  map[string]store.Identity // by folded client id
	credentials map[string]int64          // credential names, see credentialName; the revision they were seen at
	byKey       map[string]string         // store key of a credential → its name
	sessions    map[string]store.Session  // by store key
	users       map[string]store.User     // by store key
	revision    map[string]int64          // by prefix: everything up to here is applied
	fresh       map[string]time.Time      // by prefix
	moved       chan struct{}             // closed and replaced at every sign of life
	subscribers map[int]func()
	nextID      int
}

// IssuerURL is the issuer of a tenant at an installation's base URL.
func IssuerURL(base, tenant string) string {
	return strings.TrimSuffix(base, "/") + "/" + tenant + "/v2.0"
}

// NewDirectory makes an empty Directory.
func NewDirectory(c DirectoryConfig) *Directory {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	return &Directory{
		conf: c, keys: map[string]store.SigningKey{}, revoked: map[string]bool{}, identities: map[string]store.Identity{}, credentials: map[string]int64{},
		byKey: map[string]string{}, sessions: map[string]store.Session{}, users: map[string]store.User{}, revision: map[string]int64{}, fresh: map[string]time.Time{}, moved: make(chan struct{}), subscribers: map[int]func(){},
	}
}

// Issuer is the built-in authority for an authn.Authenticator.
func (d *Directory) Issuer() authn.Issuer {
	return authn.Issuer{URL: d.conf.Issuer, Keys: d, Tenants: []string{d.conf.Tenant}, Scopes: []string{"/"},
		Claims: authn.ClaimNames{Name: "preferred_username", Groups: "groups", GroupIssuer: "idp"}, Stands: d.Stands, Subscribe: d.Subscribe}
}

// Run follows the store until ctx or the store ends, or a record cannot be read.
func (d *Directory) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, len(prefixes))
	for _, prefix := range prefixes {
		go func() {
			errs <- store.Follow(ctx, d.conf.Store, prefix,
				func(all []store.KV, revision int64) error { return d.snapshot(prefix, all, revision) },
				func(b store.Batch) error { return d.apply(prefix, b) })
			cancel()
		}()
	}
	var all []error
	for range prefixes {
		all = append(all, <-errs)
	}
	for _, err := range all {
		if err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("follow identities and keys: %w", err)
		}
	}
	return ctx.Err()
}

// snapshot replaces everything known of a prefix.
func (d *Directory) snapshot(prefix string, all []store.KV, revision int64) error {
	d.mu.Lock()
	gone := map[string]bool{}
	for _, known := range d.known(prefix) {
		gone[known] = true
	}
	var err error
	for _, kv := range all {
		delete(gone, kv.Key)
		if err = errors.Join(err, d.put(prefix, kv.Key, kv.Value, kv.Revision, kv.Created)); err != nil {
			break
		}
	}
	for key := range gone {
		d.remove(prefix, key)
	}
	d.advance(prefix, revision, time.Time{})
	d.mu.Unlock()
	d.notify()
	return err
}

// apply applies a batch of changes. Subscribers are told when it may have taken
// something away, or changed a signing key.
func (d *Directory) apply(prefix string, b store.Batch) error {
	d.mu.Lock()
	var err error
	for _, e := range b.Events {
		switch e.Type {
		case store.EventPut:
			err = errors.Join(err, d.put(prefix, e.Key, e.Value, e.Revision, e.Created))
		case store.EventDelete:
			d.remove(prefix, e.Key)
		}
	}
	d.advance(prefix, b.Revision, b.Fresh)
	d.mu.Unlock()
	if slices.ContainsFunc(b.Events, func(e store.Event) bool {
		// A session changes with each refresh, which takes nothing away.
		return prefix == store.SigningKeyPrefix || prefix == store.RevokedKeyPrefix || e.Prev != nil && prefix != store.SessionPrefix || e.Type == store.EventDelete
	}) {
		d.notify()
	}
	return err
}

// known lists the store keys known of a prefix; d.mu is held.
func (d *Directory) known(prefix string) []string {
	var keys []string
	switch prefix {
	case store.SigningKeyPrefix:
		for _, k := range d.keys {
			keys = append(keys, k.Key())
		}
	case store.RevokedKeyPrefix:
		for kid := range d.revoked {
			keys = append(keys, store.RevokedKey{KeyID: kid}.Key())
		}
	case store.IdentityPrefix:
		for _, i := range d.identities {
			keys = append(keys, i.Key())
		}
	case store.UserPrefix:
		keys = slices.AppendSeq(keys, maps.Keys(d.users))
	default:
		for key := range d.byKey {
			if strings.HasPrefix(key, prefix) {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// put applies one record; d.mu is held.
func (d *Directory) put(prefix, key string, value []byte, revision, created int64) error {
	var name string
	switch prefix {
	case store.SigningKeyPrefix:
		k, err := store.Decode[store.SigningKey](value)
		if err != nil {
			return err
		}
		d.keys[k.KeyID] = k
		return nil
	case store.RevokedKeyPrefix:
		d.revoked[strings.TrimPrefix(key, prefix)] = true
		return nil
	case store.IdentityPrefix:
		i, err := store.Decode[store.Identity](value)
		if err != nil {
			return err
		}
		d.identities[trust.Fold(i.ClientID)] = i
		return nil
	case store.FederatedPrefix:
		f, err := store.Decode[store.Federated](value)
		if err != nil {
			return err
		}
		name = federatedName(&f, created)
	case store.SecretPrefix:
		s, err := store.Decode[store.Secret](value)
		if err != nil {
			return err
		}
		name = secretName(&s, created)
	case store.UserPrefix:
		u, err := store.Decode[store.User](value)
		if err != nil {
			return err
		}
		d.users[key] = u
		return nil
	case store.SessionPrefix:
		s, err := store.Decode[store.Session](value)
		if err != nil {
			return err
		}
		name = sessionName(&s, created)
		defer func() { d.sessions[key] = s }()
	case store.CertificatePrefix:
		c, err := store.Decode[store.Certificate](value)
		if err != nil {
			return err
		}
		name = certificateName(&c, created)
	}
	d.remove(prefix, key)
	d.byKey[key], d.credentials[name] = name, revision
	return nil
}

// remove forgets one record; d.mu is held.
func (d *Directory) remove(prefix, key string) {
	switch prefix {
	case store.SigningKeyPrefix:
		delete(d.keys, strings.TrimPrefix(key, prefix))
	case store.RevokedKeyPrefix:
		delete(d.revoked, strings.TrimPrefix(key, prefix))
	case store.IdentityPrefix:
		delete(d.identities, strings.TrimPrefix(key, prefix))
	case store.UserPrefix:
		delete(d.users, key)
	default:
		delete(d.credentials, d.byKey[key])
		delete(d.byKey, key)
		delete(d.sessions, key)
	}
}

// advance notes progress; d.mu is held.
func (d *Directory) advance(prefix string, revision int64, fresh time.Time) {
	if fresh.After(d.fresh[prefix]) {
		d.fresh[prefix] = fresh
	}
	if revision > d.revision[prefix] {
		d.revision[prefix] = revision
	}
	close(d.moved)
	d.moved = make(chan struct{})
}

// current says whether everything may be believed now; d.mu is held.
func (d *Directory) current() error {
	now := d.conf.Clock()
	for _, p := range prefixes {
		if now.Sub(d.fresh[p]) > staleAfter {
			return trust.Errorf(trust.Unavailable, "identities cannot be checked: this server is out of touch with the store")
		}
	}
	return nil
}

// Ready is nil when the Directory may be believed.
func (d *Directory) Ready() error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.current()
}

// Loaded waits until Run has read everything once.
func (d *Directory) Loaded(ctx context.Context) error {
	return d.until(ctx, func() bool { return len(d.fresh) == len(prefixes) })
}

// wait returns when everything up to revision is applied in a prefix.
func (d *Directory) wait(ctx context.Context, prefix string, revision int64) error {
	return d.until(ctx, func() bool { return d.revision[prefix] >= revision })
}

// until waits for a condition, which is asked with d.mu held.
func (d *Directory) until(ctx context.Context, done func() bool) error {
	for {
		d.mu.RLock()
		ok, moved := done(), d.moved
		d.mu.RUnlock()
		if ok {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Keys are the public keys published now, for authn: all that are neither
// revoked nor past their end, those not yet used included.
func (d *Directory) Keys(ctx context.Context) ([]*authn.Key, error) {
	if err := d.Loaded(ctx); err != nil {
		return nil, err
	}
	records, err := d.published()
	if err != nil {
		return nil, err
	}
	keys := make([]*authn.Key, 0, len(records))
	for _, r := range records {
		set, err := authn.ParseKeys(fmt.Appendf(nil, `{"keys":[%s]}`, r.Public))
		if err != nil || len(set) != 1 || set[0].ID != r.KeyID {
			return nil, trust.Errorf(trust.Internal, "signing key %s in the store cannot be used", r.KeyID).Because(err)
		}
		keys = append(keys, set[0])
	}
	return keys, nil
}

// published lists the records of the keys published now, oldest first.
func (d *Directory) published() ([]store.SigningKey, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.current(); err != nil {
		return nil, err
	}
	now := d.conf.Now()
	var records []store.SigningKey
	for _, k := range d.keys {
		if k.Published(now) && !d.revoked[k.KeyID] {
			records = append(records, k)
		}
	}
	slices.SortFunc(records, func(a, b store.SigningKey) int {
		if c := a.NotBefore.Compare(b.NotBefore); c != 0 {
			return c
		}
		return strings.Compare(a.KeyID, b.KeyID)
	})
	return records, nil
}

// condemned says whether a key is revoked whose private part still exists.
func (d *Directory) condemned() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for kid := range d.revoked {
		if k, known := d.keys[kid]; known && len(k.Sealed) > 0 {
			return true
		}
	}
	return false
}

// Stands refuses a caller of this issuer whose identity, or the credential that
// its token was exchanged for, does not exist any more, or was made anew.
func (d *Directory) Stands(c *trust.Caller) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.current(); err != nil {
		return err
	}
	if strings.HasPrefix(c.Credential, store.SessionPrefix) {
		return d.personStands(c)
	}
	i, known := d.identities[trust.Fold(c.ClientID)]
	if !known || i.ObjectID != c.Object || trust.Fold(i.TenantID) != c.Tenant || !trust.SameFold(i.ResourceID, c.ResourceID) {
		return gone("the identity that the token is of was removed")
	}
	if _, known := d.credentials[c.Credential]; known {
		return nil
	}
	// The token may come from another server that has seen more of the store.
	if prefix, created := credentialAge(c.Credential); created > d.revision[prefix] {
		return trust.Errorf(trust.Unavailable, "this server has not yet heard of the credential that the token was exchanged for")
	}
	return gone("the credential that the token was exchanged for was removed")
}

// personStands is Stands for people; d.mu is held.
func (d *Directory) personStands(c *trust.Caller) error {
	key, _, _ := strings.Cut(c.Credential, "#")
	s, known := d.sessions[key]
	if _, same := d.credentials[c.Credential]; !known || !same {
		if _, created := credentialAge(c.Credential); created > d.revision[store.SessionPrefix] {
			return trust.Errorf(trust.Unavailable, "this server has not yet heard of the sign-in that the token is of")
		}
		return gone("the sign-in that the token is of has ended")
	}
	p := &s.Person
	if p.ObjectID != c.Object || c.Tenant != d.conf.Tenant || c.ResourceID != "" || trust.Fold(s.ClientID) != trust.Fold(c.ClientID) || !d.conf.Now().Before(s.Expires) {
		return gone("the sign-in that the token is of has ended")
	}
	name, groups := p.User, p.Groups
	if name == "" {
		name = p.ObjectID
	}
	u, known := d.users[store.User{Name: name}.Key()]
	switch {
	case !known && p.User != "":
		return gone("the user that the token is of was removed")
	case known && (u.Disabled || u.ObjectID != p.ObjectID || s.Created.Before(u.SessionsFrom)):
		return gone("the user that the token is of was disabled or signed out everywhere")
	case known && p.User != "":
		groups = u.Groups
	}
	for _, g := range c.Groups {
		if !slices.Contains(groups, g) {
			return gone("the user that the token is of has left a group that the token names; sallyport login gets another")
		}
	}
	return nil
}

func gone(message string) error {
	e := trust.Errorf(trust.Unauthenticated, "%s", message)
	e.Code = "InvalidAuthenticationToken"
	return e
}

// Subscribe has f called after anything was taken away, until cancel.
func (d *Directory) Subscribe(f func()) (cancel func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := d.nextID
	d.nextID++
	d.subscribers[id] = f
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.subscribers, id)
	}
}

func (d *Directory) notify() {
	d.mu.RLock()
	tell := make([]func(), 0, len(d.subscribers))
	for _, f := range d.subscribers {
		tell = append(tell, f)
	}
	d.mu.RUnlock()
	for _, f := range tell {
		f()
	}
}

// A credential's name goes into the tokens that are exchanged for it. It names
// one creation of it and what it says, so that a credential that was removed
// and made again, or changed, is another one.

func secretName(s *store.Secret, created int64) string {
	return credentialName(s.Key(), created, s.Hash)
}

func federatedName(f *store.Federated, created int64) string {
	what, _ := json.Marshal([]any{f.Issuer, f.Subject, f.Audiences, f.JWKS}) // strings and checked JSON
	return credentialName(f.Key(), created, what)
}

func credentialName(key string, created int64, what []byte) string {
	sum := sha256.Sum256(what)
	return fmt.Sprintf("%s#%d.%s", key, created, hex.EncodeToString(sum[:8]))
}

// credentialAge reads prefix and creation revision out of a name; zero values
// if it is none.
func credentialAge(name string) (prefix string, created int64) {
	key, rest, ok := strings.Cut(name, "#")
	digits, _, ok2 := strings.Cut(rest, ".")
	created, err := strconv.ParseInt(digits, 10, 64)
	if !ok || !ok2 || err != nil {
		return "", 0
	}
	for _, p := range prefixes {
		if strings.HasPrefix(key, p) {
			return p, created
		}
	}
	return "", 0
}
