package control

import (
	"net/http"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// States of a subscription. Only in an enabled one is anybody let through.
const (
	subscriptionEnabled = "Enabled"
	subscriptionDeleted = "Deleted"
)

// pageSize is how many entries a list answers with at most.
const pageSize = 200

func (c *Control) subscriptionRoutes() []*route {
	const one = "/subscriptions/{subscription}"
	return []*route{
		{method: "GET", pattern: "/tenants", typ: "Microsoft.Resources/tenants", versions: arm.Resources, drop: 1, action: anybody, handle: (*call).listTenants},
		{method: "GET", pattern: "/subscriptions", typ: subscriptionType, versions: arm.Resources, drop: 1, action: anybody, handle: (*call).listSubscriptions},
		{method: "GET", pattern: one, typ: subscriptionType, versions: arm.Resources, action: subscriptionType + "/read", need: needSubscription,
			handle: (*call).getSubscription},
		// The right to make and remove subscriptions is one at the root.
		{method: "PUT", pattern: one, typ: subscriptionType, versions: arm.Resources, drop: 2, action: subscriptionType + "/write",
			handle: (*call).putSubscription},
		{method: "DELETE", pattern: one, typ: subscriptionType, versions: arm.Resources, drop: 2, action: subscriptionType + "/delete",
			handle: (*call).removeSubscription},
		{method: "GET", pattern: one + "/locations", typ: "Microsoft.Resources/subscriptions/locations", versions: arm.Resources, drop: 1,
			action: subscriptionType + "/locations/read", need: needSubscription, handle: (*call).listLocations},
	}
}

type subscriptionBody struct {
	ID                  string            `json:"id"`
	SubscriptionID      string            `json:"subscriptionId"`
	TenantID            string            `json:"tenantId"`
	DisplayName         string            `json:"displayName"`
	State               string            `json:"state"`
	AuthorizationSource string            `json:"authorizationSource"`
	Policies            map[string]string `json:"subscriptionPolicies"`
	ManagedByTenants    []string          `json:"managedByTenants"`
}

func (c *Control) subscriptionBody(s *store.Subscription) subscriptionBody {
	return subscriptionBody{
		ID: s.ID, SubscriptionID: s.ID[len("/subscriptions/"):], TenantID: c.Tenant, DisplayName: s.DisplayName, State: s.State,
		AuthorizationSource: "RoleBased", ManagedByTenants: []string{},
		Policies: map[string]string{"locationPlacementId": "Internal_2014-09-01", "quotaId": "Internal_2014-09-01", "spendingLimit": "Off"},
	}
}

// listSubscriptions shows those in which the caller has some right.
func (k *call) listSubscriptions() (*answer, error) {
	page, err := arm.ParsePage(k.request.URL.Query(), pageSize)
	if err != nil {
		return nil, err
	}
	mine, err := k.assignments()
	if err != nil {
		return nil, err
	}
	everywhere, seen := false, map[string]bool{}
	for _, a := range mine {
		id, err := arm.ParseID(a.Scope)
		if err != nil {
			continue
		}
		everywhere = everywhere || id.IsRoot()
		seen[store.ResourceKey(id.SubscriptionID().String())] = true
	}
	all, _, err := store.List[store.Subscription](k.ctx, k.Store, "/arm/subscriptions/", store.Limit(page.Top+1), store.After(page.After),
		store.Match(func(key string) bool { return everywhere || seen[key] }))
	if err != nil {
		return nil, err
	}
	return listed(k, page, all, func(s store.Item[store.Subscription]) subscriptionBody { return k.subscriptionBody(&s.Value) }), nil
}

// listed is one page of items, of which one more than wanted was read.
func listed[T store.Record, B any](k *call, page arm.Page, items []store.Item[T], body func(store.Item[T]) B) *answer {
	next := ""
	if len(items) > page.Top {
		items = items[:page.Top]
		next = arm.NextLink(k.BaseURL, k.request.URL, items[page.Top-1].Value.Key())
	}
	values := make([]B, 0, len(items))
	for _, i := range items {
		values = append(values, body(i))
	}
	return ok(arm.NewList(values, next))
}

func (k *call) getSubscription() (*answer, error) {
	return ok(k.subscriptionBody(&k.subscription.Value)), nil
}

// putSubscription makes a subscription or renames it. Azure makes them elsewhere.
func (k *call) putSubscription() (*answer, error) {
	id := arm.ID{Subscription: k.vars["subscription"]}
	if !arm.ValidGUID(id.Subscription) {
		return nil, arm.Errorf(trust.Invalid, "InvalidSubscriptionId", "The provided subscription identifier '%.64s' is malformed or invalid.", id.Subscription)
	}
	data, err := arm.ReadBody(k.request)
	if err != nil {
		return nil, err
	}
	var body struct{ DisplayName string }
	if err := arm.Decode(data, &body); err != nil {
		return nil, err
	}
	if n := len(body.DisplayName); n == 0 || n > 64 {
		return nil, arm.BadParameter("displayName", "it must have 1 to 64 characters")
	}
	old, err := store.Get[store.Subscription](k.ctx, k.Store, store.ResourceKey(id.String()))
	if err != nil && trust.KindOf(err) != trust.NotFound {
		return nil, err
	}
	s := old.Value
	op := store.Create
	status := http.StatusCreated
	if old.Revision != 0 {
		if err := subscriptionOpen(&s); err != nil {
			return nil, err
		}
		op, status = func(r store.Record) store.Op { return store.Update(r, old.Revision) }, http.StatusOK
	} else {
		s.ID, s.State = id.String(), subscriptionEnabled
	}
	s.DisplayName, s.Stamp = body.DisplayName, k.stamp(s.Stamp, &k.caller)
	if _, err := k.commit(k.durable(), op(s)); err != nil {
		return nil, err
	}
	return &answer{status: status, body: k.subscriptionBody(&s)}, nil
}

// removeSubscription shuts a subscription, and with it everything in it, in one
// transaction; the operation removes what is in it. Azure cancels subscriptions
// elsewhere.
func (k *call) removeSubscription() (*answer, error) {
	k.id = arm.ID{Subscription: k.vars["subscription"]}
	item, err := store.Get[store.Subscription](k.ctx, k.Store, store.ResourceKey(k.id.String()))
	if err != nil {
		return nil, missing(err, arm.NoResource(k.id))
	}
	s := item.Value
	if s.State == subscriptionDeleted {
		return k.accepted(s.ID, "Microsoft.Resources", opSubscriptionDelete)
	}
	s.State, s.Stamp = subscriptionDeleted, k.stamp(s.Stamp, &k.caller)
	op, err := k.newOperation(opSubscriptionDelete, s.ID, nil)
	if err != nil {
		return nil, err
	}
	if err := k.shut(k.durable(), s.ID, store.Update(s, item.Revision), store.Create(op)); err != nil {
		return nil, err
	}
	return k.acceptedAs(op, "Microsoft.Resources"), nil
}

// subscriptionOpen refuses writes into a subscription that is being deleted.
func subscriptionOpen(s *store.Subscription) error {
	if s.State == subscriptionEnabled {
		return nil
	}
	return arm.Errorf(trust.Conflict, "ReadOnlyDisabledSubscription", "The subscription '%s' is disabled and therefore marked as read only. You cannot perform any write actions on this subscription until it is re-enabled.", nameOf(s.ID))
}

type locationBody struct {
	ID                  string            `json:"id"`
	Name                string            `json:"name"`
	Type                string            `json:"type"`
	DisplayName         string            `json:"displayName"`
	RegionalDisplayName string            `json:"regionalDisplayName"`
	Metadata            map[string]string `json:"metadata"`
}

func (k *call) listLocations() (*answer, error) {
	var list []locationBody
	for _, l := range k.Locations {
		name := arm.NormalLocation(l)
		list = append(list, locationBody{
			ID: k.id.String() + "/locations/" + name, Name: name, Type: "Region", DisplayName: l, RegionalDisplayName: l,
			Metadata: map[string]string{"regionType": "Physical", "regionCategory": "Recommended"},
		})
	}
	return ok(arm.NewList(list, "")), nil
}

type tenantBody struct {
	ID       string   `json:"id"`
	TenantID string   `json:"tenantId"`
	Name     string   `json:"displayName"`
	Category string   `json:"tenantCategory"`
	Type     string   `json:"tenantType"`
	Domains  []string `json:"domains"`
}

func (k *call) listTenants() (*answer, error) {
	return ok(arm.NewList([]tenantBody{{ID: "/tenants/" + k.Tenant, TenantID: k.Tenant, Name: "Sallyport", Category: "Home", Type: "AAD", Domains: []string{}}}, "")), nil
}
