package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/declared"
	"github.com/sallyport/sallyport/trust"
)

// carryOut makes the changes, each a single write, and tells whether any
// failed. What needs a resource that failed is left alone. Deletions do not
// depend on anything else's success: they take access away.
func (p *plan) carryOut(ctx context.Context, noWait bool) bool {
	lost := map[string]bool{} // folded ids of what failed or was skipped
	for _, c := range p.changes {
		if c.action == unchanged || ctx.Err() != nil {
			continue
		}
		if need := c.missing(lost); need != "" {
			lost[trust.Fold(c.id)] = true
			c.action, c.why = skipped, need+" is not there"
			continue
		}
		p.app.busy.doing(fmt.Sprintf("%s %s", c.action, c.id), "")
		var err error
		if c.started, err = p.write(ctx, c); err == nil && c.kind != declared.KindBinding && c.action != toDelete {
			_, err = c.started.Wait(ctx, nil) // what comes next needs it
		}
		if err != nil {
			lost[trust.Fold(c.id)] = true
			p.fail(c, err)
			continue
		}
		c.action = map[string]string{toCreate: created, toUpdate: updated, toDelete: deleted}[c.action]
	}
	if !noWait {
		p.await(ctx)
	}
	for _, c := range p.changes {
		if c.action == failed || c.action == skipped {
			return true
		}
	}
	return false
}

// await follows what was begun to its end: what takes access away first.
func (p *plan) await(ctx context.Context) {
	for _, first := range []bool{true, false} {
		for _, c := range p.changes {
			if c.started == nil || (c.action == deleted) != first || c.action == failed || ctx.Err() != nil {
				continue
			}
			if _, err := p.app.wait(ctx, "Waiting for "+c.id, c.started); err != nil {
				p.fail(c, err)
			}
		}
	}
}

// fail reports one change's failure when it happens.
func (p *plan) fail(c *change, err error) {
	where := ""
	if c.object != nil {
		where = fmt.Sprintf("%s:%d: ", c.object.File, c.object.Line)
	}
	c.action, c.why = failed, message(err)
	p.app.busy.pause(func() {
		fmt.Fprintf(p.app.err, "%s%s%s %s: %s\n", p.app.color(red, "ERROR: "), where, c.kind, c.id, sentence(c.why))
	})
}

// missing is something that the change needs and that is lost, "" if nothing is.
func (c *change) missing(lost map[string]bool) string {
	if c.object == nil {
		return ""
	}
	for _, id := range c.object.Needs {
		if lost[trust.Fold(id)] {
			return id
		}
	}
	return ""
}

// write sends a change's one request.
func (p *plan) write(ctx context.Context, c *change) (*client.Operation, error) {
	version := versionOfKind(c.kind)
	if c.object == nil {
		return p.app.arm.Delete(ctx, c.id, version)
	}
	r := client.Request{Method: http.MethodPut, Path: c.id, Version: version}
	var err error
	switch want := c.object.Spec.(type) {
	case *declared.Group:
		body := map[string]any{"tags": p.tags(c, want.Tags)}
		if c.live != nil {
			r.Method = http.MethodPatch
		} else {
			body["location"] = want.Location
		}
		r.Body = body
	case *declared.Source:
		body := map[string]any{"tags": p.tags(c, want.Tags), "identity": client.Identity{Type: "SystemAssigned"}}
		if c.live != nil {
			r.Method = http.MethodPatch // what another program keeps in it stays
		} else {
			body["properties"] = struct{}{}
			body["location"], err = p.locationFor(ctx, want.Location, c.id)
		}
		r.Body = body
	case *declared.Cluster:
		r.Body, err = p.clusterBody(ctx, c, want, &r)
	case *declared.Role:
		properties := p.properties(c, "sourceResourceType", "roleName", "revision", "outlivesRevocation")
		properties["sourceResourceType"], properties["rules"] = trust.RoleName(want.Name).SourceType(), wireRules(want.TrustRules())
		r.Body = map[string]any{"properties": properties}
	case *declared.Federated:
		var body client.FederatedCredential
		body.Properties.Issuer, body.Properties.Subject, body.Properties.Audiences = want.Issuer, want.Subject, want.Audiences
		body.Properties.Keys, err = want.KeySet()
		r.Body = body
	case *declared.Binding:
		properties := p.properties(c, "provisioningState", "reason", "error")
		properties["sourceResourceId"], properties["roles"] = want.SourceResourceID, want.Roles
		r.Body = map[string]any{"properties": properties}
	}
	if err != nil {
		return nil, err
	}
	if c.live == nil {
		r.Header = ifNone()
	}
	o, err := p.app.arm.Begin(ctx, r)
	if unmet(err) {
		err = trust.Errorf(trust.Conflict, "somebody else has written it since the plan was made; apply again")
	}
	return o, err
}

