package ml

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const (
	sweepEvery = time.Hour
	// sweepGrace is how old something must be before it is taken for left behind:
	// an upload has no asset yet, a copy no model.
	sweepGrace = 24 * time.Hour
)

// sweep deletes what nothing names any more: bytes of workspaces, jobs and models
// that are gone, uploads that no asset or job reads, and, after the retention,
// what jobs left. Several servers may do so at once.
func (m *ML) sweep(ctx context.Context, now time.Time, retention time.Duration) error {
	// The bytes first: what is made after that is not looked at.
	units, err := m.units(ctx)
	if err != nil {
		return err
	}
	workspaces, _, err := store.List[store.Source](ctx, m.Store, store.ResourceKey("/subscriptions/"), store.Match(func(key string) bool {
		return strings.Contains(key, trust.Fold("/"+Namespace+"/"+Tracked+"/"))
	}))
	if err != nil {
		return err
	}
	for i := range workspaces {
		w := &workspaces[i]
		prefix, err := storagePrefix(&w.Value)
		if err != nil {
			return err
		}
		own := map[string]time.Time{}
		for unit, newest := range units {
			if strings.HasPrefix(unit, prefix) {
				own[unit] = newest
				delete(units, unit)
			}
		}
		if err := m.sweepWorkspace(ctx, w, own, now, retention); err != nil {
			return err
		}
	}
	for unit, newest := range units { // their workspaces are gone
		if now.Sub(newest) > sweepGrace {
			if err := m.deleteUnit(ctx, unit); err != nil {
				return err
			}
		}
	}
	return nil
}

// Rounds of one workspace, and units of a round: all of a round's records change
// in one transaction.
const (
	sweepRounds = 20
	sweepAtOnce = 50
)

// sweepWorkspace deletes what is left behind under one workspace. First the
// records are changed so that nobody can name it any more, in a transaction that
// fails if anything was named since the records were read; then the bytes go.
func (m *ML) sweepWorkspace(ctx context.Context, w *store.Item[store.Source], units map[string]time.Time, now time.Time, retention time.Duration) error {
	below := store.ProvidedKey(w.Value.ID) + "/"
	for range sweepRounds {
		all, revision, err := store.List[store.Provided](ctx, m.Store, below)
		if err != nil {
			return err
		}
		left, err := leftBehind(w, all, units, now, retention)
		if err != nil || len(left) == 0 {
			return err
		}
		left = left[:min(len(left), sweepAtOnce)]
		var ops []store.Op
		for _, l := range left {
			ops = append(ops, l.claim...)
		}
		if len(ops) > 0 {
			_, err := m.Store.Commit(ctx, append(ops, store.Quiet(below, revision))...)
			if errors.Is(err, store.ErrConflict) {
				continue // as things are then
			}
			if err != nil {
				return err
			}
		}
		for _, l := range left {
			if err := m.deleteUnit(ctx, l.unit); err != nil {
				return err
			}
			delete(units, l.unit)
		}
	}
	return nil // the rest the next time
}

func (m *ML) deleteUnit(ctx context.Context, unit string) error {
	err := m.Storage.Delete(ctx, unit)
	if err == nil {
		m.Log.InfoContext(ctx, "bytes deleted", "prefix", unit)
	}
	return err
}

// leftover is a unit to delete, with what takes its name away before.
type leftover struct {
	unit  string
	claim []store.Op
}

