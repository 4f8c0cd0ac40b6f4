package ml

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// How extensions are kept up with the authority's keys.
const (
	handOverAtOnce = 16               // clusters
	handOverWithin = 20 * time.Second // for one cluster
	handOverAnyway = time.Hour        // a key's time can be over without a change
)

// handOvers gives the extensions of all attached clusters the authority's key
// set whenever it changes, until ctx ends: a key that was revoked must not be
// believed there any longer. A cluster that is away is tried until it is back.
func (m *ML) handOvers(ctx context.Context, changed <-chan struct{}) {
	for wait := retryFirst; ctx.Err() == nil; {
		left, err := m.handOverAll(ctx)
		if err != nil && ctx.Err() == nil {
			m.Log.WarnContext(ctx, "keys not handed over", "error", err)
		}
		after := handOverAnyway
		if left > 0 || err != nil {
			after, wait = wait, min(2*wait, retryMost)
		} else {
			wait = retryFirst
		}
		timer := time.NewTimer(after)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-changed:
			wait = retryFirst
		}
		timer.Stop()
	}
}

// followKeys marks every change of the authority's keys, or of which are revoked.
func (m *ML) followKeys(ctx context.Context, prefix string, marks *marks) error {
	mark := func() error {
		marks.keysChanged()
		return nil
	}
	return store.Follow(ctx, m.Store, prefix,
		func([]store.KV, int64) error { return mark() }, func(store.Batch) error { return mark() })
}

// handOverAll tries each attached cluster once and counts those that do not have
// the key set yet and may be reached.
func (m *ML) handOverAll(ctx context.Context) (left int, err error) {
	all, _, err := store.List[store.Provided](ctx, m.Store, store.ProvidedPrefix+"/")
	if err != nil {
		return 0, err
	}
	by := map[string][]string{} // workspaces, by cluster; folded ids
	for i := range all {
		r := &all[i].Value
		if !strings.HasSuffix(r.Type, "/"+computes) {
			continue
		}
		p, err := readCompute(r)
		if err != nil {
			return 0, err
		}
		cluster, workspace := trust.Fold(p.Cluster), workspaceOf(r.ID)
		if !slices.Contains(by[cluster], workspace) {
			by[cluster] = append(by[cluster], workspace)
		}
	}
	tries := make(chan bool, len(by))
	var group errgroup.Group
	group.SetLimit(handOverAtOnce)
	for cluster, through := range by {
		group.Go(func() error {
			tries <- m.handOverTo(ctx, cluster, through)
			return nil
		})
	}
	_ = group.Wait() // none fails
	for range len(by) {
		if !<-tries {
			left++
		}
	}
	return left, nil
}

// handOverTo hands over to one cluster, through whichever workspace may reach
// it. A cluster that none may reach counts as done: whoever is let through next
// brings the keys along.
func (m *ML) handOverTo(ctx context.Context, cluster string, through []string) bool {
	ctx, cancel := context.WithTimeout(ctx, handOverWithin)
	defer cancel()
	done := true
	for _, id := range through {
		w, err := store.Get[store.Source](ctx, m.Store, store.ResourceKey(id))
		if trust.KindOf(err) == trust.NotFound {
			continue
		}
		var e *extension
		if err == nil {
			e, err = m.reach(ctx, &w, cluster)
		}
		if err == nil {
			_, err = e.handOver(ctx, false)
		}
		switch {
		case err == nil:
			return true
		case withoutAccess(err):
		default:
			done = false
			m.Log.WarnContext(ctx, "keys not handed over", "cluster", cluster, "workspace", id, "error", err)
		}
	}
	return done
}

// handedOver is a key set as an extension took it.
type handedOver struct {
	set    string
	number int64
}

// behind tells of an extension that has an older key set than it was given: one
// that was installed anew by an older manifest.
func (e *extension) behind(number int64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return number < e.handed[wire.Audience(e.Base, e.uid)].number
}

// handOver gives the extension the authority's key set, signed with ml's key. It
// tells whether there was one that this process had not handed over.
func (e *extension) handOver(ctx context.Context, force bool) (bool, error) {
	number := e.Now().UnixMilli() // before reading: whoever reads later knows better
	set, err := e.keys(ctx)
	if err != nil {
		return false, err
	}
	audience := wire.Audience(e.Base, e.uid)
	e.mu.Lock()
	same := e.handed[audience].set == string(set)
	e.mu.Unlock()
	if same && !force {
		return false, nil
	}
	signed, err := e.sign(wire.Keys{Audience: audience, Number: number, Keys: set})
	if err != nil {
		return false, err
	}
	err = e.send(ctx, http.MethodPut, "/keys", []byte(signed), nil, "")
	var refused *trust.Error
	if errors.As(err, &refused) && refused.Code == wire.Newer {
		return false, nil // another server was faster; what it had is seen at the next change
	}
	if err != nil {
		return false, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.handed[audience] = handedOver{string(set), number}
	return true, nil
}

// keys is the authority's key set (RFC 7517), as it publishes it.
func (m *ML) keys(ctx context.Context) (json.RawMessage, error) {
	all, err := store.SigningKeys(ctx, m.Store)
	if err != nil {
		return nil, err
	}
	now, set := m.Now(), struct {
		Keys []json.RawMessage `json:"keys"`
	}{[]json.RawMessage{}}
	for i := range all {
		if all[i].Published(now) {
			set.Keys = append(set.Keys, all[i].Public)
		}
	}
	return json.Marshal(set)
}
