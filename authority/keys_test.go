package authority

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/internal/seal"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// settle waits until the Directory knows the keys that the store holds.
func (w *world) settle() []store.SigningKey {
	w.t.Helper()
	var keys []store.SigningKey
	w.eventually("the directory knows the keys", func() bool {
		var err error
		if keys, err = store.SigningKeys(w.t.Context(), w.store); err != nil {
			w.t.Fatal(err)
		}
		w.dir.mu.RLock()
		defer w.dir.mu.RUnlock()
		for _, k := range keys {
			if have, known := w.dir.keys[k.KeyID]; !known || have.Revoked != k.Revoked || !have.NotBefore.Equal(k.NotBefore) {
				return false
			}
		}
		return len(w.dir.keys) == len(keys)
	})
	return keys
}

// revoke is control's part of a revocation.
func (w *world) revoke(kid string) {
	w.t.Helper()
	w.commit(store.Create(store.RevokedKey{KeyID: kid}))
	w.eventually("the revoked key is destroyed", func() bool {
		item, err := store.Get[store.SigningKey](w.t.Context(), w.store, store.SigningKey{KeyID: kid}.Key())
		return err == nil && item.Value.Revoked && len(item.Value.Sealed) == 0
	})
	w.eventually("another key signs", func() bool {
		_, err := w.signer()
		return err == nil
	})
}

// Two months of an authority: at every moment somebody signs, every token is
// good until it expires, every key was published 24 h before it signed and
// stays as long as its tokens.
func TestRotationRefusesNoValidToken(t *testing.T) {
	w := newWorld(t, nil)
	i := w.identity(workspace)
	secret := w.secret(i).Value
	type held struct {
		token   string
		expires time.Time
	}
	var tokens []held
	signedBy := map[string]time.Time{} // kid → its first token
	seen := map[string]time.Time{}     // kid → when it was published
	start := w.clock.Now()
	for w.clock.Now().Sub(start) < 65*24*time.Hour {
		if err := w.rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		near := false
		now := w.clock.Now()
		for _, k := range w.settle() {
			if _, known := seen[k.KeyID]; !known {
				seen[k.KeyID] = now
			}
			for _, at := range []time.Time{k.NotBefore, k.RetireAfter, k.GoneFrom} {
				ahead := at.Sub(now)
				near = near || (-7*time.Hour < ahead && ahead < keyPublished+8*time.Hour && now.Sub(start) > time.Hour)
			}
		}
		token := w.must(withSecret(i, secret, gatewayAud))
		kid := part(t, token, 0)["kid"].(string)
		if _, known := signedBy[kid]; !known {
			signedBy[kid] = now
			if published := now.Sub(seen[kid]); len(signedBy) > 1 && published < keyPublished {
				t.Errorf("key %s signs %v after it was published, want at least %v", kid, published, keyPublished)
			}
		}
		tokens = append(tokens, held{token, now.Add(TokenLife)})
		tokens = slices.DeleteFunc(tokens, func(h held) bool { return !now.Before(h.expires) })
		for _, h := range tokens {
			w.good("day "+now.Sub(start).String(), h.token)
		}
		if near {
			w.clock.Add(29 * time.Minute)
		} else {
			w.clock.Add(6 * time.Hour)
		}
	}
	if len(signedBy) != 3 {
		t.Errorf("%d keys signed in 65 days, want 3", len(signedBy))
	}
	if keys := w.settle(); len(keys) > 2 {
		t.Errorf("%d keys are kept, want the one that signs and at most one other", len(keys))
	}
}

