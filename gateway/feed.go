package gateway

import (
	"context"
	"encoding/json"
	"net/netip"
	"strings"
	"time"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const armPrefix = "/arm/"

// followBindings keeps the table true to the store. Whatever a change takes
// away ends before the change counts as applied.
func (g *Gateway) followBindings(ctx context.Context) error {
	return store.Follow(ctx, g.config.Store, armPrefix,
		func(all []store.KV, revision int64) error {
			start := g.now()
			g.table.mu.Lock()
			g.table.clear()
			for _, kv := range all {
				g.take(kv.Key, kv.Value, kv.Revision)
			}
			g.table.synced = true
			g.table.mu.Unlock()
			g.recheck(ctx, everywhere, start)
			g.cutUnknown()
			g.replica.applied(revision)
			return nil
		},
		func(b store.Batch) error {
			if len(b.Events) > 0 {
				start := g.now()
				touched := scope{}
				g.table.mu.Lock()
				for _, e := range b.Events {
					g.change(e, touched)
				}
				g.table.mu.Unlock()
				g.recheck(ctx, touched, start)
				if touched[cutTunnels] {
					g.cutUnknown()
				}
				g.replica.applied(b.Revision)
			}
			g.table.heard(b.Fresh)
			return nil
		})
}

// scope is the clusters whose requests a change may touch.
type scope map[trust.ClusterUID]bool

// Marks in a scope that are no clusters.
const (
	anyCluster trust.ClusterUID = "*"
	cutTunnels trust.ClusterUID = "-"
)

var everywhere = scope{anyCluster: true}

// change applies one event. It needs the table's lock.
func (g *Gateway) change(e store.Event, touched scope) {
	t := g.table
	switch {
	case store.Binding{}.Owns(e.Key):
		if b := t.bindings[e.Key]; b != nil {
			touched[b.Binding.Cluster] = true
		}
	case store.Cluster{}.Owns(e.Key):
		if p := t.clusters[e.Key]; p != nil {
			touched[p.uid] = true
		}
		touched[cutTunnels] = true
	case store.Group{}.Owns(e.Key), store.Subscription{}.Owns(e.Key):
		for key, p := range t.clusters {
			if strings.HasPrefix(key, e.Key+"/") {
				touched[p.uid] = true
			}
		}
	case store.Source{}.Owns(e.Key):
		for _, b := range t.bindings {
			if b.source == e.Key {
				touched[b.Binding.Cluster] = true
			}
		}
	}
	if e.Type == store.EventDelete {
		t.drop(e.Key)
		delete(t.clusters, e.Key)
		delete(t.sources, e.Key)
		delete(t.blocked, e.Key)
		return
	}
	g.take(e.Key, e.Value, e.Revision)
}

// take reads one stored value into the table. What cannot be read lets nobody
// in. It needs the table's lock.
func (g *Gateway) take(key string, value []byte, revision int64) {
	t := g.table
	var err error
	switch {
	case store.Binding{}.Owns(key):
		var r store.Binding
		if r, err = store.Decode[store.Binding](value); err != nil || r.UID == "" || r.ClusterUID == "" || r.Source == (trust.Principal{}) {
			t.drop(key)
			break
		}
		t.put(key, &r, revision)
	case store.Cluster{}.Owns(key):
		var r store.Cluster
		if r, err = store.Decode[store.Cluster](value); err != nil {
			delete(t.clusters, key)
			break
		}
		t.clusters[key] = placeOf(key, &r)
	case store.Group{}.Owns(key):
		var r store.Group
		delete(t.blocked, key)
		if r, err = store.Decode[store.Group](value); err != nil || r.Deleting {
			t.blocked[key] = "its resource group is being deleted"
		}
	case store.Subscription{}.Owns(key):
		var r store.Subscription
		delete(t.blocked, key)
		if r, err = store.Decode[store.Subscription](value); err != nil || r.State != "" && !strings.EqualFold(r.State, "Enabled") {
			t.blocked[key] = "its subscription is not enabled"
		}
	case store.Source{}.Owns(key):
		var r struct{ Identity *store.SystemIdentity }
		if err = json.Unmarshal(value, &r); err != nil {
			delete(t.sources, key)
			break
		}
		t.sources[key] = ""
		if r.Identity != nil {
			t.sources[key] = r.Identity.PrincipalID
		}
	}
	if err != nil {
		g.log.Error("a stored record cannot be read and lets nobody in", "key", key, "error", err)
	}
}

func placeOf(key string, r *store.Cluster) *place {
	p := &place{key: key, uid: r.UID, name: r.ID, around: surroundings(key), agents: r.Enrolment != nil}
	switch {
	case r.Deleting:
		p.shut = "being deleted"
	case r.Stopped:
		p.shut = "stopped"
	}
	for _, s := range r.AuthorizedIPRanges {
		if !strings.Contains(s, "/") {
			if a, err := netip.ParseAddr(s); err == nil {
				p.ranges = append(p.ranges, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
				continue
			}
		}
		prefix, err := netip.ParsePrefix(s)
		if err != nil {
			p.shut = "closed: one of its authorized address ranges cannot be read"
			continue
		}
		p.ranges = append(p.ranges, prefix.Masked())
	}
	return p
}

// recheck ends everything in the touched clusters that would not be let
// through now. It returns when no further byte of it reaches a caller.
func (g *Gateway) recheck(ctx context.Context, touched scope, start time.Time) {
	still := func(f *flight) error {
		b := f.bound.Load()
		if b == nil {
			return nil // not decided yet: the decision will see what we see
		}
		g.table.mu.RLock()
		defer g.table.mu.RUnlock()
		now := g.table.current(b)
		if now == nil {
			return errRemoved
		}
		if err := g.table.standsFor(f, now); err != nil {
			return err
		}
		if !now.policy.Decide(f.attributes).Allowed {
			return errNarrowed
		}
		return nil
	}
	ended := 0
	if touched[anyCluster] {
		ended = g.flights.endWhere("", still)
	} else {
		for uid := range touched {
			if uid != cutTunnels {
				ended += g.flights.endWhere(uid, still)
			}
		}
	}
	if ended > 0 {
		took := g.now().Sub(start)
		g.metrics.revoked.Observe(took.Seconds())
		g.log.InfoContext(ctx, "requests ended, their right was taken away", "requests", ended, "took", took)
	}
}

// followRoles keeps the roles published here, which refusals name.
func (g *Gateway) followRoles(ctx context.Context) error {
	read := func(key string, value []byte) {
		r, err := store.Decode[store.Role](value)
		if err != nil {
			g.log.ErrorContext(ctx, "a stored role cannot be read", "key", key, "error", err)
			return
		}
		g.table.roles.put(key, r.Role)
	}
	return store.Follow(ctx, g.config.Store, store.RolePrefix,
		func(all []store.KV, _ int64) error {
			g.table.roles.clear()
			for _, kv := range all {
				read(kv.Key, kv.Value)
			}
			return nil
		},
		func(b store.Batch) error {
			for _, e := range b.Events {
				g.table.roles.drop(e.Key)
				if e.Type == store.EventPut {
					read(e.Key, e.Value)
				}
			}
			return nil
		})
}
