package control

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const providerType = "Microsoft.Resources/providers"

// The states of a registration.
const (
	registered    = "Registered"
	registering   = "Registering"
	unregistered  = "Unregistered"
	notRegistered = "NotRegistered"
)

// free are the providers that need no registration.
var free = []string{"Microsoft.Resources", "Microsoft.Authorization", "Microsoft.Features", "Microsoft.Insights"}

func (c *Control) providerRoutes() []*route {
	const all = "/subscriptions/{subscription}/providers"
	r := func(method, pattern, action string, drop int, handle func(*call) (*answer, error)) *route {
		return &route{method: method, pattern: pattern, typ: providerType, versions: arm.Resources, drop: drop, action: action, need: needSubscription, handle: handle}
	}
	tenant := func(pattern string, drop int, handle func(*call) (*answer, error)) *route {
		return &route{method: "GET", pattern: pattern, typ: providerType, versions: arm.Resources, drop: drop, action: anybody, handle: handle}
	}
	return []*route{
		tenant("/providers", 1, (*call).listProviders),
		tenant("/providers/{namespace}", 2, (*call).getProvider),
		r("GET", all, subscriptionType+"/providers/read", 1, (*call).listProviders),
		r("GET", all+"/{namespace}", subscriptionType+"/providers/read", 2, (*call).getProvider),
		r("POST", all+"/{namespace}/register", handlerAsks, 3, func(k *call) (*answer, error) { return k.setProvider(true) }),
		r("POST", all+"/{namespace}/unregister", handlerAsks, 3, func(k *call) (*answer, error) { return k.setProvider(false) }),
		r("GET", all+"/{namespace}/resourceTypes", subscriptionType+"/providers/read", 3, (*call).listResourceTypes),
	}
}

// provider is a namespace with its types, by name, each with its api-versions.
type provider struct {
	namespace string
	types     map[string]arm.Versions
}

// anyVersion are what a type shows that answers to every well-formed
// api-version: generic clients choose one of them.
var anyVersion = arm.Versions{Known: []string{"2025-01-01", "2024-04-01", "2023-05-01", "2022-10-01", "2021-03-01"}}

// providers are the namespaces of what is served here: the types of the route
// table, and the types of sources that some role speaks of.
func (k *call) providers() ([]provider, error) {
	found := map[string]provider{}
	add := func(typ string, v arm.Versions) {
		namespace, name, ok := strings.Cut(typ, "/")
		if !ok {
			return
		}
		p, seen := found[trust.Fold(namespace)]
		if !seen {
			p = provider{namespace, map[string]arm.Versions{}}
			found[trust.Fold(namespace)] = p
		}
		if _, seen := p.types[name]; !seen && len(v.Known) > 0 {
			p.types[name] = v
		}
	}
	for _, rt := range k.routes {
		add(rt.typ, rt.versions)
	}
	for _, p := range k.Providers {
		add(p.Namespace+"/"+p.Tracked, p.Versions)
	}
	roles, err := k.roles()
	if err != nil {
		return nil, err
	}
	for _, r := range roles {
		add(r.SourceType, anyVersion)
	}
	all := slices.Collect(maps.Values(found))
	slices.SortFunc(all, func(a, b provider) int { return strings.Compare(trust.Fold(a.namespace), trust.Fold(b.namespace)) })
	return all, nil
}

// knownProvider finds a provider by any casing of its namespace.
func (k *call) knownProvider(namespace string) (provider, error) {
	all, err := k.providers()
	if err != nil {
		return provider{}, err
	}
	if i := slices.IndexFunc(all, func(p provider) bool { return is(p.namespace, namespace) }); i >= 0 {
		return all[i], nil
	}
	return provider{}, arm.Errorf(trust.NotFound, arm.InvalidResourceNamespace, "The resource namespace '%.100s' is invalid.", namespace)
}

// registrations reads what the subscription registered; the zero record if
// nothing ever was.
func (k *call) registrations() (store.Item[store.Registrations], error) {
	empty := store.Registrations{Subscription: k.subscription.Value.ID[len("/subscriptions/"):]}
	item, err := store.Get[store.Registrations](k.ctx, k.Store, empty.Key())
	if trust.KindOf(err) == trust.NotFound {
		return store.Item[store.Registrations]{Value: empty}, nil
	}
	return item, err
}

// providerState is what a provider's registration shows. Registering takes no
// time here: what a POST stored is in force with its commit.
func (k *call) providerState(namespace string, r *store.Registrations) string {
	if slices.Contains(free, namespace) {
		return registered
	}
	switch asked, there := r.Providers[trust.Fold(namespace)]; {
	case !there && k.DemandRegistration:
		return notRegistered
	case there && !asked.Registered:
		return unregistered
	}
	return registered
}

type providerBody struct {
	ID        string             `json:"id"`
	Namespace string             `json:"namespace"`
	Policy    string             `json:"registrationPolicy,omitempty"`
	State     string             `json:"registrationState,omitempty"`
	Types     []providerTypeBody `json:"resourceTypes"`
}

type providerTypeBody struct {
	Type         string   `json:"resourceType"`
	Locations    []string `json:"locations"`
	Versions     []string `json:"apiVersions"`
	Default      string   `json:"defaultApiVersion,omitempty"`
	Capabilities string   `json:"capabilities"`
}

