package ml

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
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
	if err != nil || len(units) == 0 {
		return err
	}
	live, err := m.live(ctx)
	if err != nil {
		return err
	}
	for _, u := range units {
		ended, known := live[u.prefix]
		age := now.Sub(u.newest)
		switch {
		case !known && age > sweepGrace:
		case known && !ended.IsZero() && retention > 0 && now.Sub(ended) > retention:
		default:
			continue
		}
		if err := m.Storage.Delete(ctx, u.prefix); err != nil {
			return err
		}
		m.Log.InfoContext(ctx, "bytes deleted", "prefix", u.prefix, "age", age)
	}
	return nil
}

// unit is what is deleted as a whole: <workspace>/<kind>/<id>/.
type unit struct {
	prefix string
	newest time.Time
}

// unitAt is the unit of a key, if it is one that only this service makes: the
// bucket may hold what is somebody else's.
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

func (m *ML) units(ctx context.Context) ([]unit, error) {
	var all []unit
	for after := ""; ; {
		page, next, err := m.Storage.List(ctx, "", after, 1000)
		if err != nil {
			return nil, err
		}
		for _, o := range page {
			prefix, ours := unitAt(o.Key)
			if !ours {
				continue
			}
			if n := len(all); n == 0 || all[n-1].prefix != prefix {
				all = append(all, unit{prefix: prefix})
			}
			if u := &all[len(all)-1]; o.Modified.After(u.newest) {
				u.newest = o.Modified
			}
		}
		if after = next; next == "" {
			return all, nil
		}
	}
}

// live are the prefixes that something names, with the end of the job that they
// are of, if it has ended.
func (m *ML) live(ctx context.Context) (map[string]time.Time, error) {
	all, _, err := store.List[store.Provided](ctx, m.Store, store.ProvidedPrefix+"/")
	if err != nil {
		return nil, err
	}
	var pinned []string
	live, workspaces := map[string]time.Time{}, map[string]*store.Item[store.Source]{}
	for i := range all {
		r := &all[i].Value
		id := workspaceOf(r.ID)
		if workspaces[id] == nil {
			w, err := store.Get[store.Source](ctx, m.Store, store.ResourceKey(id))
			if err = orGone(err, nil); err != nil {
				return nil, err
			}
			workspaces[id] = &w // the zero one if it is gone
		}
		w := workspaces[id]
		if w.Revision == 0 || r.Parent != w.Created || len(r.Private) == 0 {
			continue
		}
		prefix, err := storagePrefix(&w.Value)
		if err != nil {
			return nil, err
		}
		var p struct {
			Job    struct{ UID string }
			Status struct{ Ended time.Time }
			Place  place
			Reads  map[string]place
		}
		if err := json.Unmarshal(r.Private, &p); err != nil {
			return nil, err
		}
		for _, layer := range p.Place.Layers { // data of a job's output holds it
			pinned = append(pinned, unitOf(layer))
		}
		for _, at := range p.Reads {
			for _, layer := range at.Layers {
				if u := unitOf(layer); !strings.HasPrefix(u, prefix+inJobs+"/") {
					live[u] = time.Time{}
				}
			}
		}
		if p.Job.UID != "" {
			live[prefix+inJobs+"/"+p.Job.UID+"/"] = p.Status.Ended
		}
	}
	for _, u := range pinned {
		live[u] = time.Time{}
	}
	return live, nil
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
