package control

import (
	"math"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// passwordTries are how often one user may be asked about in a change of
// password, right or wrong: as often as in a sign-in.
var passwordTries = Bucket{Burst: 10, PerSecond: 1.0 / 60}

// changePassword gives the caller another password, for the present one. It ends
// all sessions, the caller's own too: whoever else has one is signed out. It
// takes no right but to be that user.
func (k *call) changePassword() (*answer, error) {
	const action = userType + "/changePassword/action"
	k.entry.Action = action
	u, err := store.Get[store.User](k.ctx, k.Store, store.User{Name: k.caller.Name}.Key())
	if err != nil && trust.KindOf(err) != trust.NotFound {
		return nil, err
	}
	if err != nil || k.caller.ResourceID != "" || trust.Fold(u.Value.ObjectID) != trust.Fold(k.caller.Object) || !is(u.Value.Name, k.vars["user"]) {
		return nil, arm.NotAuthorized(k.client(), k.caller.Object, action, k.id.String())
	}
	var body struct{ CurrentPassword, NewPassword string }
	data, err := arm.ReadBody(k.request)
	if err != nil {
		return nil, err
	}
	if err := arm.Decode(data, &body); err != nil {
		return nil, err
	}
	if k.HashPassword == nil || k.VerifyPassword == nil || arm.ValidGUID(u.Value.Name) {
		return nil, arm.Errorf(trust.Unsupported, arm.NotSupported, "The user '%s' has no password here.", u.Value.Name)
	}
	if _, wait := k.meters.take(meterKey{caller: k.caller.Object, class: classPassword}, k.Now()); wait > 0 {
		return nil, &throttled{after: wait, cause: trust.Errorf(trust.Throttled, "There were too many attempts to change the password. Try again in %d seconds.", int(math.Ceil(wait.Seconds())))}
	}
	have, err := store.Get[store.Password](k.ctx, k.Store, store.Password{Name: u.Value.Name}.Key())
	if err != nil {
		return nil, missing(err, arm.Errorf(trust.Unsupported, arm.NotSupported, "The user '%s' has no password here.", u.Value.Name))
	}
	switch {
	case !k.VerifyPassword(have.Value.Hash, body.CurrentPassword):
		return nil, arm.BadParameter("currentPassword", "it is not the user's password")
	case body.NewPassword == body.CurrentPassword:
		return nil, arm.BadParameter("newPassword", "it is the present password")
	}
	hash, err := k.HashPassword(body.NewPassword)
	if trust.KindOf(err) == trust.Invalid {
		return nil, arm.BadParameter("newPassword", "%s", err)
	}
	if err != nil {
		return nil, err
	}
	v, now := u.Value, k.Now().UTC()
	v.SessionsFrom, v.Stamp = now, k.stamp(v.Stamp, &k.caller)
	if _, err := k.commit(k.durable(), store.Update(v, u.Revision), store.Update(store.Password{Name: v.Name, Hash: hash, Set: now}, have.Revision)); err != nil {
		return nil, err
	}
	return ok(bodyOfUser(&v)), nil
}
