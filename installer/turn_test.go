package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/mandate"
)

const (
	uidB = "7d3a1c6e-0000-4000-8000-00000000000b"
	uidC = "7d3a1c6e-0000-4000-8000-00000000000c"
)

// fates are what becomes of extensions, by uid: nil is done, errHang never ends by
// itself, and other errors are what follow says.
type fates struct {
	mu    sync.Mutex
	by    map[string]error
	tries map[string][]time.Time
}

var errHang = errors.New("hangs")

func (f *fates) follow(ctx context.Context, x mandate.Extension, _ int) (mandate.ExtensionState, error) {
	f.mu.Lock()
	f.tries[x.UID] = append(f.tries[x.UID], time.Now())
	err := f.by[x.UID]
	f.mu.Unlock()
	state := mandate.ExtensionState{UID: x.UID, Generation: x.Generation, Present: true, Version: "1.0.0"}
	if errors.Is(err, errHang) {
		<-ctx.Done()
		return state, ctx.Err()
	}
	return state, err
}

func (f *fates) health(_ context.Context, _ mandate.Extension, was mandate.ExtensionState) mandate.ExtensionState {
	return was
}

func (f *fates) set(uid string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.by[uid] = err
}

func (f *fates) tried(uid string) []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.tries[uid])
}

// shy is a control plane that does not take what is said of one extension.
type shy struct {
	*server
	of string
}

func (s *shy) Installed(ctx context.Context, r mandate.ExtensionReport) error {
	if len(r.Extensions) > 0 && r.Extensions[0].UID == s.of {
		return errors.New("not taken")
	}
	return s.server.Installed(ctx, r)
}

func toldOf(t *testing.T, revision int64, extensions ...mandate.Extension) []byte {
	t.Helper()
	for i := range extensions {
		extensions[i].Name, extensions[i].Type = "x", "T"
	}
	signed, err := mandate.SignExtensions(signer, mandate.Extensions{Cluster: cluster, Epoch: 1, Revision: revision, Extensions: extensions})
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// Each extension gets its turn: one that fails, one that hangs and one whose
// report is not taken keep no other waiting for longer than the stay; each fails
// less and less often; what fails for long is said to be a problem, once, and is
// done when it can be.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const stay = 10 * time.Minute
		s := &server{newest: 1, wants: make(chan []byte), reports: make(chan mandate.ExtensionState, 100)}
		f := &fates{by: map[string]error{uidA: errors.New("the API server is away"), uidB: errHang}, tries: map[string][]time.Time{}}
		in := newInstaller(cluster, signer.Public().(ed25519.PublicKey), &shy{s, "7d3a1c6e-0000-4000-8000-000000000001"}, f, stay, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- in.run(ctx) }()

		last := map[string]mandate.ExtensionState{}
		news := func() mandate.ExtensionState { // what was not said before
			for {
				r := <-s.reports
				if was, ok := last[r.UID]; !ok || !reflect.DeepEqual(r, was) {
					last[r.UID] = r
					return r
				}
			}
		}
		began := time.Now()
		s.wants <- toldOf(t, 1, mandate.Extension{UID: uidA, Generation: 1}, mandate.Extension{UID: "7d3a1c6e-0000-4000-8000-000000000001", Generation: 1},
			mandate.Extension{UID: uidB, Generation: 1}, mandate.Extension{UID: uidC, Generation: 1})
		if r := news(); r.UID != uidC || r.Problem != nil {
			t.Fatalf("%+v", r)
		}
		if waited := time.Since(began); waited > stay+time.Second {
			t.Errorf("it waited %s for its turn", waited)
		}
		var complaints []string
		for range 2 {
			r := news()
			if r.Problem == nil || r.Problem.Code != codeUnknown || r.Generation != 1 {
				t.Errorf("%+v, %+v", r, r.Problem)
			}
			complaints = append(complaints, r.UID)
		}
		slices.Sort(complaints)
		if !slices.Equal(complaints, []string{uidA, uidB}) {
			t.Errorf("complaints of %v", complaints)
		}
		time.Sleep(2 * time.Hour) // of the bubble's
		tries := f.tried(uidA)
		if between := tries[len(tries)-1].Sub(tries[len(tries)-2]); between < maxRetry || between > stay+maxRetry+time.Minute {
			t.Errorf("the last try was %s after the one before", between)
		}
		if n := len(f.tried("7d3a1c6e-0000-4000-8000-000000000001")); n != 1 {
			t.Errorf("what was done and not told was done %d times", n)
		}
		told := 0
		for len(s.reports) > 0 {
			r := <-s.reports
			if r.UID != uidC || r.Problem != nil {
				t.Errorf("said again: %+v", r)
			}
			told++
		}
		if told == 0 {
			t.Error("what is well was not spoken of for hours")
		}
		f.set(uidA, nil)
		if r := news(); r.UID != uidA || r.Problem != nil || !r.Present {
			t.Errorf("%+v", r)
		}

		// What was tried in vain by an installer before is left.
		s.wants <- toldOf(t, 2, mandate.Extension{UID: "7d3a1c6e-0000-4000-8000-000000000002", Generation: 4, Refused: true}, mandate.Extension{UID: uidC, Generation: 2})
		if r := news(); r.UID != uidC || r.Generation != 2 {
			t.Errorf("%+v", r)
		}
		if n := len(f.tried("7d3a1c6e-0000-4000-8000-000000000002")); n != 0 {
			t.Errorf("tried %d times", n)
		}
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
}