// tags are those that the file declares, or those that are there, and the mark.
func (p *plan) tags(c *change, want map[string]string) map[string]string {
	out := map[string]string{}
	if want != nil {
		maps.Copy(out, want)
	} else if c.live != nil {
		switch have := c.live.Spec.(type) {
		case *declared.Group:
			maps.Copy(out, have.Tags)
		case *declared.Source:
			maps.Copy(out, have.Tags)
		case *declared.Cluster:
			maps.Copy(out, have.Tags)
		}
	}
	if mark := p.mark(c); mark != "" {
		out[declared.SetTag] = mark
	}
	return out
}

// mark is the set that will keep a resource: without --set, the one that does.
func (p *plan) mark(c *change) string {
	if p.set == "" && c.live != nil {
		return c.live.Set
	}
	return p.set
}

// properties are those that are there, less what the server makes up, with the
// mark.
func (p *plan) properties(c *change, readOnly ...string) map[string]any {
	out := map[string]any{}
	if c.live != nil {
		var body struct{ Properties map[string]any }
		if json.Unmarshal(c.live.Raw, &body) == nil && body.Properties != nil {
			out = body.Properties
		}
	}
	for _, k := range readOnly {
		delete(out, k)
	}
	if mark := p.mark(c); mark != "" {
		out[declared.SetTag] = mark
	}
	return out
}

// clusterBody is a cluster's registration with the file's parts changed, under
// the condition that nobody changes it meanwhile.
func (p *plan) clusterBody(ctx context.Context, c *change, want *declared.Cluster, r *client.Request) (map[string]any, error) {
	body, properties := map[string]any{}, map[string]any{}
	if c.live != nil {
		if err := json.Unmarshal(c.live.Raw, &body); err != nil {
			return nil, err
		}
		if have, ok := body["properties"].(map[string]any); ok {
			properties = have
		}
		if tag, ok := body["eTag"].(string); ok {
			r.Header = http.Header{"If-Match": {tag}}
		}
	} else {
		location, err := p.locationFor(ctx, want.Location, c.id)
		if err != nil {
			return nil, err
		}
		body["location"] = location
	}
	if want.DisableLocalAccounts != nil {
		properties["disableLocalAccounts"] = *want.DisableLocalAccounts
	}
	if want.AuthorizedIPRanges != nil {
		profile, _ := properties["apiServerAccessProfile"].(map[string]any)
		if profile == nil {
			profile = map[string]any{}
		}
		profile["authorizedIPRanges"] = want.AuthorizedIPRanges
		properties["apiServerAccessProfile"] = profile
	}
	body["properties"], body["tags"] = properties, p.tags(c, want.Tags)
	return body, nil
}

// locationFor is a declared location, or that of the resource's group.
func (p *plan) locationFor(ctx context.Context, location, id string) (string, error) {
	parsed, err := arm.ParseID(id)
	if err != nil || location != "" || parsed.Group == "" {
		return location, err
	}
	return p.app.locationOr(ctx, "", parsed.Group)
}

// listedResource is a source as the subscription's or a group's list has it.
type listedResource struct {
	id  string
	raw json.RawMessage
}

// sourcesOf are the resources at a scope that bindings can name.
func (a *app) sourcesOf(ctx context.Context, scope string) ([]listedResource, error) {
	list, err := a.arm.List(ctx, scope+"/resources", client.ResourcesVersion)
	if err != nil {
		return nil, err
	}
	var out []listedResource
	for _, raw := range list {
		id, err := idOf(raw)
		if err != nil {
			return nil, err
		}
		if parsed, err := arm.ParseID(id); err == nil && !strings.EqualFold(parsed.Type(), "Microsoft.ContainerService/managedClusters") {
			out = append(out, listedResource{id, raw})
		}
	}
	return out, nil
}

func idOf(raw json.RawMessage) (string, error) {
	var r struct{ ID string }
	if err := json.Unmarshal(raw, &r); err != nil || r.ID == "" {
		return "", trust.Errorf(trust.Internal, "the server listed something without an id")
	}
	return r.ID, nil
}
