package control

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Management locks keep what is at a scope and below it as it is, whatever
// rights a caller has. They stop requests, and nothing that follows from one:
// a binding on a locked cluster lets nobody through once its source is gone.

const lockType = "Microsoft.Authorization/locks"

// Levels of locks.
const (
	canNotDelete = "CanNotDelete"
	readOnlyLock = "ReadOnly"
)

// Limits of locks, Azure's own.
const (
	maxLockNotes = 512
	maxLocks     = 20 // at one scope
)

func (c *Control) lockRoutes() []*route {
	const at = "{scope...}/providers/Microsoft.Authorization/locks"
	// The right is asked for at the scope that is locked, not at the lock.
	r := func(method, pattern, action string, drop int, handle func(*call) (*answer, error)) *route {
		return &route{method: method, pattern: pattern, typ: lockType, versions: arm.Locks, drop: drop,
			action: lockType + "/" + action, need: needSubscription | needGroup, passesLocks: true, handle: handle}
	}
	return []*route{
		r("GET", at, "read", 3, (*call).listLocks),
		r("GET", at+"/{name}", "read", 4, (*call).getLock),
		r("PUT", at+"/{name}", "write", 4, (*call).putLock),
		r("DELETE", at+"/{name}", "delete", 4, (*call).removeLock),
	}
}

type lockBody struct {
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	Type       string         `json:"type"`
	Properties lockProperties `json:"properties"`
	SystemData *systemData    `json:"systemData,omitempty"`
}

type lockProperties struct {
	Level  string      `json:"level"`
	Notes  string      `json:"notes,omitempty"`
	Owners []lockOwner `json:"owners,omitempty"`
}

type lockOwner struct {
	ApplicationID string `json:"applicationId"`
}

func bodyOfLock(l *store.ManagementLock) lockBody {
	b := lockBody{ID: l.ID, Name: l.Name, Type: lockType, Properties: lockProperties{Level: l.Level, Notes: l.Notes}, SystemData: systemDataOf(l.Stamp)}
	for _, o := range l.Owners {
		b.Properties.Owners = append(b.Properties.Owners, lockOwner{o})
	}
	return b
}

// listLocks shows those at the scope, around it, and, unless the filter is
// atScope(), below it.
func (k *call) listLocks() (*answer, error) {
	query := k.request.URL.Query().Get("$filter")
	terms, err := arm.ParseFilter(query)
	if err != nil {
		return nil, err
	}
	below := true
	for _, t := range terms {
		if !t.Is("atScope", "()") {
			return nil, arm.BadFilter(query)
		}
		below = false
	}
	locks, _, err := k.locksAround(k.ctx, k.id, below)
	if err != nil {
		return nil, err
	}
	var list []lockBody
	for i := range locks {
		list = append(list, bodyOfLock(&locks[i]))
	}
	return ok(arm.NewList(list, "")), nil
}

// locksAround are the locks that bear on a scope: its own and those of what it
// lies in, and with below those of what lies in it; and what must hold for no
// other to be there. Outside subscriptions nothing can be locked.
func (c *Control) locksAround(ctx context.Context, scope arm.ID, below bool) ([]store.ManagementLock, []store.Op, error) {
	var prefixes []string
	if scope.Subscription != "" {
		for _, at := range scope.Scopes()[1:] {
			prefixes = append(prefixes, store.LocksAt(at.String()))
		}
	}
	switch {
	case below && scope.IsRoot():
		prefixes = append(prefixes, store.LocksPrefix)
	case below && len(prefixes) > 0:
		prefixes[len(prefixes)-1] = store.LocksBelow(scope.String())
	}
	var locks []store.ManagementLock
	var quiet []store.Op
	for _, prefix := range prefixes {
		items, rev, err := store.List[store.ManagementLock](ctx, c.Store, prefix)
		if err != nil {
			return nil, nil, err
		}
		for _, l := range items {
			locks = append(locks, l.Value)
		}
		quiet = append(quiet, store.Quiet(prefix, rev))
	}
	return locks, quiet, nil
}

// demandUnlocked refuses a request that a lock stands against: a deletion by a
// lock on what is deleted, around it or in it, any other change by a ReadOnly
// one on what is changed or around it. That none comes between is part of the
// request's first transaction, but for a provider's (control/mount.go): its own
// transactions know nothing of locks.
func (k *call) demandUnlocked() error {
	if k.route.passesLocks {
		return nil
	}
	target, removal := k.target(), k.route.method == http.MethodDelete
	locks, quiet, err := k.locksAround(k.ctx, target, removal)
	if err != nil {
		return err
	}
	var at, ids []string
	for _, l := range locks {
		if !removal && l.Level != readOnlyLock {
			continue
		}
		if ids = append(ids, l.ID); !slices.Contains(at, l.Scope) {
			at = append(at, l.Scope)
		}
	}
	if len(at) == 0 {
		k.entry.quiet = quiet
		return nil
	}
	verb := "write"
	if removal {
		verb = "delete"
	}
	e := arm.Errorf(trust.Conflict, arm.ScopeLocked, "The scope '%s' cannot perform %s operation because following scope(s) are locked: '%s'. Please remove the lock and try again.",
		target, verb, strings.Join(at, "','"))
	e.Hint = "sallyport lock delete --ids " + strings.Join(ids, " ")
	return e
}

