package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/trust"
)

// control is the control plane as the installer sees it.
type control interface {
	// Ask sends a nonce and returns the signed answer, which says what is newest.
	Ask(ctx context.Context, nonce string, applied mandate.Floor) ([]byte, error)
	// Extensions returns what is wanted when it is not what is held, or nil after
	// a while.
	Extensions(ctx context.Context, held mandate.Floor) ([]byte, error)
	// Installed says what became of it.
	Installed(ctx context.Context, r mandate.ExtensionReport) error
}

// follower does what is wanted of one extension. An error is one that may pass:
// nothing can be said yet. It must return soon when ctx ends.
type follower interface {
	follow(ctx context.Context, x mandate.Extension, nodes int) (mandate.ExtensionState, error)
	// health looks at what is installed, and changes nothing.
	health(ctx context.Context, x mandate.Extension, was mandate.ExtensionState) mandate.ExtensionState
}

const (
	firstRetry = time.Second
	maxRetry   = 30 * time.Second
	// recheck is how often what is installed is looked at, while the installer
	// runs.
	recheck = time.Minute
)

// installer receives what is wanted and works on one extension at a time.
type installer struct {
	cluster trust.ClusterUID
	key     ed25519.PublicKey
	control control
	follower
	log  *slog.Logger
	look chan struct{} // something is wanted that was not before

	mu     sync.Mutex // guards what follows
	floor  mandate.Floor
	wanted *mandate.Extensions // nil until the first have come
	now    working

	said map[string]mandate.ExtensionState // by uid: what control has taken; used by the worker alone
}

// working is what is being done.
type working struct {
	uid        string
	generation int64
	stop       context.CancelCauseFunc // nil: nothing
}

var errSuperseded = errors.New("something else is wanted of it")

func newInstaller(cluster trust.ClusterUID, key ed25519.PublicKey, c control, f follower, log *slog.Logger) *installer {
	return &installer{cluster: cluster, key: key, control: c, follower: f, log: log, look: make(chan struct{}, 1), said: map[string]mandate.ExtensionState{}}
}

// run works until ctx ends; then it returns ctx's error.
func (in *installer) run(ctx context.Context) error {
	if err := in.retry(ctx, "ask the control plane what is newest", in.ask); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return in.poll(ctx) })
	g.Go(func() error { return in.work(ctx) })
	return g.Wait()
}

// ask finds out what is newest, so that what is older cannot be played back.
func (in *installer) ask(ctx context.Context) error {
	nonce := mandate.NewNonce()
	signed, err := in.control.Ask(ctx, nonce, mandate.Floor{})
	if err != nil {
		return err
	}
	a, err := mandate.OpenAnswer(in.key, in.cluster, nonce, signed)
	if err != nil {
		return err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.floor = a.Floor()
	return nil
}

// poll receives what is wanted.
func (in *installer) poll(ctx context.Context) error {
	for {
		if err := in.retry(ctx, "ask what is wanted", in.receive); err != nil {
			return err
		}
	}
}

func (in *installer) receive(ctx context.Context) error {
	in.mu.Lock()
	held, floor := mandate.Floor{}, in.floor
	if in.wanted != nil {
		held = mandate.Floor{Epoch: in.wanted.Epoch, Revision: in.wanted.Revision}
	}
	in.mu.Unlock()
	signed, err := in.control.Extensions(ctx, held)
	if err != nil || signed == nil {
		return err
	}
	e, err := mandate.OpenExtensions(in.key, in.cluster, floor, signed)
	if err != nil {
		return err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.floor, in.wanted = mandate.Floor{Epoch: e.Epoch, Revision: e.Revision}, &e
	if in.now.stop != nil && !in.wants(in.now.uid, in.now.generation) {
		in.now.stop(errSuperseded)
	}
	select {
	case in.look <- struct{}{}:
	default:
	}
	return nil
}

// wants tells whether an extension is still wanted in a generation; mu is held.
func (in *installer) wants(uid string, generation int64) bool {
	for _, x := range in.wanted.Extensions {
		if x.UID == uid {
			return x.Generation == generation
		}
	}
	return false
}

// work follows what is wanted, one extension after the other, and says what
// became of each before it takes the next.
func (in *installer) work(ctx context.Context) error {
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-in.look:
		case <-tick.C:
		}
		in.mu.Lock()
		wanted := in.wanted
		in.mu.Unlock()
		if wanted == nil {
			continue
		}
		for _, x := range wanted.Extensions {
			if err := in.one(ctx, x, wanted.Nodes); err != nil {
				return err
			}
		}
	}
}

// one follows one extension, as long as it is wanted so. It fails only when ctx
// ends.
func (in *installer) one(ctx context.Context, x mandate.Extension, nodes int) error {
	in.mu.Lock()
	if !in.wants(x.UID, x.Generation) {
		in.mu.Unlock()
		return ctx.Err() // the next round has it
	}
	inner, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	in.now = working{x.UID, x.Generation, stop}
	in.mu.Unlock()
	defer func() {
		in.mu.Lock()
		in.now = working{}
		in.mu.Unlock()
	}()
	was, done := in.said[x.UID]
	if !done && x.Refused {
		return nil
	}
	err := in.retry(inner, "follow extension "+x.Name, func(ctx context.Context) error {
		var state mandate.ExtensionState
		var err error
		if done && was.Generation == x.Generation {
			if x.Remove {
				return nil
			}
			if state = in.health(ctx, x, was); reflect.DeepEqual(state, was) {
				return nil
			}
		} else if state, err = in.follow(ctx, x, nodes); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err() // what was broken off says nothing
		}
		in.log.Info("extension followed", "name", x.Name, "type", x.Type, "generation", x.Generation, "present", state.Present, "problem", problemCode(state))
		err = in.retry(ctx, "report", func(ctx context.Context) error {
			return in.control.Installed(ctx, mandate.ExtensionReport{Extensions: []mandate.ExtensionState{state}})
		})
		if err == nil {
			in.said[x.UID] = state
		}
		return err
	})
	if err != nil && ctx.Err() == nil {
		in.log.Info("broken off", "name", x.Name, "reason", fmt.Sprint(context.Cause(inner)))
		return nil
	}
	return err
}

func problemCode(s mandate.ExtensionState) string {
	if s.Problem == nil {
		return ""
	}
	return s.Problem.Code
}

// retry calls do until it succeeds or ctx ends; then it returns ctx's error.
func (in *installer) retry(ctx context.Context, what string, do func(context.Context) error) error {
	wait := firstRetry
	for {
		err := do(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		in.log.Warn("failed, trying again", "step", what, "error", err, "retry", wait)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		wait = min(2*wait, maxRetry)
	}
}
