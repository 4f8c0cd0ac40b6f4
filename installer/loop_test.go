package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/trust"
)

const cluster trust.ClusterUID = "0b9f4b52-4a0c-4c0e-9a35-3c1f6a3f0001"

const uidA = "7d3a1c6e-0000-4000-8000-00000000000a"

var signer = ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", ed25519.SeedSize)))

// server is a control plane that says what the test says.
type server struct {
	newest  int64
	wants   chan []byte
	reports chan mandate.ExtensionState
}

func (s *server) Ask(_ context.Context, nonce string, _ mandate.Floor) ([]byte, error) {
	return mandate.SignAnswer(signer, mandate.Answer{Cluster: cluster, Epoch: 1, Revision: s.newest, Nonce: nonce})
}

func (s *server) Extensions(ctx context.Context, _ mandate.Floor) ([]byte, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case w := <-s.wants:
		return w, nil
	}
}

func (s *server) Installed(_ context.Context, r mandate.ExtensionReport) error {
	for _, e := range r.Extensions {
		s.reports <- e
	}
	return nil
}

// hands does what the test says.
type hands struct {
	began chan int64 // generations
	end   chan error
}

func (h *hands) follow(ctx context.Context, x mandate.Extension, _ int) (mandate.ExtensionState, error) {
	h.began <- x.Generation
	state := mandate.ExtensionState{UID: x.UID, Generation: x.Generation, Present: !x.Remove}
	select {
	case <-ctx.Done():
		return state, ctx.Err()
	case err := <-h.end:
		return state, err
	}
}

func (h *hands) health(_ context.Context, _ mandate.Extension, was mandate.ExtensionState) mandate.ExtensionState {
	return was
}

func told(t *testing.T, key ed25519.PrivateKey, revision, generation int64, remove bool) []byte {
	t.Helper()
	signed, err := mandate.SignExtensions(key, mandate.Extensions{Cluster: cluster, Epoch: 1, Revision: revision,
		Extensions: []mandate.Extension{{UID: uidA, Name: "a", Type: "T", Generation: generation, Remove: remove}}})
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// What is older than what the control plane vouched for at the start, or signed by
// another, is not followed; what may pass is tried again; a newer wish breaks off
// what is being done, and nothing is said of that.
func TestWhatIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{newest: 5, wants: make(chan []byte), reports: make(chan mandate.ExtensionState)}
		h := &hands{began: make(chan int64), end: make(chan error)}
		in := newInstaller(cluster, signer.Public().(ed25519.PublicKey), s, h, time.Hour, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- in.run(ctx) }()

		other := ed25519.NewKeyFromSeed([]byte(strings.Repeat("o", ed25519.SeedSize)))
		s.wants <- told(t, signer, 4, 1, false)
		s.wants <- told(t, other, 9, 1, false)
		synctest.Wait()
		select {
		case g := <-h.began:
			t.Fatalf("generation %d was followed", g)
		default:
		}

		s.wants <- told(t, signer, 6, 2, false)
		if g := <-h.began; g != 2 {
			t.Errorf("generation %d", g)
		}
		h.end <- errors.New("the API server is away")
		if g := <-h.began; g != 2 {
			t.Errorf("generation %d", g)
		}
		h.end <- nil
		if r := <-s.reports; r.Generation != 2 || !r.Present {
			t.Errorf("%+v", r)
		}

		s.wants <- told(t, signer, 7, 3, false)
		if g := <-h.began; g != 3 {
			t.Errorf("generation %d", g)
		}
		s.wants <- told(t, signer, 8, 4, true)
		if g := <-h.began; g != 4 { // 3 was broken off, without a word
			t.Errorf("generation %d", g)
		}
		h.end <- nil
		if r := <-s.reports; r.Generation != 4 || r.Present {
			t.Errorf("%+v", r)
		}
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
}

// No protected setting is in what is said of an extension.
func TestProtectedSettingsAreHidden(t *testing.T) {
	x := mandate.Extension{Protected: map[string]string{"key": "-----BEGIN PRIVATE KEY-----\nMIIabc\ndef0\n-----END PRIVATE KEY-----\n", "proxy": "http://u:s3cret@p"}}
	for _, v := range []string{`pa'ss "word" \w`, "secret", base64.StdEncoding.EncodeToString([]byte("-----BEGIN X-----\nMIIsecret\n-----END X-----\n"))} {
		x := mandate.Extension{Protected: map[string]string{"v": v}}
		said := fmt.Sprintf("got %s, %q, '%s', %s", v, v, strings.ReplaceAll(strings.Trim(strconv.Quote(v), `"`), "'", `\'`), base64.StdEncoding.EncodeToString([]byte(v)))
		want := `got [protected], "[protected]", '[protected]', [protected]`
		if got := hidden(said, x); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
	if got := hidden("tls.key: MIIsecret", mandate.Extension{Protected: map[string]string{"key": base64.StdEncoding.EncodeToString([]byte("-----BEGIN X-----\nMIIsecret\n-----END X-----\n"))}}); strings.Contains(got, "MIIsecret") {
		t.Errorf("%s", got)
	}
	if got := hidden("cannot use http://u:s3cret@p with MIIabc, def0", x); strings.Contains(got, "s3cret") || strings.Contains(got, "MIIabc") || strings.Contains(got, "def0") {
		t.Errorf("%s", got)
	}
}
