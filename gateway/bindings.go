package gateway

import (
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// bound is a binding as it decides. It never changes: a changed binding is
// another one.
type bound struct {
	trust.Binding
	key      string // in the store
	cluster  string // the cluster's key
	source   string // the source resource's key
	revision int64
	policy   *trust.Policy
	people   bool // the source is a group of people
}

// subject is what bindings are found by.
type subject struct {
	trust.Principal
	cluster trust.ClusterUID
	people  bool
}

// place is a cluster as it decides.
type place struct {
	key    string
	uid    trust.ClusterUID
	name   string   // resource id
	shut   string   // why nobody is let in; "" lets in
	agents bool     // may hold tunnels
	around []string // keys of its group and subscription
	ranges []netip.Prefix
}

// table is everything that decides, in memory. Reads take a read lock for well
// under a microsecond; a change takes the write lock, and when it has been
// given back every later decision sees it.
type table struct {
	local map[string]bool // issuers whose sources must exist

	mu        sync.RWMutex // guards what follows
	bindings  map[string]*bound
	bySubject map[subject][]*bound // slices are replaced, never changed
	byUID     map[trust.BindingUID]*bound
	clusters  map[string]*place // by key
	blocked   map[string]string // key of a group or subscription → why nobody is let in
	sources   map[string]string // key of a source → oid of its identity, "" without one
	synced    bool

	fresh atomic.Pointer[time.Time] // the store was last known to hold nothing newer
	roles roles                     // what refusals name
}

func newTable(local []string) *table {
	t := &table{local: map[string]bool{}}
	for _, i := range local {
		t.local[i] = true
	}
	t.clear()
	return t
}

// clear needs t.mu, or nobody else.
func (t *table) clear() {
	t.bindings, t.bySubject, t.byUID = map[string]*bound{}, map[subject][]*bound{}, map[trust.BindingUID]*bound{}
	t.clusters, t.blocked, t.sources = map[string]*place{}, map[string]string{}, map[string]string{}
}

// forget refuses everything from here on.
func (t *table) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clear()
	t.synced = false
}

// ready is nil while what is in memory is known to be the store's.
func (t *table) ready(now time.Time) error {
	heard := t.fresh.Load()
	if heard == nil {
		return trust.Errorf(trust.Unavailable, "this gateway has not heard from the store yet")
	}
	if now.Sub(*heard) > staleAfter {
		return trust.Errorf(trust.Unavailable, "this gateway has lost touch with the store, so nothing is let through")
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if !t.synced {
		return trust.Errorf(trust.Unavailable, "this gateway has not read the bindings yet")
	}
	return nil
}

func (t *table) heard(at time.Time) {
	if !at.IsZero() {
		t.fresh.Store(&at)
	}
}

// find returns the bindings of a caller on a cluster, whatever they allow. It
// does the same work for a cluster that is unknown, one where the caller has no
// binding, and one where it has.
func (t *table) find(c *trust.Caller, cluster trust.ClusterUID) []*bound {
	t.mu.RLock()
	defer t.mu.RUnlock()
	found := t.bySubject[subject{c.Principal, cluster, false}]
	for i, b := range found {
		if !namesResource(c, b.SourceID) {
			kept := append([]*bound(nil), found[:i]...)
			for _, b := range found[i+1:] {
				if namesResource(c, b.SourceID) {
					kept = append(kept, b)
				}
			}
			found = kept
			break
		}
	}
	if c.ResourceID != "" {
		return found // a resource is in no group
	}
	for _, group := range c.Groups {
		p := trust.Principal{Issuer: c.GroupIssuer, Tenant: c.Tenant, Object: group}
		found = append(found[:len(found):len(found)], t.bySubject[subject{p, cluster, true}]...)
	}
	return found
}

// namesResource is authn.NamesResource without its two copies, once per binding
// and request.
func namesResource(c *trust.Caller, id string) bool {
	if len(c.ResourceID) != len(id) || c.ResourceID == "" {
		return false
	}
	if c.ResourceID == id {
		return true // as nearly always
	}
	for i := 0; i < len(id); i++ {
		if lower(id[i]) != lower(c.ResourceID[i]) {
			return false
		}
	}
	return true
}

func lower(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		return b + 'a' - 'A'
	}
	return b
}

