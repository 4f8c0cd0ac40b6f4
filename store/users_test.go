package store_test

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// everyRecord is one record of each kind and the one role that may write it.
var everyRecord = map[store.ServerRole][]store.Record{
	store.RoleControl: {
		store.Installation{},
		store.Subscription{ID: "/subscriptions/s"},
		store.Group{ID: "/subscriptions/s/resourceGroups/g"},
		store.Cluster{ID: "/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/c"},
		store.Binding{ID: "/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/c/trustedAccessRoleBindings/b"},
		store.Source{ID: "/subscriptions/s/resourceGroups/g/providers/A.B/c/d"},
		store.Registrations{Subscription: "s"},
		store.RoleAssignment{ID: "/providers/Microsoft.Authorization/roleAssignments/a"},
		store.ManagementLock{Scope: "/subscriptions/s", Name: "l"},
		store.Role{Role: trust.Role{SourceType: "A.B/c", Name: "r"}},
		store.Identity{ClientID: "i"},
		store.Federated{ClientID: "i", Name: "f"},
		store.Secret{ClientID: "i", ID: "s"},
		store.Certificate{ClientID: "i", Name: "c"},
		store.User{Name: "u"}, store.Password{Name: "u"},
		store.RegisteredGroup{PrincipalID: "p"},
		store.SealedKey{Name: "k"}, store.RevokedKey{KeyID: "k"},
		store.AgentStatus{Cluster: "u", Agent: "proxy"}, store.AgentReport{Cluster: "u"}, store.AgentProbe{Cluster: "u"},
		store.Mandate{Cluster: "u"},
		store.Operation{ID: "o"},
		store.Use{SourceID: "/subscriptions/s/x", BindingUID: "b"},
		store.Departed{Binding: store.Binding{ClusterUID: "u", UID: "b"}},
		store.Run{Operation: "o"},
		store.Activity{ID: "a"},
		store.Provided{ID: "/subscriptions/s/resourceGroups/g/providers/N/t/n/c/d"},
		store.Extension{ClusterID: "/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/c", Name: "e"},
		store.RoleDefinition{GUID: "g"},
		store.GatewayCertificate{Replica: "r", Use: store.UsePeer},
		store.Server{Replica: "r", Roles: []string{"control", "authority"}},
	},
	store.RoleAuthority: {
		store.SigningKey{KeyID: "k"},
		store.UsedAssertion{ID: "a"},
		store.Session{ID: "s"}, store.Code{ID: "c"}, store.Device{UserCode: "d"},
		store.Server{Replica: "r", Roles: []string{"authority"}},
	},
	store.RoleGateway: {
		store.Gateway{Replica: "r"},
		store.Tunnel{Cluster: "u", Replica: "r"},
		store.CertificateRequest{Replica: "r", Use: store.UsePeer},
		store.Server{Replica: "r", Roles: []string{"gateway"}},
	},
}

// The list above has every kind of record that the package defines.
func TestEveryRecordIsListed(t *testing.T) {
	listed := map[string]bool{}
	for _, records := range everyRecord {
		for _, r := range records {
			listed[reflect.TypeOf(r).Name()] = true
		}
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			m, ok := d.(*ast.FuncDecl)
			if !ok || m.Recv == nil || m.Name.Name != "Key" {
				continue
			}
			if kind, ok := m.Recv.List[0].Type.(*ast.Ident); !ok || !listed[kind.Name] {
				t.Errorf("%s: a record is not in everyRecord: say who may write it", name)
			}
		}
	}
}