// findLock reads the lock of the path; none is the zero item.
func (k *call) findLock() (store.Item[store.ManagementLock], error) {
	return store.Find[store.ManagementLock](k.ctx, k.Store, store.LocksAt(k.id.String())+trust.Fold(k.vars["name"]))
}

func (k *call) getLock() (*answer, error) {
	l, err := k.findLock()
	if err != nil {
		return nil, err
	}
	if l.Revision == 0 {
		return nil, arm.Errorf(trust.NotFound, "LockNotFound", "The lock '%.260s' could not be found.", k.vars["name"])
	}
	a := ok(bodyOfLock(&l.Value))
	a.h().Set("ETag", arm.ETag(l.Revision))
	return a, nil
}

func (k *call) putLock() (*answer, error) {
	if k.id.Subscription == "" {
		return nil, arm.BadParameter("scope", "locks are put on subscriptions, resource groups and resources")
	}
	if name := k.vars["name"]; !arm.ValidLockName(name) {
		return nil, arm.BadParameter("lockName", `the name '%.100s' must have 1 to 260 characters, no blanks and none of <>%%&:\?/`, name)
	}
	var body struct{ Properties lockProperties }
	if _, err := k.decode(&body); err != nil {
		return nil, err
	}
	old, err := k.findLock()
	if err != nil {
		return nil, err
	}
	if err := k.conditions(old.Revision); err != nil {
		return nil, err
	}
	l, write, status := old.Value, store.Create, http.StatusCreated
	if old.Revision != 0 {
		write, status = updating(old.Revision), http.StatusOK
	} else {
		l.ID, l.Scope, l.Name = k.id.Extend("Microsoft.Authorization", "locks", k.vars["name"]).String(), k.id.String(), k.vars["name"]
	}
	if err := body.Properties.apply(&l); err != nil {
		return nil, err
	}
	ops, err := k.lockable()
	if err != nil {
		return nil, err
	}
	if old.Revision == 0 {
		beside, rev, err := store.List[store.ManagementLock](k.ctx, k.Store, store.LocksAt(k.id.String()))
		if err != nil {
			return nil, err
		}
		if len(beside) >= maxLocks {
			return nil, arm.Errorf(trust.Conflict, "LockLimitExceeded", "The scope '%s' has %d locks already, which is the limit.", k.id, len(beside))
		}
		ops = append(ops, store.Quiet(store.LocksAt(k.id.String()), rev))
	}
	l.Stamp = k.stamp(l.Stamp, &k.caller)
	if _, err := k.commit(k.durable(), append(k.within(write(l)), ops...)...); err != nil {
		return nil, err
	}
	return &answer{status: status, body: bodyOfLock(&l)}, nil
}

// apply takes over what a body says.
func (p *lockProperties) apply(l *store.ManagementLock) error {
	levels := []string{canNotDelete, readOnlyLock}
	i := slices.IndexFunc(levels, func(level string) bool { return is(level, p.Level) })
	if i < 0 {
		return arm.BadParameter("properties.level", "'%.64s' is not %s or %s", p.Level, canNotDelete, readOnlyLock)
	}
	if len(p.Notes) > maxLockNotes {
		return arm.BadParameter("properties.notes", "they have %d characters, the limit is %d", len(p.Notes), maxLockNotes)
	}
	l.Level, l.Notes, l.Owners = levels[i], p.Notes, nil
	for _, o := range p.Owners {
		if !arm.ValidGUID(o.ApplicationID) || len(l.Owners) == maxLocks {
			return arm.BadParameter("properties.owners", "they are at most %d applications, each with its id as applicationId", maxLocks)
		}
		l.Owners = append(l.Owners, o.ApplicationID)
	}
	return nil
}

// lockable demands that the scope is there and not on its way out: what is
// being deleted is past being kept.
func (k *call) lockable() ([]store.Op, error) {
	if err := groupOpen(&k.group.Value); err != nil {
		return nil, err
	}
	ops, err := k.scopeExists(store.ResourceKey, store.ProvidedKey)
	if err != nil {
		return nil, err
	}
	cluster := clusterOf(k.id)
	if !is(cluster.Type(), clusterType) {
		return ops, nil
	}
	r, err := store.Get[store.Cluster](k.ctx, k.Store, store.ResourceKey(cluster.String()))
	if err == nil && r.Value.Deleting {
		err = pending(arm.Deleting)
	}
	return append(ops, store.Guard(r.Value.Key(), r.Revision)), err
}

func (k *call) removeLock() (*answer, error) {
	l, err := k.findLock()
	if err != nil {
		return nil, err
	}
	if l.Revision == 0 {
		return empty(http.StatusNoContent), nil
	}
	if _, err := k.commit(k.durable(), store.Delete(l.Value.Key(), l.Revision)); err != nil {
		return nil, err
	}
	return empty(http.StatusOK), nil
}