func TestServersMakeOneKeyTogether(t *testing.T) {
	w := newWorld(t, nil)
	errs := make(chan error, 8)
	w.clock.Add(keyLife - time.Hour)
	for range cap(errs) {
		go func() { errs <- w.rotate(t.Context()) }()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if keys := w.settle(); len(keys) != 2 {
		t.Errorf("%d keys, want the first and one successor", len(keys))
	}
}

func TestASleptThroughRotation(t *testing.T) {
	w := newWorld(t, nil)
	i := w.identity("")
	secret := w.secret(i).Value
	w.clock.Add(90 * 24 * time.Hour)
	if err := w.rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	keys := w.settle()
	if len(keys) != 1 || keys[0].NotBefore.After(w.clock.Now()) {
		t.Fatalf("keys after three months of sleep: %+v", keys)
	}
	w.good("right after", w.must(withSecret(i, secret, gatewayAud)))
}

// The first start had a wrong clock; then it was put right.
func TestAClockThatIsPutBack(t *testing.T) {
	w := newWorld(t, nil)
	i := w.identity("")
	secret := w.secret(i).Value
	w.clock.Add(-48 * time.Hour)
	if err := w.tend(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.settle()
	w.must(withSecret(i, secret, gatewayAud))
}

func TestARevokedKeyEndsItsTokensAtOnce(t *testing.T) {
	for name, prepare := range map[string]func(*world){
		"no successor": func(*world) {},
		"a published successor": func(w *world) {
			w.clock.Add(keyLife - keyPublished)
			if err := w.rotate(w.t.Context()); err != nil {
				w.t.Fatal(err)
			}
			if keys := w.settle(); len(keys) != 2 {
				w.t.Fatalf("%d keys, want 2", len(keys))
			}
		},
	} {
		w := newWorld(t, nil)
		prepare(w)
		i := w.identity(workspace)
		secret := w.secret(i).Value
		token := w.must(withSecret(i, secret, gatewayAud))
		caller := w.good(name+": before", token)
		cut := make(chan time.Time, 1)
		cancel := w.authn.Subscribe(func() {
			if !w.authn.Current(&caller) {
				select {
				case cut <- time.Now():
				default:
				}
			}
		})
		defer cancel()
		begin := time.Now()
		w.revoke(caller.KeyID)
		select {
		case at := <-cut:
			if d := at.Sub(begin); d > time.Second {
				t.Errorf("%s: streams were told after %v", name, d)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: streams were never told", name)
		}
		w.refused(name+": a token of the revoked key", token)
		w.settle()
		fresh := w.must(withSecret(i, secret, gatewayAud))
		if part(t, fresh, 0)["kid"] == caller.KeyID {
			t.Errorf("%s: the revoked key still signs", name)
		}
		w.eventually(name+": the new key's tokens are good", func() bool {
			w.clock.Add(authn.KeySpacing)
			_, err := w.authn.Authenticate(t.Context(), fresh, authn.Audiences{gatewayAud})
			return err == nil
		})
		item, err := store.Get[store.SigningKey](t.Context(), w.store, store.SigningKey{KeyID: caller.KeyID}.Key())
		if err != nil || !item.Value.Revoked || len(item.Value.Sealed) != 0 {
			t.Errorf("%s: record of the revoked key: revoked %v, %d sealed bytes, %v", name, item.Value.Revoked, len(item.Value.Sealed), err)
		}
	}
}

func TestKeysRestSealed(t *testing.T) {
	w := newWorld(t, nil)
	keys := w.settle()
	item, err := store.Get[store.SigningKey](t.Context(), w.store, store.SigningKey{KeyID: keys[0].KeyID}.Key())
	if err != nil {
		t.Fatal(err)
	}
	k := item.Value
	der, err := w.seal.Open(k.Key(), version(&k), k.Sealed)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(k.Sealed, der[10:40]) || strings.Contains(string(k.Public), `"d"`) || bytes.Contains(raw, der[10:40]) {
		t.Error("the private key lies open in the store")
	}
	other, err := seal.New(bytes.Repeat([]byte{9}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	c := w.conf
	c.Seal, c.Registerer = other, nil
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Ready(); !errors.Is(err, seal.ErrSealed) {
		t.Errorf("with another seal key: %v, want ErrSealed", err)
	}
	// Put back under another creation date, it does not open.
	k.Created = k.Created.Add(time.Hour)
	w.commit(store.Update(k, item.Revision))
	c.Seal = w.seal
	if a, err = New(c); err != nil {
		t.Fatal(err)
	}
	w.eventually("the altered record is seen", func() bool {
		records, err := w.dir.published()
		return err == nil && len(records) == 1 && records[0].Created.Equal(k.Created)
	})
	if err := a.Ready(); !errors.Is(err, seal.ErrSealed) {
		t.Errorf("a key put back under another date: %v, want ErrSealed", err)
	}
}

func TestTheAlgorithmIsFixed(t *testing.T) {
	w := newWorld(t, nil)
	c := w.conf
	c.Algorithm = "RS256"
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); trust.KindOf(err) != trust.Invalid {
		t.Errorf("Run with another algorithm: %v, want Invalid", err)
	}
	for name, change := range map[string]func(*Config){
		"unknown algorithm": func(c *Config) { c.Algorithm = "none" },
		"http":              func(c *Config) { c.Base = "http://server.test" },
		"base with a path":  func(c *Config) { c.Base = baseURL + "/x" },
		"tenant in capital": func(c *Config) { c.Tenant = "AAAAAAAA-1111-1111-1111-111111111111" },
	} {
		c := w.conf
		change(&c)
		if _, err := New(c); trust.KindOf(err) != trust.Invalid {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
}

// Every way in which an identity or credential goes away ends the tokens that
// were got by it, and streams are told.
func TestWhatEndsTokens(t *testing.T) {
	w := newWorld(t, nil)
	var told atomic.Int32
	defer w.authn.Subscribe(func() { told.Add(1) })()
	o := newOutside(t)
	ctx := t.Context()

	bySecret := func() (i store.Identity, token, id string) {
		i = w.identity(workspace)
		s := w.secret(i)
		return i, w.must(withSecret(i, s.Value, gatewayAud)), s.ID
	}
	byAssertion := func() (store.Identity, string, store.Federated) {
		i := w.identity(workspace)
		f := o.credential(i)
		w.commit(store.Create(f))
		return i, w.must(withAssertion(i, o.token(t, nil), gatewayAud)), f
	}
	revision := func(key string) int64 {
		item, err := store.Get[store.Identity](ctx, w.store, key)
		if err != nil {
			t.Fatal(err)
		}
		return item.Revision
	}

	i1, t1, s1 := bySecret()
	i2, t2, _ := bySecret()
	i3, t3, _ := bySecret()
	_, t4, f4 := byAssertion()
	_, t5, f5 := byAssertion()
	_, t6, f6 := byAssertion()
	_, stays, same := byAssertion()
	changed5, touched := f5, same
	changed5.Subject = "system:serviceaccount:ml:other"
	touched.Stamp.LastModifiedBy = "somebody"
	recreated := i3
	recreated.ObjectID = "99999999-9999-9999-9999-999999999999"

	for _, tt := range []struct {
		name, token string
		do          func() error
	}{
		{"secret removed", t1, func() error { return w.RemoveSecret(ctx, i1.ClientID, s1) }},
		{"identity removed", t2, func() error { _, err := w.store.Commit(ctx, store.Delete(i2.Key(), 0)); return err }},
		{"identity with a new object id", t3, func() error { _, err := w.store.Commit(ctx, store.Update(recreated, revision(i3.Key()))); return err }},
		{"federated credential removed", t4, func() error { _, err := w.store.Commit(ctx, store.Delete(f4.Key(), 0)); return err }},
		{"federated credential for another subject", t5, func() error { _, err := w.store.Commit(ctx, store.Put(changed5)); return err }},
		{"federated credential made again", t6, func() error {
			if _, err := w.store.Commit(ctx, store.Delete(f6.Key(), 0)); err != nil {
				return err
			}
			_, err := w.store.Commit(ctx, store.Create(f6))
			return err
		}},
	} {
		caller := w.good(tt.name+": before", tt.token)
		before := told.Load()
		begin := time.Now()
		if err := tt.do(); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		w.eventually(tt.name+": streams are told", func() bool { return told.Load() > before && !w.authn.Current(&caller) })
		if d := time.Since(begin); d > time.Second {
			t.Errorf("%s: took %v", tt.name, d)
		}
		w.refused(tt.name, tt.token)
	}
	w.commit(store.Put(touched))
	w.eventually("the touched record is seen", func() bool {
		r, err := w.store.Revision(ctx)
		w.dir.mu.RLock()
		defer w.dir.mu.RUnlock()
		return err == nil && w.dir.revision[store.FederatedPrefix] >= r
	})
	w.good("a credential that was only touched", stays)
}

func TestSecrets(t *testing.T) {
	w := newWorld(t, nil)
	ctx := t.Context()
	i := w.identity("")
	if _, err := w.NewSecret(ctx, "44444444-4444-4444-4444-444444444444", time.Hour); trust.KindOf(err) != trust.NotFound {
		t.Errorf("secret for nobody: %v", err)
	}
	for _, life := range []time.Duration{0, -1, MaxSecretLife + 1} {
		if _, err := w.NewSecret(ctx, i.ClientID, life); trust.KindOf(err) != trust.Invalid {
			t.Errorf("secret for %v: %v", life, err)
		}
	}
	first, second := w.secret(i), w.secret(i)
	if first.Value == second.Value || len(first.Value) < 47 || !strings.HasPrefix(first.Value, first.Hint) {
		t.Errorf("secrets %+v, %+v", first, second)
	}
	w.must(withSecret(i, first.Value, gatewayAud))
	w.must(withSecret(i, second.Value, gatewayAud))
	for range MaxSecrets - 2 {
		w.secret(i)
	}
	if _, err := w.NewSecret(ctx, i.ClientID, time.Hour); trust.KindOf(err) != trust.Conflict {
		t.Errorf("too many secrets: %v", err)
	}
	if err := w.RemoveSecret(ctx, i.ClientID, first.ID); err != nil {
		t.Fatal(err)
	}
	if rec, _ := w.post("", withSecret(i, first.Value, gatewayAud), nil); rec.Code != 401 {
		t.Errorf("removed secret: %d", rec.Code)
	}
	if err := w.RemoveSecret(ctx, i.ClientID, first.ID); trust.KindOf(err) != trust.NotFound {
		t.Errorf("removed twice: %v", err)
	}
	w.clock.Add(365 * 24 * time.Hour)
	if err := w.rotate(ctx); err != nil {
		t.Fatal(err)
	}
	if rec, body := w.post("", withSecret(i, second.Value, gatewayAud), nil); rec.Code != 401 || body["error_codes"].([]any)[0] != 7000222.0 {
		t.Errorf("expired secret: %d %v", rec.Code, body)
	}
	w.clock.Add(keepExpired)
	if err := w.forgetSecrets(ctx); err != nil {
		t.Fatal(err)
	}
	if left, err := w.Secrets(ctx, i.ClientID); err != nil || len(left) != 0 {
		t.Errorf("a month after they expired: %+v, %v", left, err)
	}
	j := w.identity("")
	w.secret(j)
	w.commit(store.Delete(j.Key(), 0))
	if err := w.forgetSecrets(ctx); err != nil {
		t.Fatal(err)
	}
	if left, err := w.Secrets(ctx, j.ClientID); err != nil || len(left) != 0 {
		t.Errorf("secrets of an identity that is gone: %+v, %v", left, err)
	}
}

// Out of touch with the store the Directory vouches for nobody.
func TestTheDirectoryFailsClosed(t *testing.T) {
	w := newWorld(t, nil)
	i := w.identity(workspace)
	caller := w.good("in touch", w.must(withSecret(i, w.secret(i).Value, gatewayAud)))
	var ahead atomic.Int64
	d := NewDirectory(DirectoryConfig{Store: w.store, Issuer: w.Issuer(), Tenant: tenant, Now: w.clock.Now,
		Clock: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := d.Stands(&caller); trust.KindOf(err) != trust.Unavailable {
		t.Errorf("before Run: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Keys(gone); err == nil {
		t.Error("keys before Run")
	}
	w.run(d.Run)
	if err := d.Loaded(t.Context()); err != nil || d.Stands(&caller) != nil {
		t.Fatalf("loaded: %v, %v", err, d.Stands(&caller))
	}
	ahead.Store(int64(10 * time.Second))
	if err := d.Stands(&caller); trust.KindOf(err) != trust.Unavailable {
		t.Errorf("no sign of life for 10 s: %v", err)
	}
	if _, err := d.Keys(t.Context()); trust.KindOf(err) != trust.Unavailable {
		t.Errorf("keys without a sign of life: %v", err)
	}
	ahead.Store(0)
	newer := caller
	newer.Credential = credentialName("/secrets/"+i.ClientID+"/x", 1<<40, nil)
	if err := d.Stands(&newer); trust.KindOf(err) != trust.Unavailable {
		t.Errorf("a credential that only others have seen: %v", err)
	}
	for name, change := range map[string]func(*trust.Caller){
		"no credential":      func(c *trust.Caller) { c.Credential = "" },
		"unknown credential": func(c *trust.Caller) { c.Credential = "/secrets/a/b#1.00" },
		"forged prefix":      func(c *trust.Caller) { c.Credential = "/arm/x#99999999999999.00" },
		"another object":     func(c *trust.Caller) { c.Object = "x" },
		"another tenant":     func(c *trust.Caller) { c.Tenant = "x" },
		"another client":     func(c *trust.Caller) { c.ClientID = "x" },
		"another resource":   func(c *trust.Caller) { c.ResourceID += "x" },
	} {
		c := caller
		change(&c)
		if err := d.Stands(&c); trust.KindOf(err) != trust.Unauthenticated {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
}