// Every role tries every write of every kind, its own and the others', and
// every way in that is not a write of a record.
func TestUsersWriteOnlyTheirOwn(t *testing.T) {
	c := startCluster(t, "")
	root := c.open(t, rootUser, rootPassword)
	passwords := map[store.ServerRole]string{
		store.RoleControl: "control-password", store.RoleAuthority: "authority-password", store.RoleGateway: "gateway-password",
	}
	// Rights that somebody added by hand are taken away again.
	if _, err := root.Client().RoleAdd(t.Context(), store.RoleGateway.User()); err != nil {
		t.Fatal(err)
	}
	if _, err := root.Client().RoleGrantPermission(t.Context(), store.RoleGateway.User(), "/arm/", "/arm0",
		clientv3.PermissionType(clientv3.PermReadWrite)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time nothing changes
		if err := store.EnsureUsers(t.Context(), root, passwords); err != nil {
			t.Fatal(err)
		}
	}
	users := map[store.ServerRole]*store.Store{}
	for role, password := range passwords {
		users[role] = c.open(t, role.User(), password)
	}
	tried := 0
	for owner, records := range everyRecord {
		for _, r := range records {
			rev := commit(t, root, store.Put(r))
			for role, s := range users {
				lease, err := s.Lease(t.Context(), clusterLease)
				if err != nil {
					t.Fatal(err)
				}
				readable := slices.ContainsFunc(store.Permissions(role), func(p store.Permission) bool {
					return store.Within(p.Prefix, r.Key())
				})
				for name, op := range map[string]store.Op{
					"put": store.Put(r), "create": store.Create(r), "update": store.Update(r, rev+1000),
					"delete": store.Delete(r.Key(), 0), "leased": store.Under(lease, store.Put(r)),
					"put beside its own": store.Put(r),
				} {
					ops := []store.Op{op}
					if strings.HasSuffix(name, "own") && owner != role {
						ops = append(ops, store.Put(everyRecord[role][0]))
					}
					tried++
					_, err := s.Commit(t.Context(), ops...)
					if denied := errors.Is(err, store.ErrPermission); denied != (owner != role) {
						t.Errorf("%s: %s of %s: %v", role, name, r.Key(), err)
					}
				}
				if err := lease.Close(); err != nil {
					t.Error(err)
				}
				_, err = store.Get[note](t.Context(), s, r.Key())
				if denied := errors.Is(err, store.ErrPermission); denied == readable {
					t.Errorf("%s: read of %s: %v", role, r.Key(), err)
				}
			}
		}
	}
	t.Logf("%d writes tried", tried)
	for role, s := range users {
		ctx, client := t.Context(), s.Client()
		for name, try := range map[string]func() error{
			"read all":      func() error { _, err := client.Get(ctx, "/", clientv3.WithFromKey()); return err },
			"delete all":    func() error { _, err := client.Delete(ctx, "/", clientv3.WithFromKey()); return err },
			"write outside": func() error { _, err := client.Put(ctx, "/elsewhere", ""); return err },
			"add a user":    func() error { _, err := client.UserAdd(ctx, "x", "y"); return err },
			"become root":   func() error { _, err := client.UserGrantRole(ctx, role.User(), "root"); return err },
			"widen its role": func() error {
				_, err := client.RoleGrantPermission(ctx, role.User(), "/", "0", clientv3.PermissionType(clientv3.PermReadWrite))
				return err
			},
			"end users": func() error { _, err := client.AuthDisable(ctx); return err },
			"copy everything": func() error {
				_, err := client.SnapshotWithVersion(ctx)
				if err == nil {
					return nil
				}
				return err
			},
		} {
			if err := try(); err == nil || !strings.Contains(err.Error(), "permission denied") {
				t.Errorf("%s: %s: %v", role, name, err)
			}
		}
		// A watch of what may not be read ends, and says why.
		w := s.Watch(bounded(t, clusterLease), "/", 1)
		for range w.Batches() {
		}
		if !errors.Is(w.Err(), store.ErrPermission) {
			t.Errorf("%s: watch of everything: %v", role, w.Err())
		}
	}
}

// A lease is revoked only by who may write what it holds.
func TestUsersCannotEndOthersLeases(t *testing.T) {
	c := startCluster(t, "")
	root := c.open(t, rootUser, rootPassword)
	if err := store.EnsureUsers(t.Context(), root, map[store.ServerRole]string{
		store.RoleControl: "c", store.RoleGateway: "g",
	}); err != nil {
		t.Fatal(err)
	}
	control, gateway := c.open(t, store.RoleControl.User(), "c"), c.open(t, store.RoleGateway.User(), "g")
	lease, err := control.Lease(t.Context(), clusterLease)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, control, store.Under(lease, store.Put(store.Run{Operation: "o"})))
	all, err := root.Client().Leases(t.Context())
	if err != nil || len(all.Leases) != 1 {
		t.Fatal(all, err)
	}
	if _, err := gateway.Client().Revoke(t.Context(), all.Leases[0].ID); err == nil {
		t.Error("a gateway ended control's lease")
	}
	if _, err := store.Get[store.Run](t.Context(), control, store.Run{Operation: "o"}.Key()); err != nil {
		t.Error(err)
	}
}

func TestWrongPasswordAndNoUsers(t *testing.T) {
	c := startCluster(t, "")
	if _, err := store.Open(t.Context(), c.config(rootUser, "wrong")); trust.KindOf(err) != trust.Unavailable {
		t.Errorf("wrong password: %v", err)
	}
	if _, err := store.Open(t.Context(), c.config("", "")); err == nil {
		t.Error("no user is let in")
	}
	root := c.open(t, rootUser, rootPassword)
	if _, err := root.Client().AuthDisable(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(t.Context(), c.config(rootUser, rootPassword)); trust.KindOf(err) != trust.Invalid {
		t.Errorf("a cluster that checks no users: %v", err)
	}
}

func TestRenderUsers(t *testing.T) {
	text := store.RenderUsers()
	for _, want := range []string{
		"etcdctl role add sallyport-gateway\n",
		"etcdctl role grant-permission sallyport-gateway readwrite /live/gateways/replicas/ /live/gateways/replicas0\n",
		"etcdctl role grant-permission sallyport-gateway read /installation\n",
		"etcdctl user grant-role sallyport-authority sallyport-authority\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("missing %q in\n%s", want, text)
		}
	}
}
