package ml

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// A connection names a container registry with its credentials, which pods of
// the workspace's computes pull images with. They lie sealed in the store and are
// never shown.

const connections = "connections"

type connectionBody struct {
	Category    string
	AuthType    string
	Target      string
	Credentials *struct{ Username, Password string }
}

// connectionPrivate is what ml keeps with a connection.
type connectionPrivate struct {
	Server   string
	Username string
	Sealed   []byte // the password
}

// sealVersion of what is sealed with a connection: each creation has its own path.
const sealVersion = 1

func connectionPath(r *store.Provided) string { return r.Key() + "/" + r.UID }

var (
	connectionName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{2,32}$`)
	registryHost   = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?(:\d{1,5})?$`)
)

func (k *call) putConnection() (*arm.Answer, error) {
	b, err := k.decode()
	if err != nil {
		return nil, err
	}
	bad := func(property, format string, args ...any) error {
		return arm.BadParameter("properties."+property, format, args...)
	}
	var c connectionBody
	if json.Unmarshal(b.Properties, &c) != nil {
		return nil, arm.BadParameter("properties", "a member has the wrong type")
	}
	server := strings.TrimSuffix(strings.TrimPrefix(c.Target, "https://"), "/")
	switch {
	case !connectionName.MatchString(k.ID.Name()):
		return nil, arm.BadParameter("connectionName", "the name '%.100s' must have 3 to 33 letters, digits, '-' and '_', and begin with a letter or digit", k.ID.Name())
	case trust.Fold(c.Category) != "containerregistry":
		return nil, bad("category", "'%.60s' is not supported; ContainerRegistry is", c.Category)
	case trust.Fold(c.AuthType) != "usernamepassword":
		return nil, bad("authType", "'%.60s' is not supported; UsernamePassword is", c.AuthType)
	case !registryHost.MatchString(server):
		return nil, bad("target", "'%.200s' is not a registry's host", c.Target)
	case c.Credentials == nil || c.Credentials.Username == "" || c.Credentials.Password == "":
		return nil, bad("credentials", "username and password are needed")
	}
	old, write, err := k.old()
	if err != nil {
		return nil, err
	}
	status := http.StatusCreated
	if old.Revision != 0 {
		status = http.StatusOK
	}
	if b.Properties, err = overlay(b.Properties, []string{"credentials"}, nil); err != nil {
		return nil, err
	}
	r := k.record(old, b)
	private := connectionPrivate{Server: server, Username: c.Credentials.Username}
	if private.Sealed, err = k.Seal.Seal(connectionPath(&r), sealVersion, []byte(c.Credentials.Password)); err != nil {
		return nil, err
	}
	if r.Private, err = json.Marshal(private); err != nil {
		return nil, err
	}
	r.State = arm.Succeeded
	if err := k.commit(write(r)); err != nil {
		return nil, err
	}
	if err := k.tellRegistries(); err != nil {
		return nil, err
	}
	return k.shown(status, &store.Item[store.Provided]{Value: r})
}

func (k *call) removeConnection() (*arm.Answer, error) {
	a, err := k.removeVersion()
	if err == nil {
		err = k.tellRegistries()
	}
	return a, err
}

// How a change of connections is told: to so many computes at once, and for so
// long. A cluster that is away does not hold the request.
const (
	tellAtOnce = 32
	tellWithin = 15 * time.Second
)

// tellRegistries tells every compute of the workspace. One that cannot be told
// now is told when something is submitted to it.
func (k *call) tellRegistries() error {
	all, _, err := store.List[store.Provided](k.ctx, k.Store, store.ProvidedKey(k.workspace.Value.ID)+"/"+computes+"/")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(k.ctx, tellWithin)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(tellAtOnce)
	for i := range all {
		r := &all[i].Value
		if r.Parent != k.workspace.Created || r.State != arm.Succeeded {
			continue
		}
		group.Go(func() error {
			if err := k.registries(ctx, &k.workspace, r); err != nil {
				k.Log.WarnContext(ctx, "registry credentials not told", "compute", r.ID, "error", err)
			}
			return nil
		})
	}
	return group.Wait()
}

// tellRegistriesOf tells a compute before something runs there, also that the
// workspace has no registries any more. One that the extension does not know is
// told later.
func (m *ML) tellRegistriesOf(ctx context.Context, w *store.Item[store.Source], computeID, uid string) error {
	compute, err := store.Get[store.Provided](ctx, m.Store, store.ProvidedKey(computeID))
	if err != nil || compute.Value.UID != uid {
		return orGone(err, nil) // submitting says so
	}
	var refused *trust.Error
	if err := m.registries(ctx, w, &compute.Value); errors.As(err, &refused) && refused.Code == wire.ComputeNotFound {
		return nil
	} else if err != nil {
		return err
	}
	return nil
}

// registries hands a workspace's registry credentials to the cluster of a
// compute.
func (m *ML) registries(ctx context.Context, w *store.Item[store.Source], compute *store.Provided) error {
	c, err := readCompute(compute)
	if err != nil {
		return err
	}
	all, _, err := store.List[store.Provided](ctx, m.Store, store.ProvidedKey(w.Value.ID)+"/"+connections+"/")
	if err != nil {
		return err
	}
	out := []wire.Registry{}
	for i := range all {
		r := &all[i].Value
		if r.Parent != w.Created {
			continue
		}
		var p connectionPrivate
		if err := json.Unmarshal(r.Private, &p); err != nil {
			return trust.Errorf(trust.Internal, "a stored connection cannot be read").Because(err)
		}
		password, err := m.Seal.Open(connectionPath(r), sealVersion, p.Sealed)
		if err != nil {
			return fmt.Errorf("open a registry's password: %w", err)
		}
		out = append(out, wire.Registry{Server: p.Server, Username: p.Username, Password: string(password)})
	}
	e, err := m.reach(ctx, w, c.Cluster)
	if err != nil {
		return err
	}
	return e.call(ctx, http.MethodPut, "/computes/"+c.Compute.UID+"/registries", out, nil)
}
