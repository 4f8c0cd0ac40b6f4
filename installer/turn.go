package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/sallyport/sallyport/mandate"
)

// turn is what the worker knows of one extension.
type turn struct {
	generation int64 // that the rest speaks of, except said
	due        time.Time
	wait       time.Duration           // that followed the last failure
	failing    time.Time               // since when; zero: it does not
	complained bool                    // control was told so
	found      *mandate.ExtensionState // and not told yet
	said       *mandate.ExtensionState // what control has taken
	told       time.Time               // when
}

// next is the extension whose turn it is: of those that are due the one that waits
// longest, what was never looked at first. With none, wait is how long until there
// may be one.
func (in *installer) next(wanted *mandate.Extensions, now time.Time) (x mandate.Extension, t *turn, wait time.Duration) {
	wait = recheck
	if wanted == nil {
		return x, nil, wait
	}
	turns := map[string]*turn{}
	for _, e := range wanted.Extensions {
		known := in.turns[e.UID]
		if known == nil {
			known = &turn{generation: e.Generation}
		} else if known.generation != e.Generation {
			known = &turn{generation: e.Generation, said: known.said, told: known.told}
		}
		turns[e.UID] = known
		if until := known.due.Sub(now); until > 0 {
			wait = min(wait, until)
		} else if t == nil || known.due.Before(t.due) {
			x, t = e, known
		}
	}
	in.turns = turns // what is not wanted any more is forgotten
	return x, t, wait
}

// one gives one extension its turn, as long as it is wanted so, and says what came
// of it. It fails only when ctx ends.
func (in *installer) one(ctx context.Context, x mandate.Extension, nodes int, t *turn) error {
	in.mu.Lock()
	if !in.wants(x.UID, x.Generation) {
		in.mu.Unlock()
		return ctx.Err() // the next look has it
	}
	wished, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	in.now = working{x.UID, x.Generation, stop}
	in.mu.Unlock()
	defer func() {
		in.mu.Lock()
		in.now = working{}
		in.mu.Unlock()
	}()
	state, err := t.found, error(nil)
	if state == nil {
		bounded, cancel := context.WithTimeoutCause(wished, in.stay, errStay)
		state, err = in.attempt(bounded, x, nodes, t)
		if bounded.Err() != nil {
			err = context.Cause(bounded) // what was broken off says nothing
		}
		cancel()
	}
	complaint := err != nil
	if complaint {
		state = t.complaint(x, state, err, time.Now())
	}
	if state != nil && wished.Err() == nil {
		err = errors.Join(err, in.report(wished, x, state, complaint, t))
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case wished.Err() != nil:
		in.log.Info("broken off", "name", x.Name, "reason", fmt.Sprint(context.Cause(wished)))
	case err != nil:
		t.wait = min(max(2*t.wait, firstRetry), maxRetry)
		t.due = time.Now().Add(t.wait)
		in.log.Warn("failed, trying again", "step", "follow extension "+x.Name, "error", hidden(err.Error(), x), "retry", t.wait)
	default:
		t.due, t.wait, t.failing, t.complained = time.Now().Add(recheck), 0, time.Time{}, false
	}
	return nil
}

// attempt does what is wanted of an extension, or looks at it if that is done. nil
// is nothing new.
func (in *installer) attempt(ctx context.Context, x mandate.Extension, nodes int, t *turn) (*mandate.ExtensionState, error) {
	switch {
	case t.said == nil && x.Refused, t.said != nil && t.said.Generation == x.Generation && x.Remove:
		return nil, nil
	case t.said != nil && t.said.Generation == x.Generation:
		state := in.health(ctx, x, *t.said)
		if reflect.DeepEqual(state, *t.said) && time.Since(t.told) < retell {
			return nil, nil
		}
		return &state, nil
	}
	state, err := in.follow(ctx, x, nodes)
	return &state, err
}

// complaint is what is said of an extension that fails for longer than patience,
// once; nil before and afterwards. It is tried on.
func (t *turn) complaint(x mandate.Extension, known *mandate.ExtensionState, err error, now time.Time) *mandate.ExtensionState {
	if t.failing.IsZero() {
		t.failing = now
	}
	if t.complained || now.Sub(t.failing) < patience {
		return nil
	}
	state := mandate.ExtensionState{UID: x.UID, Generation: x.Generation, Unseen: true}
	if known != nil {
		state.Present, state.Unseen, state.Version = known.Present, known.Unseen, known.Version
	}
	state.Problem = problem(codeUnknown, "It has failed for %s, and is tried on: %s.", now.Sub(t.failing).Round(time.Second), cut(hidden(err.Error(), x)))
	return &state
}

// report says what was found. A state that control does not take is kept for the
// extension's next turn.
func (in *installer) report(ctx context.Context, x mandate.Extension, state *mandate.ExtensionState, complaint bool, t *turn) error {
	in.log.Info("extension followed", "name", x.Name, "type", x.Type, "generation", x.Generation, "present", state.Present, "problem", problemCode(*state))
	err := in.control.Installed(ctx, mandate.ExtensionReport{Extensions: []mandate.ExtensionState{*state}})
	switch {
	case err == nil && complaint:
		t.complained = true
	case err == nil:
		t.found, t.said, t.told = nil, state, time.Now()
	case !complaint:
		t.found = state
	}
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}
