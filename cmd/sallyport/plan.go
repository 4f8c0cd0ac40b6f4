package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/declared"
	"github.com/sallyport/sallyport/trust"
)

// What is done to a resource, and what became of it.
const (
	toCreate, created = "create", "created"
	toUpdate, updated = "update", "updated"
	toDelete, deleted = "delete", "deleted"
	unchanged         = "unchanged"
	failed, skipped   = "failed", "skipped"
)

// plan is what it takes to make a server as files declare it.
type plan struct {
	declaration
	app          *app
	subscription string
	changes      []*change // in the order in which they are made
	left         []string  // of the set, no longer declared, and not deleted
}

// change is what happens to one resource. object is nil where it is deleted.
type change struct {
	kind          declared.Kind
	id            string
	object        *declared.Object
	live          *declared.Live // nil where there is none yet
	before, after []byte         // YAML; empty where there is nothing
	action, why   string         // why it failed or was skipped
	started       *client.Operation
}

func (c *change) name() string {
	name := c.id[strings.LastIndexByte(c.id, '/')+1:]
	if c.kind == declared.KindRole {
		return strings.ReplaceAll(name, ":", "/") // as bindings write it
	}
	return name
}

func (c *change) diff() []byte {
	return diff.Diff("server"+c.id, c.before, "files"+c.id, c.after)
}

// results is the plan, or what became of it, as it is printed.
func (p *plan) results() []any {
	all := []any{}
	for _, c := range p.changes {
		r := map[string]any{"kind": c.kind, "id": c.id, "name": c.name(), "action": c.action}
		if c.why != "" {
			r["error"] = c.why
		}
		all = append(all, r)
	}
	return all
}

// doomed are the resources that will be deleted.
func (p *plan) doomed() []*change {
	return slices.DeleteFunc(slices.Clone(p.changes), func(c *change) bool { return c.action != toDelete })
}

// compare looks each object up on the server. What cannot be done at all is
// found here, before anything is.
func (p *plan) compare(ctx context.Context, objects []declared.Object) error {
	roles, err := p.knownRoles(ctx, objects)
	if err != nil {
		return err
	}
	var problems []string
	for i := range objects {
		o := &objects[i]
		c := &change{kind: o.Kind, id: o.ID, object: o, action: unchanged}
		if c.live, err = p.read(ctx, o.Kind, o.ID); err != nil {
			return err
		}
		if c.before, c.after, err = declared.Texts(c.live, o.Spec); err != nil {
			return err
		}
		if p.set != "" && o.Kind != declared.KindFederated {
			mark := func(text []byte, set string) []byte {
				return fmt.Appendf(text, "%s: %s\n", declared.SetTag, set)
			}
			if c.after = mark(c.after, p.set); c.live != nil && c.live.Set != "" {
				c.before = mark(c.before, c.live.Set)
			}
		}
		switch {
		case c.live == nil:
			c.action = toCreate
		case !bytes.Equal(c.before, c.after):
			c.action = toUpdate
		}
		if why := p.impossible(c, roles); why != "" {
			problems = append(problems, fmt.Sprintf("%s:%d: %s", o.File, o.Line, why))
		}
		p.changes = append(p.changes, c)
	}
	if len(problems) > 0 {
		return trust.Errorf(trust.Conflict, "the files cannot be applied; nothing was changed.\n%s", strings.Join(problems, "\n"))
	}
	return nil
}

// read is a resource as the server has it, nil if it has none.
func (p *plan) read(ctx context.Context, kind declared.Kind, id string) (*declared.Live, error) {
	raw, err := p.app.arm.Get(ctx, id, versionOfKind(kind))
	if notFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return declared.FromServer(kind, raw)
}

// knownRoles are the folded names of the roles that a binding may name once the
// files are applied.
func (p *plan) knownRoles(ctx context.Context, objects []declared.Object) (map[string]bool, error) {
	known := map[string]bool{}
	for _, o := range objects {
		if r, ok := o.Spec.(*declared.Role); ok {
			known[trust.Fold(r.Name)] = true
		}
	}
	locations, err := p.app.arm.Locations(ctx, p.subscription)
	if err != nil || len(locations) == 0 {
		return known, err
	}
	roles, err := p.app.arm.Roles(ctx, p.subscription, locations[0].Name)
	for _, r := range roles {
		known[trust.Fold(r.SourceResourceType+"/"+r.Name)] = true
	}
	return known, err
}

// impossible says why a change cannot be made, "" if it may be.
func (p *plan) impossible(c *change, roles map[string]bool) string {
	if b, ok := c.object.Spec.(*declared.Binding); ok {
		for _, r := range b.Roles {
			if !roles[trust.Fold(r)] {
				return fmt.Sprintf("role %q is neither published nor declared; see what there is: sallyport aks trustedaccess role list -l LOCATION", r)
			}
		}
	}
	if c.live == nil {
		return ""
	}
	if p.set != "" && c.live.Set != "" && c.live.Set != p.set && !p.adopt {
		return fmt.Sprintf("%s is kept by the set %q; give --adopt to take it over", c.id, c.live.Set)
	}
	moved := func(have, want string) string {
		if want == "" || arm.SameLocation(have, want) {
			return ""
		}
		return fmt.Sprintf("%s is in %s, and what exists cannot be moved to %s", c.id, have, want)
	}
	switch want := c.object.Spec.(type) {
	case *declared.Group:
		return moved(c.live.Spec.(*declared.Group).Location, want.Location)
	case *declared.Source:
		return moved(c.live.Spec.(*declared.Source).Location, want.Location)
	case *declared.Cluster:
		return moved(c.live.Spec.(*declared.Cluster).Location, want.Location)
	case *declared.Binding:
		if have := c.live.Spec.(*declared.Binding).SourceResourceID; !arm.SameID(have, want.SourceResourceID) {
			return fmt.Sprintf("%s is of source %s, and its source cannot be changed; delete it first, or give the new one another name", c.id, have)
		}
	}
	return ""
}

