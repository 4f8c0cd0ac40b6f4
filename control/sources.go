package control

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Sources are resources of any type that is not ours: what bindings name. They
// lie in a resource group or directly in a subscription.
func (c *Control) sourceRoutes() []*route {
	r := func(method, pattern, action string, drop int, handle func(*call) (*answer, error)) *route {
		return &route{method: method, pattern: pattern, drop: drop, action: "{type}/" + action,
			need: needSubscription | needGroup, handle: handle}
	}
	var all []*route
	for _, in := range []string{"/subscriptions/{subscription}/resourceGroups/{group}/providers/", "/subscriptions/{subscription}/providers/"} {
		one := in + "{resource...}"
		list := r("GET", in+"{namespace}/{type}", "", 3, (*call).listSources)
		list.action = "{listed}/read"
		all = append(all, list,
			r("GET", one, "read", 0, (*call).getSource),
			r("PUT", one, "write", 0, (*call).putSource),
			r("PATCH", one, "write", 0, (*call).patchSource),
			r("DELETE", one, "delete", 0, (*call).removeSource),
		)
	}
	return all
}

type sourceBody struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Identity   *identityBody     `json:"identity,omitempty"`
	Properties bag               `json:"properties"`
	SystemData *systemData       `json:"systemData,omitempty"`
	Other      bag               `json:"-"`
}

// MarshalJSON writes the members that we have no field for beside the others.
func (b sourceBody) MarshalJSON() ([]byte, error) {
	type plain sourceBody
	return beside(b.Other, plain(b))
}

// identityBody is ARM's, and the client id, which federated credentials and
// secrets are used with.
type identityBody struct {
	Type        string `json:"type"`
	PrincipalID string `json:"principalId,omitempty"`
	TenantID    string `json:"tenantId,omitempty"`
	ClientID    string `json:"clientId,omitempty"`
}

func bodyOfSource(s *store.Source) sourceBody {
	p, _ := parseBag(s.Properties)
	other, _ := parseBag(s.Other)
	p.set("provisioningState", s.State)
	b := sourceBody{ID: s.ID, Name: nameOf(s.ID), Type: s.Type, Location: s.Location, Tags: s.Tags, Properties: p,
		SystemData: systemDataOf(s.Stamp), Other: other}
	if !isPeople(s) {
		b.Identity = &identityBody{Type: "None"}
	}
	if i := s.Identity; i != nil {
		b.Identity = &identityBody{"SystemAssigned", i.PrincipalID, i.TenantID, i.ClientID}
	}
	return b
}

func (k *call) listSources() (*answer, error) {
	typ := k.vars["namespace"] + "/" + k.vars["type"]
	page, err := arm.ParsePage(k.request.URL.Query(), pageSize)
	if err != nil {
		return nil, err
	}
	mark := "/providers/" + trust.Fold(typ) + "/"
	all, _, err := store.List[store.Source](k.ctx, k.Store, store.ResourceKey(k.id.String())+"/", store.Limit(page.Top+1), store.After(page.After),
		store.Match(func(key string) bool {
			_, name, there := strings.Cut(key, mark)
			return there && !strings.Contains(name, "/")
		}))
	if err != nil {
		return nil, err
	}
	return listed(k, page, all, func(s store.Item[store.Source]) sourceBody { return bodyOfSource(&s.Value) }), nil
}

// findSource reads the source of the path; none is the zero item.
func (k *call) findSource() (store.Item[store.Source], error) {
	if !k.id.IsResource() {
		return store.Item[store.Source]{}, noRoute(k.request)
	}
	return store.Find[store.Source](k.ctx, k.Store, store.ResourceKey(k.id.String()))
}

func (k *call) getSource() (*answer, error) {
	s, err := k.findSource()
	if err != nil {
		return nil, err
	}
	if s.Revision == 0 {
		return nil, arm.NoResource(k.id)
	}
	a := ok(bodyOfSource(&s.Value))
	a.h().Set("ETag", arm.ETag(s.Revision))
	return a, nil
}

type sourceRequest struct {
	Location   string
	Tags       map[string]string
	Identity   *struct{ Type string }
	Properties json.RawMessage
}

// putSource answers 200 for create and update alike: clients of workspaces take
// no 201, and no client refuses 200.
func (k *call) putSource() (*answer, error) {
	var body sourceRequest
	data, err := k.decode(&body)
	if err != nil {
		return nil, err
	}
	old, err := k.findSource()
	if err != nil {
		return nil, err
	}
	if err := k.conditions(old.Revision); err != nil {
		return nil, err
	}
	if err := groupOpen(&k.group.Value); err != nil {
		return nil, err
	}
	if err := checkTags(body.Tags); err != nil {
		return nil, err
	}
	s, write := old.Value, store.Create
	if old.Revision == 0 {
		if err := k.parentSource(); err != nil {
			return nil, err
		}
		s = store.Source{ID: k.id.String(), Type: k.id.Type()}
	} else {
		write = updating(old.Revision)
	}
	p, err := parseBag(body.Properties)
	if err != nil {
		return nil, err
	}
	if s.Other, err = others(data); err != nil {
		return nil, err
	}
	s.Properties, s.Tags, s.State = p.drop("provisioningState").store(), body.Tags, arm.Succeeded
	if body.Location != "" {
		s.Location = arm.NormalLocation(body.Location)
	}
	return k.commitSource(s, old, write, body.Identity)
}

