package control

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
)

// Provider is a resource provider of one namespace that is not control's own.
// Control keeps its tracked resources (sources, with their identities) and asks
// who calls and whether they may; what lies below them is the provider's.
type Provider struct {
	Namespace string
	Tracked   string // the type of its sources, "workspaces"
	// Versions of the tracked type.
	Versions arm.Versions
	Types    []arm.ProvidedType
	// Serve answers a call that passed every check.
	Serve func(ctx context.Context, call *arm.Call) (*arm.Answer, error)
	// Complete checks a source before it is stored and fills in what the
	// provider says of it. old is the zero source at creation.
	Complete func(now, old *store.Source) error
	// Federate is the credential with which the provider can be the source's
	// identity. It is stored in the transaction that makes the identity.
	Federate func(s *store.Source) store.Federated
}

// providerOf finds the provider of an id's tracked type.
func (c *Control) providerOf(id arm.ID) (*Provider, bool) {
	if len(id.Chain) != 1 {
		return nil, false
	}
	i := slices.IndexFunc(c.Providers, func(p Provider) bool { return is(p.Namespace, id.Chain[0].Namespace) })
	if i < 0 {
		return nil, false
	}
	return &c.Providers[i], true
}

// mountRoutes are the routes of what providers serve.
func (c *Control) mountRoutes() []*route {
	var all []*route
	for i := range c.Providers {
		p := &c.Providers[i]
		for _, t := range p.Types {
			all = append(all, p.routes(t)...)
		}
	}
	return all
}

func (p *Provider) routes(t arm.ProvidedType) []*route {
	parts := strings.Split(t.Type, "/")
	at := "/subscriptions/{subscription}/resourceGroups/{group}/providers/" + p.Namespace + "/" + parts[0] + "/{tracked}"
	for _, part := range parts[1 : len(parts)-1] {
		at += "/" + part + "/{" + part + "}"
	}
	at += "/" + parts[len(parts)-1]
	full := p.Namespace + "/" + t.Type
	r := func(method, pattern, right, action string, drop int) *route {
		return &route{method: method, pattern: pattern, typ: full, versions: t.Versions, drop: drop, action: full + "/" + right,
			need: needSubscription | needGroup, handle: func(k *call) (*answer, error) { return k.provided(p, full, action) }}
	}
	rights := map[string]string{"GET": "read", "PUT": "write", "PATCH": "write", "DELETE": "delete"}
	var all []*route
	for _, m := range t.Methods {
		if m == http.MethodGet {
			all = append(all, r(m, at, "read", listing, 1))
		}
		all = append(all, r(m, at+"/{name}", rights[m], "", 0))
	}
	for _, a := range t.Actions {
		all = append(all, r("POST", at+"/{name}/"+a, a+"/action", a, 1))
	}
	return all
}

// listing is, in place of an action, that the path is a collection's.
const listing = "*"

// provided hands a call to its provider.
func (k *call) provided(p *Provider, typ, action string) (*answer, error) {
	tracked := clusterOf(k.id) // the first resource of the chain
	if _, err := store.Get[store.Source](k.ctx, k.Store, store.ResourceKey(tracked.String())); err != nil {
		return nil, missing(err, arm.NoParent(tracked))
	}
	c := &arm.Call{Method: k.route.method, ID: k.id, Type: typ, List: action == listing, Caller: k.caller, RequestID: k.ids.Request,
		Version: k.version, Location: k.Location, Base: k.BaseURL, URL: k.request.URL, Header: k.request.Header}
	if !c.List {
		c.Action = action
	}
	if m := c.Method; m == http.MethodPut || m == http.MethodPatch || m == http.MethodPost {
		if err := groupOpen(&k.group.Value); err != nil {
			return nil, err
		}
		var err error
		if c.Body, err = arm.ReadBody(k.request); err != nil {
			return nil, err
		}
	}
	a, err := p.Serve(k.ctx, c)
	if err != nil {
		return nil, err
	}
	return &answer{status: a.Status, body: a.Body, header: a.Header}, nil
}

// foreign tells whether a generic route's id is of a provider that is mounted,
// and of a type that it does not have.
func (c *Control) foreign(id arm.ID) bool {
	p, mounted := c.providerOf(id)
	return mounted && (len(id.Chain[0].Types) != 1 || !is(id.Chain[0].Types[0], p.Tracked))
}

// complete lets the provider of a source, if it has one, have its say before
// the source is stored, and returns what else is stored with it.
func (c *Control) complete(s, old *store.Source) ([]store.Op, error) {
	id, err := arm.ParseID(s.ID)
	if err != nil {
		return nil, err
	}
	p, mounted := c.providerOf(id)
	if !mounted {
		return nil, nil
	}
	if err := p.Complete(s, old); err != nil || s.Identity == nil {
		return nil, err
	}
	return []store.Op{store.Put(p.Federate(s))}, nil
}