// surplus adds what the set kept and the files no longer have: bindings first,
// so that access ends before anything else does.
func (p *plan) surplus(ctx context.Context, objects []declared.Object) error {
	s := &surplus{plan: p, declared: map[string]bool{}, found: map[declared.Kind][]*change{}}
	for _, o := range objects {
		s.declared[trust.Fold(o.ID)] = true
	}
	at := "/subscriptions/" + p.subscription
	for kind, path := range map[declared.Kind]string{
		declared.KindGroup:   at + "/resourceGroups",
		declared.KindRole:    client.OwnRolesPath(p.subscription),
		declared.KindCluster: at + "/providers/Microsoft.ContainerService/managedClusters",
	} {
		if err := s.list(ctx, kind, path); err != nil {
			return err
		}
	}
	clusters, err := p.app.arm.Clusters(ctx, p.subscription, "")
	if err != nil {
		return err
	}
	for _, c := range clusters {
		if err := s.list(ctx, declared.KindBinding, client.BindingsPath(c.ID)); err != nil {
			return err
		}
	}
	sources, err := p.app.sourcesOf(ctx, at)
	if err != nil {
		return err
	}
	for _, l := range sources {
		if err := s.consider(declared.KindSource, l.id, l.raw); err != nil {
			return err
		}
	}
	if err := s.credentials(ctx); err != nil {
		return err
	}
	for _, k := range []declared.Kind{declared.KindBinding, declared.KindFederated, declared.KindSource, declared.KindRole} {
		slices.SortStableFunc(s.found[k], func(a, b *change) int { return strings.Count(b.id, "/") - strings.Count(a.id, "/") })
		p.changes = append(p.changes, s.found[k]...)
	}
	for _, k := range []declared.Kind{declared.KindCluster, declared.KindGroup} {
		for _, c := range s.found[k] {
			p.left = append(p.left, c.id)
		}
	}
	return nil
}

// surplus collects what the set kept and the files no longer have.
type surplus struct {
	*plan
	declared map[string]bool // by folded id
	found    map[declared.Kind][]*change
}

func (s *surplus) list(ctx context.Context, kind declared.Kind, path string) error {
	for raw, err := range s.app.arm.Pages(ctx, path, versionOfKind(kind)) {
		if err != nil {
			return err
		}
		id, err := idOf(raw)
		if err != nil {
			return err
		}
		if err := s.consider(kind, id, raw); err != nil {
			return err
		}
	}
	return nil
}

func (s *surplus) consider(kind declared.Kind, id string, raw json.RawMessage) error {
	live, err := declared.FromServer(kind, raw)
	if err != nil || s.declared[trust.Fold(id)] || kind != declared.KindFederated && live.Set != s.set {
		return err
	}
	switch spec := live.Spec.(type) {
	case *declared.Source:
		spec.Identity = "" // lists do not tell
	case *declared.Federated:
		if spec.Reserved() {
			return nil
		}
	}
	c := &change{kind: kind, id: id, live: live, action: toDelete}
	c.before, err = declared.Text(live.Spec)
	s.found[kind] = append(s.found[kind], c)
	return err
}

// credentials looks at the federated credentials of sources whose file says
// which they have.
func (s *surplus) credentials(ctx context.Context) error {
	for _, c := range s.changes {
		want, ok := c.object.Spec.(*declared.Source)
		if !ok || want.FederatedCredentials == nil || c.live == nil || c.live.Spec.(*declared.Source).Identity != "" {
			continue
		}
		if err := s.list(ctx, declared.KindFederated, client.FederatedPath(c.id)); err != nil {
			return err
		}
	}
	return nil
}

// remark says what a person should know before, or instead of, the changes.
func (p *plan) remark() {
	a := p.app
	for _, id := range p.left {
		a.warn("%s is no longer in the files and is left: deleting it deletes all that is in it", id)
	}
	for _, c := range p.changes {
		if c.object == nil {
			continue
		}
		switch want := c.object.Spec.(type) {
		case *declared.Role:
			if c.action != unchanged {
				for _, why := range trust.OutlivesRevocation(want.TrustRules()) {
					a.warn("role %s outlives revocation: %s", want.Name, why)
				}
			}
		case *declared.Binding:
			p.remarkBinding(c, want)
		}
	}
}

func (p *plan) remarkBinding(c *change, want *declared.Binding) {
	if c.live == nil {
		return
	}
	for _, r := range c.live.Spec.(*declared.Binding).Roles {
		if !slices.ContainsFunc(want.Roles, func(n string) bool { return strings.EqualFold(n, r) }) {
			p.app.warn("role %s is dropped from %s: what %s does under it ends then", r, c.id, want.SourceResourceID)
		}
	}
	switch {
	case c.live.Problem == "":
	case c.action == unchanged:
		p.app.warn("role binding %s lets nobody through, and stays so: %s", c.id, c.live.Problem)
	default:
		p.app.warn("role binding %s lets nobody through now (%s); changing it consents to the source that has the name today", c.id, c.live.Problem)
	}
}