// bodyOfProvider shows a provider; r is nil outside a subscription.
func (k *call) bodyOfProvider(p provider, r *store.Registrations) providerBody {
	b := providerBody{ID: strings.TrimSuffix(k.id.String(), "/") + "/providers/" + p.namespace, Namespace: p.namespace, Types: []providerTypeBody{}}
	if r != nil {
		b.Policy, b.State = "RegistrationRequired", k.providerState(p.namespace, r)
		if slices.Contains(free, p.namespace) {
			b.Policy = "RegistrationFree"
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.types)) {
		v := p.types[name]
		locations := k.Locations
		if v.Tenant {
			locations = []string{}
		}
		t := providerTypeBody{Type: name, Locations: locations, Versions: v.Known, Capabilities: "None"}
		if i := slices.IndexFunc(v.Known, func(s string) bool { return !strings.HasSuffix(s, "-preview") }); i >= 0 {
			t.Default = v.Known[i]
		}
		b.Types = append(b.Types, t)
	}
	return b
}

// scoped are the registrations of the request's subscription, nil outside one.
func (k *call) scoped() (*store.Registrations, error) {
	if k.id.Subscription == "" {
		return nil, nil
	}
	item, err := k.registrations()
	return &item.Value, err
}

func (k *call) listProviders() (*answer, error) {
	r, err := k.scoped()
	if err != nil {
		return nil, err
	}
	all, err := k.providers()
	if err != nil {
		return nil, err
	}
	list := make([]providerBody, 0, len(all))
	for _, p := range all {
		list = append(list, k.bodyOfProvider(p, r))
	}
	return ok(arm.NewList(list, "")), nil
}

func (k *call) getProvider() (*answer, error) {
	p, err := k.knownProvider(k.vars["namespace"])
	if err != nil {
		return nil, err
	}
	r, err := k.scoped()
	if err != nil {
		return nil, err
	}
	return ok(k.bodyOfProvider(p, r)), nil
}

// listResourceTypes shows the types of a provider by themselves.
func (k *call) listResourceTypes() (*answer, error) {
	p, err := k.knownProvider(k.vars["namespace"])
	if err != nil {
		return nil, err
	}
	return ok(arm.NewList(k.bodyOfProvider(p, nil).Types, "")), nil
}

// setProvider registers a provider or takes that back. Asking again for what is
// so is no error.
func (k *call) setProvider(want bool) (*answer, error) {
	action := "/unregister/action"
	if want {
		action = "/register/action"
	}
	if err := k.may(k.vars["namespace"]+action, k.id); err != nil {
		return nil, err
	}
	if err := k.demandUnlocked(); err != nil {
		return nil, err
	}
	p, err := k.knownProvider(k.vars["namespace"])
	if err != nil {
		return nil, err
	}
	r, err := k.register(func(r *store.Registrations) map[string]store.Registration { return r.Providers }, p.namespace, want)
	if err != nil {
		return nil, err
	}
	return ok(k.bodyOfProvider(p, r)), nil
}

// register stores that name was registered or unregistered, unless it is so
// already.
func (k *call) register(part func(*store.Registrations) map[string]store.Registration, name string, want bool) (*store.Registrations, error) {
	var err error
	for range attempts {
		var item store.Item[store.Registrations]
		if item, err = k.registrations(); err != nil {
			return nil, err
		}
		r, write := item.Value, store.Create
		if item.Revision != 0 {
			write = updating(item.Revision)
		}
		if r.Providers == nil {
			r.Providers = map[string]store.Registration{}
		}
		if r.Features == nil {
			r.Features = map[string]store.Registration{}
		}
		m := part(&r)
		if now, there := m[trust.Fold(name)]; there && now.Registered == want {
			return &r, nil
		}
		m[trust.Fold(name)] = store.Registration{Registered: want, Since: k.Now().UTC()}
		_, err = k.commit(k.durable(), k.within(write(r))...)
		if err == nil {
			return &r, nil
		}
		if trust.KindOf(err) != trust.Conflict {
			return nil, err
		}
		if err := k.findSubscription(); err != nil { // it may have changed
			return nil, err
		}
		if err := subscriptionOpen(&k.subscription.Value); err != nil {
			return nil, err
		}
	}
	return nil, err
}

// demandProvider refuses requests to a provider that the subscription has not
// registered, where the installation demands that as Azure does. The status
// must be 409: Azure's clients then register the provider and ask again.
// Nothing stands between anybody and taking access away, so a DELETE passes.
func (k *call) demandProvider() error {
	if !k.DemandRegistration || k.subscription.Revision == 0 || k.route.method == http.MethodDelete {
		return nil
	}
	namespace, _, _ := strings.Cut(k.typ(), "/")
	if namespace == "" || slices.ContainsFunc(free, func(f string) bool { return is(f, namespace) }) {
		return nil
	}
	r, err := k.registrations()
	if err != nil || r.Value.Providers[trust.Fold(namespace)].Registered {
		return err
	}
	p, err := k.knownProvider(namespace)
	if trust.KindOf(err) == trust.NotFound {
		return nil // what cannot be registered need not be
	}
	if err != nil {
		return err
	}
	e := arm.Errorf(trust.Conflict, arm.MissingSubscriptionRegistration, "The subscription is not registered to use namespace '%s'. See https://aka.ms/rps-not-found for how to register subscriptions.", p.namespace)
	e.Target, e.Hint = p.namespace, "sallyport provider register --namespace "+p.namespace
	return e
}