// parentSource demands that what a nested resource lies under exists.
func (k *call) parentSource() error {
	parent := k.id.Parent()
	if !parent.IsResource() {
		return nil
	}
	_, err := store.Get[store.Source](k.ctx, k.Store, store.ResourceKey(parent.String()))
	return missing(err, arm.NoParent(parent))
}

// commitSource stores a source with what its identity becomes: made, kept, or
// taken away, which ends what its bindings allow.
func (k *call) commitSource(s store.Source, old store.Item[store.Source], write func(store.Record) store.Op, identity *struct{ Type string }) (*answer, error) {
	ops, err := k.identityOps(&s, identity)
	if err != nil {
		return nil, err
	}
	provided, err := k.complete(&s, &old.Value)
	if err != nil {
		return nil, err
	}
	ops = append(ops, provided...)
	s.Stamp = k.stamp(s.Stamp, &k.caller)
	commit := func(more ...store.Op) (int64, error) {
		return k.commit(k.durable(), append(append(k.within(write(s)), ops...), more...)...)
	}
	if old.Value.Identity != nil && s.Identity == nil {
		err = k.bereave(k.durable(), &s, "lost its system-assigned identity", func(more []store.Op) error {
			_, err := commit(more...)
			return err
		})
	} else {
		_, err = commit()
	}
	if err != nil {
		return nil, err
	}
	return ok(bodyOfSource(&s)), nil
}

// identityOps sets the source's identity to what a body asks for, and returns
// the changes that go with it. A body that says nothing keeps what is there.
func (k *call) identityOps(s *store.Source, identity *struct{ Type string }) ([]store.Op, error) {
	if identity == nil {
		return nil, nil
	}
	switch strings.ReplaceAll(trust.Fold(identity.Type), " ", "") {
	case "systemassigned":
		if s.Identity != nil {
			return nil, nil
		}
		s.Identity = &store.SystemIdentity{PrincipalID: newUID(), TenantID: k.Tenant, ClientID: newUID()}
		return []store.Op{store.Create(store.Identity{
			ClientID: s.Identity.ClientID, ObjectID: s.Identity.PrincipalID, TenantID: k.Tenant, Kind: "ManagedIdentity",
			ResourceID: s.ID, DisplayName: nameOf(s.ID), Stamp: k.stamp(store.Stamp{}, &k.caller),
		})}, nil
	case "none", "":
		ops, err := k.identityGone(k.ctx, s)
		s.Identity = nil
		return ops, err
	}
	return nil, arm.BadParameter("identity.type", "'%.64s' is not supported; it may be SystemAssigned or None", identity.Type)
}

// identityGone removes an identity, its federated credentials and its
// certificates.
func (c *Control) identityGone(ctx context.Context, s *store.Source) ([]store.Op, error) {
	if isPeople(s) {
		g, err := peopleGroupOf(s)
		return []store.Op{store.Delete(store.RegisteredGroup{PrincipalID: g.PrincipalID}.Key(), 0)}, err
	}
	if s.Identity == nil {
		return nil, nil
	}
	identity := store.Identity{ClientID: s.Identity.ClientID}
	ops := []store.Op{store.Delete(identity.Key(), 0)}
	federated, rev, err := store.List[store.Federated](ctx, c.Store, federatedPrefix(s))
	if err != nil {
		return nil, err
	}
	for _, f := range federated {
		ops = append(ops, store.Delete(f.Value.Key(), 0))
	}
	certificates, crev, err := store.List[store.Certificate](ctx, c.Store, certificatePrefix(s))
	for _, r := range certificates {
		ops = append(ops, store.Delete(r.Value.Key(), 0))
	}
	return append(ops, store.Quiet(federatedPrefix(s), rev), store.Quiet(certificatePrefix(s), crev)), err
}