// stands says whether a binding lets in at all, apart from its rules: it is
// still the one in force, its cluster, the groups around it and its source are
// there, and a person comes from where the cluster allows. It needs t.mu.
func (t *table) stands(b *bound, from netip.Addr) error {
	p, err := t.place(b)
	if err != nil {
		return err
	}
	if b.people && len(p.ranges) > 0 {
		for _, r := range p.ranges {
			if r.Contains(from) {
				return nil
			}
		}
		return trust.Errorf(trust.Forbidden, "%s is not in the authorized address ranges of cluster %s", from, p.name)
	}
	return nil
}

// standsFor is stands for a flight: where the caller of one that was handed over
// comes from, the replica that took it in has checked. It needs t.mu.
func (t *table) standsFor(f *flight, b *bound) error {
	if f.caller == nil {
		_, err := t.place(b)
		return err
	}
	return t.stands(b, f.from)
}

// place is the cluster of a binding, if everything about both but the caller's
// address lets in. It needs t.mu.
func (t *table) place(b *bound) (*place, error) {
	if now := t.bindings[b.key]; now == nil || now.UID != b.UID {
		return nil, errRemoved
	}
	if len(b.Grants) == 0 {
		return nil, errNotYet // not even the base set: nothing is consented to yet
	}
	p := t.clusters[b.cluster]
	if p == nil || p.uid != b.Binding.Cluster {
		return nil, errCluster
	}
	if p.shut != "" {
		return nil, trust.Errorf(trust.Forbidden, "cluster %s is %s", p.name, p.shut)
	}
	for _, around := range p.around {
		if why := t.blocked[around]; why != "" {
			return nil, trust.Errorf(trust.Forbidden, "cluster %s: %s", p.name, why)
		}
	}
	oid, there := t.sources[b.source]
	if t.local[b.Source.Issuer] && !b.people && (!there || oid != b.Source.Object) || b.people && !there {
		return nil, trust.Errorf(trust.Forbidden, "the source %s was removed or has another identity than the binding consented to", b.SourceID)
	}
	return p, nil
}

// current is the binding of the same creation as b in force now: b itself, or
// what it was changed to. It needs t.mu.
func (t *table) current(b *bound) *bound {
	if now := t.bindings[b.key]; now != nil && now.UID == b.UID {
		return now
	}
	return nil
}

// surroundings are the keys of a resource's group and subscription.
func surroundings(key string) []string {
	i := strings.Index(key, "/providers/")
	if i < 0 {
		return nil
	}
	group := key[:i]
	if j := strings.Index(group, "/resourcegroups/"); j >= 0 {
		return []string{group, group[:j]}
	}
	return []string{group}
}

// put takes a binding in. It needs t.mu.
func (t *table) put(key string, r *store.Binding, revision int64) *bound {
	t.drop(key)
	b := &bound{
		Binding: trust.Binding{ID: r.ID, UID: r.UID, Cluster: r.ClusterUID, SourceID: r.SourceID, Source: r.Source, Grants: r.Grants},
		key:     key, cluster: store.ResourceKey(r.ClusterID), source: store.ResourceKey(r.SourceID), revision: revision,
		policy: trust.Compile(r.Grants), people: isGroup(r.SourceID),
	}
	t.bindings[key] = b
	t.byUID[b.UID] = b
	s := subject{b.Source, b.Binding.Cluster, b.people}
	t.bySubject[s] = append(append([]*bound(nil), t.bySubject[s]...), b)
	return b
}

// drop takes a binding out. It needs t.mu.
func (t *table) drop(key string) *bound {
	b := t.bindings[key]
	if b == nil {
		return nil
	}
	delete(t.bindings, key)
	if t.byUID[b.UID] == b {
		delete(t.byUID, b.UID)
	}
	s := subject{b.Source, b.Binding.Cluster, b.people}
	var rest []*bound
	for _, o := range t.bySubject[s] {
		if o != b {
			rest = append(rest, o)
		}
	}
	if len(rest) == 0 {
		delete(t.bySubject, s)
	} else {
		t.bySubject[s] = rest
	}
	return b
}

// isGroup says whether a source is a group of people.
func isGroup(sourceID string) bool {
	return strings.Contains(trust.Fold(sourceID), "/providers/sallyport.identity/groups/")
}

// known says whether a cluster is registered and connected, for the tunnels.
func (t *table) known(uid trust.ClusterUID) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, p := range t.clusters {
		if p.uid == uid {
			return p.agents
		}
	}
	return false
}
