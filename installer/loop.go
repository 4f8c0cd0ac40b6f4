package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
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

// follower does what is wanted of one extension. An error is one that may pass, and
// the state says what is known all the same. It must return soon when ctx ends.
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
	// retell is how often that is said though nothing changed: what control was
	// not told for long counts as not looked at.
	retell = 5 * time.Minute
	// patience is how long an error that may pass is waited out before it is
	// called a problem.
	patience = 3 * time.Minute
)

// installer receives what is wanted and works on one extension at a time, for a
// bounded time.
type installer struct {
	cluster trust.ClusterUID
	key     ed25519.PublicKey
	control control
	follower
	stay time.Duration // the longest that one extension is worked on while others wait
	log  *slog.Logger
	look chan struct{} // something is wanted that was not before

	mu     sync.Mutex // guards what follows
	floor  mandate.Floor
	wanted *mandate.Extensions // nil until the first have come
	now    working

	turns map[string]*turn // by uid; used by the worker alone
}

// working is what is being done.
type working struct {
	uid        string
	generation int64
	stop       context.CancelCauseFunc // nil: nothing
}

var (
	errSuperseded = errors.New("something else is wanted of it")
	errStay       = errors.New("it took longer than one extension may while others wait")
)

func newInstaller(cluster trust.ClusterUID, key ed25519.PublicKey, c control, f follower, stay time.Duration, log *slog.Logger) *installer {
	return &installer{cluster: cluster, key: key, control: c, follower: f, stay: stay, log: log, look: make(chan struct{}, 1), turns: map[string]*turn{}}
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

// work gives every extension its turn, and says what became of each.
func (in *installer) work(ctx context.Context) error {
	for {
		in.mu.Lock()
		wanted := in.wanted
		in.mu.Unlock()
		x, t, wait := in.next(wanted, time.Now())
		if t == nil {
			timer := time.NewTimer(wait)
			select {
			case <-ctx.Done():
				timer.Stop()
				return ctx.Err()
			case <-in.look:
				timer.Stop()
			case <-timer.C:
			}
			continue
		}
		if err := in.one(ctx, x, wanted.Nodes, t); err != nil {
			return err
		}
	}
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