// patchSource changes tags, identity, and the members of properties and of the
// top level that it names; null removes one (RFC 7396, one level deep).
func (k *call) patchSource() (*answer, error) {
	var body struct {
		Tags       *map[string]string
		Identity   *struct{ Type string }
		Properties json.RawMessage
	}
	data, err := k.decode(&body)
	if err != nil {
		return nil, err
	}
	old, err := k.findSource()
	if err != nil {
		return nil, err
	}
	if old.Revision == 0 {
		return nil, arm.NoResource(k.id)
	}
	if err := k.conditions(old.Revision); err != nil {
		return nil, err
	}
	s := old.Value
	if body.Tags != nil {
		if err := checkTags(*body.Tags); err != nil {
			return nil, err
		}
		s.Tags = *body.Tags
	}
	properties, err := parseBag(body.Properties)
	if err != nil {
		return nil, err
	}
	if s.Properties, err = patched(s.Properties, properties.drop("provisioningState")); err != nil {
		return nil, err
	}
	more, err := parseBag(data)
	if err != nil {
		return nil, err
	}
	if s.Other, err = patched(s.Other, more.drop(notOther...)); err != nil {
		return nil, err
	}
	return k.commitSource(s, old, updating(old.Revision), body.Identity)
}

// removeSource deletes a source, what lies under it, its identity, and what its
// bindings allow, in one transaction each.
func (k *call) removeSource() (*answer, error) {
	s, err := k.findSource()
	if err != nil {
		return nil, err
	}
	if s.Revision == 0 {
		return empty(http.StatusNoContent), nil
	}
	if err := k.conditions(s.Revision); err != nil {
		return nil, err
	}
	if err := k.dropSource(k.durable(), s); err != nil {
		return nil, err
	}
	return empty(http.StatusOK), nil
}

// dropSource deletes a source after its children.
func (c *Control) dropSource(ctx context.Context, s store.Item[store.Source]) error {
	children, _, err := store.List[store.Source](ctx, c.Store, s.Value.Key()+"/")
	if err != nil {
		return err
	}
	for i := len(children) - 1; i >= 0; i-- { // the deepest last in key order
		if err := c.dropOne(ctx, children[i]); err != nil {
			return err
		}
	}
	return c.dropOne(ctx, s)
}

func (c *Control) dropOne(ctx context.Context, s store.Item[store.Source]) error {
	ops, err := c.identityGone(ctx, &s.Value)
	if err != nil {
		return err
	}
	assignments, err := c.attachedBelow(ctx, s.Value.ID)
	if err != nil {
		return err
	}
	ops = append(append(ops, store.Delete(s.Value.Key(), s.Revision)), assignments...)
	return c.bereave(ctx, &s.Value, "was deleted", func(more []store.Op) error {
		_, err := c.commit(ctx, append(ops, more...)...)
		return err
	})
}

// bereave commits, together with what commit is given, that the bindings of a
// source let nobody through until they are consented to again, and tells their
// clusters' agents. A source made anew has another oid and is another one.
func (c *Control) bereave(ctx context.Context, s *store.Source, what string, commit func([]store.Op) error) error {
	var err error
	for range attempts {
		var ch change
		if err = c.orphans(ctx, &ch, s, what); err != nil {
			return err
		}
		err = commit(ch.ops)
		var conflict *store.ConflictError
		// A binding of the source changed meanwhile: look again. Anything else
		// is the caller's own conflict.
		if !errors.As(err, &conflict) || !strings.HasPrefix(conflict.Key, store.UsesPrefix) && !(store.Binding{}).Owns(conflict.Key) {
			return err
		}
	}
	return err
}

// change collects what one transaction does, and touches each mandate once.
type change struct {
	ops     []store.Op
	touched map[trust.ClusterUID]bool
}

func (ch *change) add(ops ...store.Op) { ch.ops = append(ch.ops, ops...) }

func (ch *change) touch(m store.Mandate) {
	if ch.touched[m.Cluster] {
		return
	}
	if ch.touched == nil {
		ch.touched = map[trust.ClusterUID]bool{}
	}
	ch.touched[m.Cluster] = true
	ch.add(store.Put(m))
}

// orphans adds the changes to the bindings of a source.
func (c *Control) orphans(ctx context.Context, ch *change, s *store.Source, what string) error {
	prefix := store.UsePrefix(s.ID)
	uses, rev, err := store.List[store.Use](ctx, c.Store, prefix)
	if err != nil {
		return err
	}
	ch.add(store.Quiet(prefix, rev))
	for _, u := range uses {
		b, err := store.Get[store.Binding](ctx, c.Store, store.ResourceKey(u.Value.BindingID))
		if trust.KindOf(err) == trust.NotFound || err == nil && b.Value.UID != u.Value.BindingUID {
			continue
		}
		if err != nil {
			return err
		}
		r := b.Value
		if r.Source == (trust.Principal{}) {
			continue
		}
		r.Source, r.Grants, r.Desired, r.Operation, r.State = trust.Principal{}, nil, nil, "", arm.Failed
		r.Problem = &store.Failure{Code: "SourceNotFound", Target: "properties.sourceResourceId",
			Message: "The source resource " + r.SourceID + " " + what + ", so this binding lets nobody through. Create or update the binding again to consent to the source that has the name now."}
		ch.add(store.Update(r, b.Revision))
		ch.touch(store.Mandate{Cluster: r.ClusterUID, ClusterID: r.ClusterID})
	}
	return nil
}