// leftBehind are the units of a workspace that nothing names, and those of jobs
// whose time is over. all are the records below the workspace; units are those
// that have bytes, with the time of the newest.
//
// What has no record to change cannot be named again: an upload is named through
// its hold, a job's output and a model through their resource, and who names one
// guards that record.
func leftBehind(w *store.Item[store.Source], all []store.Item[store.Provided], units map[string]time.Time, now time.Time, retention time.Duration) ([]leftover, error) {
	prefix, err := storagePrefix(&w.Value)
	if err != nil {
		return nil, err
	}
	named, ended, claims, newest := map[string]bool{}, map[string]time.Time{}, map[string][]store.Op{}, maps.Clone(units)
	for i := range all {
		r := all[i].Value
		if r.Parent != w.Created || len(r.Private) == 0 {
			continue
		}
		var p struct {
			Job    struct{ UID string }
			Status struct{ Ended time.Time }
			Place  place
			Reads  map[string]place
			Held   string
			Until  time.Time
		}
		if err := json.Unmarshal(r.Private, &p); err != nil {
			return nil, fmt.Errorf("read %s: %w", r.ID, err)
		}
		for _, layer := range p.Place.Layers { // data of a job's output holds it
			named[unitOf(layer)] = true
		}
		for _, at := range p.Reads {
			for _, layer := range at.Layers {
				if u := unitOf(layer); !strings.HasPrefix(u, prefix+inJobs+"/") {
					named[u] = true
				}
			}
		}
		switch {
		case p.Held != "":
			u := prefix + inUploads + "/" + p.Held + "/"
			claims[u] = []store.Op{store.Delete(r.Key(), all[i].Revision)}
			if now.Before(p.Until) {
				named[u] = true
			}
			if _, bytes := newest[u]; !bytes {
				newest[u] = time.Time{}
			}
		case p.Job.UID != "":
			u := prefix + inJobs + "/" + p.Job.UID + "/"
			if ended[u] = p.Status.Ended; p.Status.Ended.IsZero() || retention <= 0 || now.Sub(p.Status.Ended) <= retention {
				named[u] = true
				continue
			}
			if r.Private, err = overlay(r.Private, []string{"Swept"}, map[string]any{"Swept": true}); err != nil {
				return nil, err
			}
			claims[u] = []store.Op{store.Update(r, all[i].Revision)}
		}
	}
	var left []leftover
	for _, u := range slices.Sorted(maps.Keys(newest)) {
		_, job := ended[u]
		if !named[u] && (job || now.Sub(newest[u]) > sweepGrace) {
			left = append(left, leftover{u, claims[u]})
		}
	}
	return left, nil
}

// unitAt is the unit of a key, which is what is deleted as a whole:
// <workspace>/<kind>/<id>/, if it is one that only this service makes: the bucket
// may hold what is somebody else's.
func unitAt(key string) (prefix string, ours bool) {
	parts := strings.SplitN(key, "/", 4)
	if len(parts) < 4 || !arm.ValidGUID(parts[0]) {
		return "", false
	}
	switch id := parts[2]; parts[1] {
	case inUploads:
		ours = isHash(id)
	case inJobs, inModels:
		ours = arm.ValidGUID(id)
	}
	return unitOf(key), ours
}

// units are all that have bytes, with the time of the newest.
func (m *ML) units(ctx context.Context) (map[string]time.Time, error) {
	all := map[string]time.Time{}
	for after := ""; ; {
		page, next, err := m.Storage.List(ctx, "", after, 1000)
		if err != nil {
			return nil, err
		}
		for _, o := range page {
			if unit, ours := unitAt(o.Key); ours && !o.Modified.Before(all[unit]) {
				all[unit] = o.Modified
			}
		}
		if after = next; next == "" {
			return all, nil
		}
	}
}

// unitOf is the unit that a prefix lies in.
func unitOf(prefix string) string {
	parts := strings.SplitN(prefix, "/", 4)
	return strings.Join(parts[:min(len(parts), 3)], "/") + "/"
}

// sweeping sweeps until ctx ends.
func (m *ML) sweeping(ctx context.Context) {
	for ctx.Err() == nil {
		if err := m.sweep(ctx, m.Now(), m.Retention); err != nil && ctx.Err() == nil {
			m.Log.WarnContext(ctx, "what is left in the store not swept", "error", err)
		}
		pause(ctx, sweepEvery)
	}
}
