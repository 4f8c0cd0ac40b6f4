package authn

import (
	"fmt"
	"testing"
)

// The request path: a token that was verified before. Nothing may be allocated.
func TestACachedTokenAllocatesNothing(t *testing.T) {
	w := newWorld(t, nil)
	token := w.token(t, nil)
	want := Audiences{"https://server.test/clusters/1", aud}
	if _, err := w.Authenticate(t.Context(), token, want); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if n := testing.AllocsPerRun(200, func() { _, _ = w.Authenticate(ctx, token, want) }); n > 0 {
		t.Errorf("%v allocations for a cached token, want 0", n)
	}
}

func BenchmarkCachedToken(b *testing.B) {
	w := newWorld(b, nil)
	tokens := make([]string, 64)
	for i := range tokens {
		tokens[i] = w.token(b, object{"jti": fmt.Sprint(i)})
	}
	want := Audiences{"https://server.test/clusters/1", aud}
	ctx := b.Context()
	for _, token := range tokens {
		if _, err := w.Authenticate(ctx, token, want); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for i := 0; p.Next(); i++ {
			if _, err := w.Authenticate(ctx, tokens[i%len(tokens)], want); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkNewToken(b *testing.B) {
	w := newWorld(b, nil)
	for _, bb := range []struct{ name, token string }{
		{"RS256", w.token(b, nil)},
		{"ES256", sign(b, w.ec, object{"alg": "ES256", "kid": "ec-1"}, w.claims.with(nil))},
	} {
		b.Run(bb.name, func(b *testing.B) {
			for b.Loop() {
				w.cache.clear()
				if _, err := w.Authenticate(b.Context(), bb.token, Audiences{aud}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
