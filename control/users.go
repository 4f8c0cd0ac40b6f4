package control

import (
	"crypto/rand"
	"net/http"
	"regexp"
	"slices"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const (
	userType      = "Sallyport.Identity/users"
	maxUserGroups = 200 // what a token has room for
)

// The authority signs in whoever has a name of this form; see its own.
var userName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._@+-]{0,62}[A-Za-z0-9])?$`)

// Users are the people whom the built-in authority knows by itself. One named by
// a GUID is a person of the sign-in provider, by object id: such a one can only
// be shut out.
func (c *Control) userRoutes() []*route {
	const all = "/providers/Sallyport.Identity/users"
	r := func(method, pattern, action string, drop int, handle func(*call) (*answer, error)) *route {
		return &route{method: method, pattern: pattern, typ: userType, versions: arm.Sallyport, drop: drop, action: action, handle: handle}
	}
	// Whoever gives a user a password or a group is that user, an Owner perhaps:
	// it takes the right to assign roles, which Contributors have not.
	const write, remove = "Microsoft.Authorization/users/write", "Microsoft.Authorization/users/delete"
	return []*route{
		r("GET", all, userType+"/read", 3, (*call).listUsers),
		r("GET", all+"/{user}", userType+"/read", 0, (*call).getUser),
		r("PUT", all+"/{user}", write, 0, (*call).putUser),
		r("DELETE", all+"/{user}", remove, 0, (*call).removeUser),
		r("POST", all+"/{user}/resetPassword", write, 1, (*call).resetPassword),
		r("POST", all+"/{user}/changePassword", handlerAsks, 1, (*call).changePassword),
		r("POST", all+"/{user}/revokeSignInSessions", write, 1, (*call).revokeSessions),
	}
}

type userBody struct {
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	Type       string         `json:"type"`
	Properties userProperties `json:"properties"`
	SystemData *systemData    `json:"systemData,omitempty"`
}

// userProperties in the names of Azure's directory.
type userProperties struct {
	UserPrincipalName string   `json:"userPrincipalName"`
	DisplayName       string   `json:"displayName"`
	ObjectID          string   `json:"objectId"`
	AccountEnabled    bool     `json:"accountEnabled"`
	Groups            []string `json:"groups"`
	// Password is in the one answer that made it up.
	Password string `json:"password,omitempty"`
}

func bodyOfUser(u *store.User) userBody {
	groups := u.Groups
	if groups == nil {
		groups = []string{}
	}
	return userBody{ID: "/providers/" + userType + "/" + u.Name, Name: u.Name, Type: userType, SystemData: systemDataOf(u.Stamp),
		Properties: userProperties{UserPrincipalName: u.Name, DisplayName: u.DisplayName, ObjectID: u.ObjectID, AccountEnabled: !u.Disabled, Groups: groups}}
}

func (k *call) listUsers() (*answer, error) {
	page, err := arm.ParsePage(k.request.URL.Query(), pageSize)
	if err != nil {
		return nil, err
	}
	all, _, err := store.List[store.User](k.ctx, k.Store, store.UserPrefix, store.Limit(page.Top+1), store.After(page.After))
	if err != nil {
		return nil, err
	}
	return listed(k, page, all, func(u store.Item[store.User]) userBody { return bodyOfUser(&u.Value) }), nil
}

// user finds the one of the path; none is the zero item.
func (k *call) user() (store.Item[store.User], error) {
	if name := k.vars["user"]; !userName.MatchString(name) {
		return store.Item[store.User]{}, badName("userPrincipalName", name, userName.String(), 64)
	}
	return store.Find[store.User](k.ctx, k.Store, store.User{Name: k.vars["user"]}.Key())
}

func (k *call) getUser() (*answer, error) {
	u, err := k.user()
	if err != nil {
		return nil, err
	}
	if u.Revision == 0 {
		return nil, noUser(k.vars["user"])
	}
	return ok(bodyOfUser(&u.Value)), nil
}

func noUser(name string) error {
	e := arm.Errorf(trust.NotFound, arm.ResourceNotFound, "The user '%.64s' was not found.", name)
	e.Hint = "sallyport ad user list"
	return e
}

type wantedUser struct {
	DisplayName    *string
	AccountEnabled *bool
	Groups         *[]string
	Password       string
}

// putUser makes a user, or changes what is named of one: a property that is left
// out stays. A new user without a password gets one, shown once.
func (k *call) putUser() (*answer, error) {
	if k.HashPassword == nil {
		return nil, arm.Errorf(trust.Unsupported, arm.NotSupported, "This server has no authority that signs people in.")
	}
	var body struct{ Properties wantedUser }
	if _, err := k.decode(&body); err != nil {
		return nil, err
	}
	old, err := k.user()
	if err != nil {
		return nil, err
	}
	if err := k.conditions(old.Revision); err != nil {
		return nil, err
	}
	want := &body.Properties
	u := old.Value
	if old.Revision == 0 {
		u = store.User{Name: k.vars["user"], ObjectID: newUID(), DisplayName: k.vars["user"]}
	}
	if arm.ValidGUID(u.Name) {
		if want.Password != "" || want.Groups != nil || want.AccountEnabled == nil && old.Revision == 0 {
			return nil, arm.BadParameter("properties", "a user named by an object id is a person of the sign-in provider, who can only be shut out: accountEnabled alone may be set")
		}
		u.ObjectID = trust.Fold(u.Name)
	}
	if err := want.into(&u); err != nil {
		return nil, err
	}
	u.Stamp = k.stamp(u.Stamp, &k.caller)
	write, status := store.Create, http.StatusCreated
	if old.Revision != 0 {
		write, status = updating(old.Revision), http.StatusOK
	}
	ops := []store.Op{write(u)}
	shown := ""
	if old.Revision == 0 && want.Password == "" && !arm.ValidGUID(u.Name) {
		want.Password = newPassword()
		shown = want.Password
	}
	if want.Password != "" {
		op, err := k.passwordOp(u.Name, want.Password)
		if err != nil {
			return nil, err
		}
		ops = append(ops, op)
	}
	if _, err := k.commit(k.durable(), ops...); err != nil {
		return nil, err
	}
	b := bodyOfUser(&u)
	b.Properties.Password = shown
	return &answer{status: status, body: b}, nil
}

func (w *wantedUser) into(u *store.User) error {
	if w.DisplayName != nil {
		u.DisplayName = *w.DisplayName
	}
	if len(u.DisplayName) > 256 {
		return arm.BadParameter("properties.displayName", "it has more than 256 bytes")
	}
	if w.AccountEnabled != nil {
		u.Disabled = !*w.AccountEnabled
	}
	if w.Groups == nil {
		return nil
	}
	u.Groups = slices.Compact(slices.Sorted(slices.Values(*w.Groups)))
	if len(u.Groups) > maxUserGroups {
		return arm.BadParameter("properties.groups", "a user is in at most %d groups", maxUserGroups)
	}
	for _, g := range u.Groups {
		if !federatedName.MatchString(g) {
			return arm.BadParameter("properties.groups", "'%.120s' is not a group's name: it must match %s", g, federatedName)
		}
	}
	return nil
}

// newPassword is one that nobody can guess and everybody can type.
func newPassword() string {
	t := rand.Text() // 26 characters, 130 bits
	return t[:6] + "-" + t[6:12] + "-" + t[12:18] + "-" + t[18:24]
}

func (k *call) passwordOp(name, password string) (store.Op, error) {
	hash, err := k.HashPassword(password)
	if trust.KindOf(err) == trust.Invalid {
		return store.Op{}, arm.BadParameter("properties.password", "%s", err)
	}
	return store.Put(store.Password{Name: name, Hash: hash, Set: k.Now().UTC()}), err
}

// removeUser deletes a user and the password: every session ends.
func (k *call) removeUser() (*answer, error) {
	u, err := k.user()
	if err != nil {
		return nil, err
	}
	if u.Revision == 0 {
		return empty(http.StatusNoContent), nil
	}
	if _, err := k.commit(k.durable(), store.Delete(u.Value.Key(), u.Revision), store.Delete(store.Password{Name: u.Value.Name}.Key(), 0)); err != nil {
		return nil, err
	}
	return empty(http.StatusOK), nil
}

// resetPassword gives a user another password, the caller's or one made up and
// shown once, and ends all sessions.
func (k *call) resetPassword() (*answer, error) {
	var body struct{ Password string }
	data, err := arm.ReadBody(k.request)
	if err != nil {
		return nil, err
	}
	if len(data) > 0 {
		if err := arm.Decode(data, &body); err != nil {
			return nil, err
		}
	}
	u, err := k.user()
	if err != nil {
		return nil, err
	}
	switch {
	case u.Revision == 0:
		return nil, noUser(k.vars["user"])
	case k.HashPassword == nil || arm.ValidGUID(u.Value.Name):
		return nil, arm.Errorf(trust.Unsupported, arm.NotSupported, "The user '%s' has no password here.", u.Value.Name)
	}
	shown := ""
	if body.Password == "" {
		body.Password = newPassword()
		shown = body.Password
	}
	op, err := k.passwordOp(u.Value.Name, body.Password)
	if err != nil {
		return nil, err
	}
	v := u.Value
	v.SessionsFrom, v.Stamp = k.Now().UTC(), k.stamp(v.Stamp, &k.caller)
	if _, err := k.commit(k.durable(), store.Update(v, u.Revision), op); err != nil {
		return nil, err
	}
	b := bodyOfUser(&v)
	b.Properties.Password = shown
	return ok(b), nil
}

// revokeSessions signs a user out everywhere.
func (k *call) revokeSessions() (*answer, error) {
	u, err := k.user()
	if err != nil {
		return nil, err
	}
	if u.Revision == 0 {
		return nil, noUser(k.vars["user"])
	}
	v := u.Value
	v.SessionsFrom, v.Stamp = k.Now().UTC(), k.stamp(v.Stamp, &k.caller)
	if _, err := k.commit(k.durable(), store.Update(v, u.Revision)); err != nil {
		return nil, err
	}
	return ok(bodyOfUser(&v)), nil
}
