package authn

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/trust"
)

func TestRotationWithoutRefusal(t *testing.T) {
	w := newWorld(t, nil)
	first, second := mustKey(t, "rsa-1", rsaKeys()[0].Public()), mustKey(t, "rsa-2", rsaKeys()[2].Public())
	byFirst := w.token(t, nil)
	bySecond := sign(t, rsaKeys()[2], w.rsaHeader.with(object{"kid": "rsa-2"}), w.claims.with(nil))
	ok := func(when, token string) {
		t.Helper()
		if _, err := w.Authenticate(t.Context(), token, Audiences{aud}); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	ok("before", byFirst)
	w.issuer.set(first, second)
	w.clock.Add(KeySpacing)
	ok("a kid not seen before is fetched", bySecond)
	ok("the old one still", byFirst)
	if n := w.issuer.called(); n != 2 {
		t.Errorf("%d fetches, want 2", n)
	}
}

func TestAnUnknownKidIsFetchedForAtMostOncePerSpacing(t *testing.T) {
	w := newWorld(t, nil)
	for i := range 20 {
		token := sign(t, rsaKeys()[1], w.rsaHeader.with(object{"kid": "x" + string(rune('a'+i))}), w.claims.with(nil))
		if _, err := w.Authenticate(t.Context(), token, Audiences{aud}); !kindIs(err, trust.Unauthenticated) {
			t.Fatalf("unknown kid: %v", err)
		}
	}
	if n := w.issuer.called(); n != 1 {
		t.Errorf("%d fetches for 20 unknown kids, want 1", n)
	}
	w.clock.Add(KeySpacing)
	_, _ = w.Authenticate(t.Context(), sign(t, rsaKeys()[1], w.rsaHeader.with(object{"kid": "y"}), w.claims.with(nil)), Audiences{aud})
	if n := w.issuer.called(); n != 2 {
		t.Errorf("%d fetches after the spacing, want 2", n)
	}
}

func TestKeysAreBelievedForAnHourWithoutAFetch(t *testing.T) {
	w := newWorld(t, nil)
	w.issuer.fail(errors.New("issuer is down"))
	long := w.token(t, object{"exp": w.clock.Now().Add(24 * time.Hour).Unix()})
	if _, err := w.Authenticate(t.Context(), long, Audiences{aud}); !kindIs(err, trust.Unavailable) || !strings.Contains(err.Error(), "issuer is down") {
		t.Errorf("no keys ever: %v, want Unavailable with the cause", err)
	}
	w.issuer.fail(nil)
	w.clock.Add(KeySpacing)
	caller, err := w.Authenticate(t.Context(), long, Audiences{aud})
	if err != nil || !w.Current(&caller) {
		t.Fatalf("issuer back: %v, current: %v", err, w.Current(&caller))
	}
	w.issuer.fail(errors.New("issuer is down"))
	fresh := func() string { return w.token(t, object{"jti": w.clock.Now().String(), "uti": nil}) }
	w.clock.Add(KeyMaxAge - time.Second)
	for name, token := range map[string]string{"cached": long, "new": w.token(t, object{"exp": w.clock.Now().Add(time.Hour).Unix()})} {
		if _, err := w.Authenticate(t.Context(), token, Audiences{aud}); err != nil {
			t.Errorf("%s token, keys 59 min old: %v", name, err)
		}
	}
	w.clock.Add(time.Second)
	if _, err := w.Authenticate(t.Context(), long, Audiences{aud}); err == nil {
		t.Error("cached token, keys 1 h old: taken")
	}
	if _, err := w.Authenticate(t.Context(), fresh(), Audiences{aud}); err == nil {
		t.Error("new token, keys 1 h old: taken")
	}
	if w.Current(&caller) {
		t.Error("the caller is current on keys 1 h old")
	}
	if len(w.Ready()) != 2 {
		t.Errorf("Ready = %v, want both issuers named", w.Ready())
	}
}

func TestAVanishedKeyEndsItsTokens(t *testing.T) {
	w := newWorld(t, nil)
	var told atomic.Int32
	cancel := w.Subscribe(func() { told.Add(1) })
	byRSA := w.token(t, nil)
	byEC := sign(t, w.ec, object{"alg": "ES256", "kid": "ec-1"}, w.claims.with(nil))
	rsaCaller, err := w.Authenticate(t.Context(), byRSA, Audiences{aud})
	if err != nil {
		t.Fatal(err)
	}
	ecCaller, err := w.Authenticate(t.Context(), byEC, Audiences{aud})
	if err != nil {
		t.Fatal(err)
	}
	ring := w.issuers[ours].ring
	w.issuer.set(mustKey(t, "ec-1", w.ec.Public()))
	if err := ring.refreshAfter(t.Context()); err != nil {
		t.Fatal(err)
	}
	if told.Load() != 1 || w.cache.len() != 0 {
		t.Errorf("told %d times, %d tokens cached; want once, none", told.Load(), w.cache.len())
	}
	if _, err := w.Authenticate(t.Context(), byRSA, Audiences{aud}); !kindIs(err, trust.Unauthenticated) {
		t.Errorf("token of the vanished key: %v", err)
	}
	if _, err := w.Authenticate(t.Context(), byEC, Audiences{aud}); err != nil {
		t.Errorf("token of the other key: %v", err)
	}
	if w.Current(&rsaCaller) || !w.Current(&ecCaller) {
		t.Errorf("current: %v of the vanished key, %v of the other", w.Current(&rsaCaller), w.Current(&ecCaller))
	}
	// Nothing changed: nobody is told.
	if err := ring.refreshAfter(t.Context()); err != nil || told.Load() != 1 {
		t.Errorf("a refresh without change: %v, told %d times", err, told.Load())
	}
	// The kid comes to name another key: out at once, believed at the next fetch.
	w.issuer.set(mustKey(t, "ec-1", rsaKeys()[2].Public()))
	if err := ring.refreshAfter(t.Context()); err != nil || told.Load() != 2 {
		t.Errorf("a kid for another key: %v, told %d times", err, told.Load())
	}
	if w.Current(&ecCaller) {
		t.Error("the caller of the old key is current under its name")
	}
	cancel()
	w.issuer.set()
	if err := ring.refreshAfter(t.Context()); err != nil || told.Load() != 2 {
		t.Errorf("after cancel: %v, told %d times", err, told.Load())
	}
}

// An entry made from a key set that vanished while the token was verified is
// refused when it is used.
func TestATokenVerifiedWhileItsKeyVanishes(t *testing.T) {
	w := newWorld(t, nil)
	token := w.token(t, nil)
	if _, err := w.Authenticate(t.Context(), token, Audiences{aud}); err != nil {
		t.Fatal(err)
	}
	var d digest
	var e *entry
	for d, e = range w.cache.entries {
	}
	w.issuer.set()
	if err := w.issuers[ours].ring.refreshAfter(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.cache.entries[d] = e
	if _, err := w.Authenticate(t.Context(), token, Audiences{aud}); !kindIs(err, trust.Unauthenticated) {
		t.Errorf("got %v", err)
	}
}

func TestRunRefreshesAndTells(t *testing.T) {
	rsaKeys() // outside the bubble: it blocks on others making it
	synctest.Test(t, func(t *testing.T) {
		subscribed := make(chan func(), 1)
		var cancelled atomic.Bool
		w := newWorld(t, func(c *Config) {
			c.Now = time.Now
			c.Issuers[0].Subscribe = func(f func()) func() {
				subscribed <- f
				return func() { cancelled.Store(true) }
			}
		})
		now := time.Now().Unix()
		w.claims = w.claims.with(object{"iat": now, "nbf": now, "exp": now + 7200})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		var told atomic.Int32
		defer w.Subscribe(func() { told.Add(1) })()
		synctest.Wait()
		if len(w.Ready()) != 0 {
			t.Fatalf("after the start: %v", w.Ready())
		}
		caller, err := w.Authenticate(ctx, w.token(t, nil), Audiences{aud})
		if err != nil {
			t.Fatal(err)
		}

		w.issuer.set(mustKey(t, "rsa-2", rsaKeys()[2].Public()))
		time.Sleep(KeyRefresh)
		synctest.Wait()
		if told.Load() != 1 || w.Current(&caller) {
			t.Errorf("5 min after the key vanished: told %d times, current %v", told.Load(), w.Current(&caller))
		}

		poke := <-subscribed
		w.issuer.set(mustKey(t, "rsa-2", rsaKeys()[2].Public()), mustKey(t, "rsa-1", rsaKeys()[0].Public()))
		poke()
		synctest.Wait()
		if told.Load() != 2 || !w.Current(&caller) {
			t.Errorf("after the issuer said so: told %d times, current %v", told.Load(), w.Current(&caller))
		}

		// An hour without the issuer: its callers are told of once it is over.
		w.issuer.fail(errors.New("down"))
		time.Sleep(KeyMaxAge + retryKeys + time.Second)
		synctest.Wait()
		if w.Current(&caller) || told.Load() < 3 {
			t.Errorf("an hour without keys: told %d times, current %v", told.Load(), w.Current(&caller))
		}

		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) || !cancelled.Load() {
			t.Errorf("Run ended with %v, subscription cancelled: %v", err, cancelled.Load())
		}
	})
}

// A change that the issuer announces while a fetch is under way is not lost.
func TestAnAnnouncedChangeIsFetchedAfterwards(t *testing.T) {
	w := newWorld(t, nil)
	w.issuer.block = make(chan struct{})
	ring := w.issuers[ours].ring
	first := make(chan error, 1)
	go func() { first <- ring.refresh(t.Context(), 0) }()
	for w.issuer.called() == 0 {
		select {
		case <-t.Context().Done():
			t.Fatal("no fetch began")
		case <-time.After(time.Millisecond):
		}
	}
	w.issuer.set(mustKey(t, "rsa-2", rsaKeys()[2].Public()))
	second := make(chan error, 1)
	go func() { second <- ring.refreshAfter(t.Context()) }()
	close(w.issuer.block)
	if err := errors.Join(<-first, <-second); err != nil {
		t.Fatal(err)
	}
	if !ring.has("rsa-2", w.clock.Now()) || ring.has("rsa-1", w.clock.Now()) {
		t.Error("the set is the one from before the change")
	}
}

func TestParseKeys(t *testing.T) {
	rsaJWK := string(mustJSON(t, jwkOf("a", rsaKeys()[0].Public())))
	tests := []struct {
		name, set string
		want      int // -1: an error
	}{
		{"one", `{"keys":[` + rsaJWK + `]}`, 1},
		{"none", `{"keys":[]}`, 0},
		{"no member", `{}`, -1},
		{"no JSON", `<html>`, -1},
		{"twice", `{"keys":[` + rsaJWK + `,` + rsaJWK + `]}`, -1},
		{"keys twice", `{"keys":[],"keys":[` + rsaJWK + `]}`, -1},
		{"too many", `{"keys":[` + strings.Repeat(`{},`, maxKeys) + `{}]}`, -1},
		{"for encryption", `{"keys":[` + strings.Replace(rsaJWK, `"kid"`, `"use":"enc","kid"`, 1) + `]}`, 0},
		{"for another algorithm", `{"keys":[` + strings.Replace(rsaJWK, `"kid"`, `"alg":"RS512","kid"`, 1) + `]}`, 0},
		{"without kid", `{"keys":[` + strings.Replace(rsaJWK, `"kid":"a",`, ``, 1) + `]}`, 0},
		{"symmetric", `{"keys":[{"kty":"oct","kid":"a","k":"c2VjcmV0"}]}`, 0},
		{"unknown type beside a good one", `{"keys":[{"kty":"new","kid":"b"},` + rsaJWK + `]}`, 1},
		{"private", `{"keys":[` + string(mustJSON(t, jwkOf("a", rsaKeys()[0]))) + `]}`, 0},
		{"weak", `{"keys":[{"kty":"RSA","kid":"a","n":"` + strings.Repeat("x", 171) + `","e":"AQAB"}]}`, 0},
		{"huge", `{"keys":[{"kty":"RSA","kid":"a","n":"` + strings.Repeat("x", 20000) + `","e":"AQAB"}]}`, 0},
		{"P-384", `{"keys":[{"kty":"EC","kid":"a","crv":"P-384","x":"AA","y":"AA"}]}`, 0},
		{"point off the curve", `{"keys":[{"kty":"EC","kid":"a","crv":"P-256","x":"` + strings.Repeat("A", 43) + `","y":"` + strings.Repeat("A", 43) + `"}]}`, 0},
	}
	for _, tt := range tests {
		keys, err := ParseKeys([]byte(tt.set))
		if got := len(keys); (err != nil) != (tt.want < 0) || (err == nil && got != tt.want) {
			t.Errorf("%s: %d keys, %v, want %d", tt.name, got, err, tt.want)
		}
	}
}

// A laptop that slept: its clock has jumped, the background's timers have not.
func TestAfterASleepKeysAreFetchedByWhoNeedsThem(t *testing.T) {
	w := newWorld(t, nil)
	long := w.token(t, object{"exp": w.clock.Now().Add(24 * time.Hour).Unix()})
	if _, err := w.Authenticate(t.Context(), long, Audiences{aud}); err != nil {
		t.Fatal(err)
	}
	w.issuers[ours].ring.kept.Store(true)
	calls := w.issuer.called()
	w.clock.Add(2 * time.Hour)
	if _, err := w.Authenticate(t.Context(), long, Audiences{aud}); err != nil || w.issuer.called() != calls+1 {
		t.Errorf("after two hours of sleep: %v, %d fetches", err, w.issuer.called()-calls)
	}
}

// An issuer that hangs holds up one caller, not those whose key is known.
func TestAHangingIssuerHoldsUpOneCaller(t *testing.T) {
	w := newWorld(t, nil)
	if _, err := w.Authenticate(t.Context(), w.token(t, nil), Audiences{aud}); err != nil {
		t.Fatal(err)
	}
	w.clock.Add(KeyRefresh)
	block := make(chan struct{})
	w.issuer.mu.Lock()
	w.issuer.block = block
	w.issuer.mu.Unlock()
	calls := w.issuer.called()
	first := make(chan error, 1)
	go func() {
		_, err := w.Authenticate(t.Context(), w.token(t, object{"uti": "first"}), Audiences{aud})
		first <- err
	}()
	for w.issuer.called() == calls {
		select {
		case <-t.Context().Done():
			t.Fatal("no fetch began")
		case <-time.After(time.Millisecond):
		}
	}
	if _, err := w.Authenticate(t.Context(), w.token(t, object{"uti": "second"}), Audiences{aud}); err != nil {
		t.Errorf("while the fetch hangs: %v", err)
	}
	close(block)
	if err := <-first; err != nil {
		t.Error(err)
	}
}
