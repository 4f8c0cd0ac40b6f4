package control

import (
	"context"
	"errors"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// First is what the first start of an installation is given. The zero value
// chooses everything anew.
type First struct {
	Tenant       string // GUID; default: a new one
	Subscription string // GUID; default: a new one
	DisplayName  string // of the subscription; default "Sallyport"
}

// Bootstrap makes, in one transaction, what an installation begins with: its
// tenant, a subscription, and one administrator, an application identity that
// is Owner at "/". Nobody else may do anything. On an installation that exists
// it changes nothing and returns what is there; made tells the two apart. It
// runs before New, which needs the tenant; the administrator's secret is the
// authority's to make.
func Bootstrap(ctx context.Context, s *store.Store, now func() time.Time, first First) (installation store.Installation, made bool, err error) {
	item, err := store.Get[store.Installation](ctx, s, store.Installation{}.Key())
	if trust.KindOf(err) != trust.NotFound || err == nil {
		return item.Value, false, err
	}
	if first.Tenant == "" {
		first.Tenant = newUID()
	}
	if first.Subscription == "" {
		first.Subscription = newUID()
	}
	if first.DisplayName == "" {
		first.DisplayName = "Sallyport"
	}
	if !arm.ValidGUID(first.Tenant) || !arm.ValidGUID(first.Subscription) {
		return store.Installation{}, false, trust.Errorf(trust.Invalid, "tenant and subscription must be GUIDs")
	}
	at := now().UTC()
	stamp := store.Stamp{CreatedBy: "sallyport", CreatedByType: "Application", CreatedAt: at, LastModifiedBy: "sallyport", LastModifiedByType: "Application", LastModifiedAt: at}
	admin := store.Identity{ClientID: newUID(), ObjectID: newUID(), TenantID: trust.Fold(first.Tenant), Kind: "Application", DisplayName: "administrator", Stamp: stamp}
	owner := builtInByID(ownerGUID)
	installation = store.Installation{TenantID: admin.TenantID, Epoch: 1, Subscription: trust.Fold(first.Subscription), AdminClientID: admin.ClientID, Created: at}
	_, err = s.Commit(ctx,
		store.Create(installation),
		store.Create(store.Subscription{ID: "/subscriptions/" + installation.Subscription, DisplayName: first.DisplayName, State: "Enabled", Stamp: stamp}),
		store.Create(admin),
		store.Create(store.RoleAssignment{
			ID: "/providers/" + assignmentType + "/" + newUID(), Scope: "/", RoleDefinitionID: owner.id(arm.ID{}),
			PrincipalID: admin.ObjectID, PrincipalType: "ServicePrincipal", Stamp: stamp,
		}),
	)
	if errors.Is(err, store.ErrConflict) { // another server of this installation was first
		item, err = store.Get[store.Installation](ctx, s, store.Installation{}.Key())
		return item.Value, false, err
	}
	return installation, err == nil, err
}
