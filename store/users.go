package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/trust"
)

// ServerRole is a part of the server that may run as a process of its own, on
// an external etcd, with an etcd user of its own.
type ServerRole string

// The server roles.
const (
	RoleControl   ServerRole = "control"
	RoleAuthority ServerRole = "authority"
	RoleGateway   ServerRole = "gateway"
)

// User is the name of the role's etcd user, and of the etcd role it has.
func (r ServerRole) User() string { return "sallyport-" + string(r) }

// Permission is what an etcd user may do with the keys below a prefix, or with
// one key where Prefix does not end in "/".
type Permission struct {
	Prefix string
	Write  bool // reading is always allowed
}

const armPrefix = "/arm/"

// permissions is who may read and write what. What is not listed is refused. No
// key is written by two roles.
var permissions = map[ServerRole][]Permission{
	RoleControl: {
		{Installation{}.Key(), true},
		{armPrefix, true}, {LocksPrefix, true}, {RolePrefix, true}, {UsesPrefix, true}, {DepartedPrefix, true},
		{IdentityPrefix, true}, {FederatedPrefix, true}, {SharedKeyPrefix, true},
		{ProvidedPrefix + "/", true}, // of the resource providers in the same process
		{AgentPrefix, true}, {MandatePrefix, true},
		{OperationPrefix, true}, {RunnerPrefix, true}, {ActivityPrefix, true},
		{GatewayPrefix, false}, {TunnelPrefix, false},
		{ServerPrefix, true}, {AuthorityServerPrefix, false}, {GatewayServerPrefix, false},
		{CertificateRequestPrefix, false}, {GatewayCertificatePrefix, true},
		{SigningKeyPrefix, false}, // to verify tokens
		{RevokedKeyPrefix, true},
		{CertificatePrefix, true},
		{UserPrefix, true}, {PasswordPrefix, true}, {GroupPrefix, true},
		{SessionPrefix, false}, // whose end ends tokens
		{SecretPrefix, true},   // hashes; whoever may make identities and say what they can be had for may make these
	},
	RoleAuthority: {
		{Installation{}.Key(), false},
		{IdentityPrefix, false}, {FederatedPrefix, false}, {SharedKeyPrefix, false},
		{SecretPrefix, false}, {CertificatePrefix, false},
		{UserPrefix, false}, {PasswordPrefix, false},
		{SigningKeyPrefix, true}, {RevokedKeyPrefix, false}, {AssertionPrefix, true}, {SessionPrefix, true}, {CodePrefix, true}, {DevicePrefix, true},
		{AuthorityServerPrefix, true},
	},
	RoleGateway: {
		{Installation{}.Key(), false},
		{armPrefix, false}, {RolePrefix, false},
		{IdentityPrefix, false}, {FederatedPrefix, false}, {SecretPrefix, false}, {CertificatePrefix, false},
		{UserPrefix, false}, {SessionPrefix, false}, // whose removal ends tokens
		{SigningKeyPrefix, false}, {RevokedKeyPrefix, false}, {SharedKeyPrefix, false}, // sealed; their public parts are needed
		{GatewayPrefix, true}, {TunnelPrefix, true},
		{GatewayServerPrefix, true},
		{CertificateRequestPrefix, true}, {GatewayCertificatePrefix, false},
	},
}

// Permissions lists what a role's etcd user may do.
func Permissions(r ServerRole) []Permission { return slices.Clone(permissions[r]) }

// span is the permission's etcd range.
func (p Permission) span() (from, end string) {
	if strings.HasSuffix(p.Prefix, "/") {
		return span(p.Prefix)
	}
	return p.Prefix, ""
}

func (p Permission) kind() clientv3.PermissionType {
	if p.Write {
		return clientv3.PermissionType(clientv3.PermReadWrite)
	}
	return clientv3.PermissionType(clientv3.PermRead)
}

// RenderUsers prints the etcdctl commands that make the users, for whoever runs
// the etcd cluster. Passwords are asked for by etcdctl.
func RenderUsers() string {
	var b strings.Builder
	for _, r := range []ServerRole{RoleControl, RoleAuthority, RoleGateway} {
		fmt.Fprintf(&b, "etcdctl role add %s\n", r.User())
		for _, p := range permissions[r] {
			from, end := p.span()
			kind := "read"
			if p.Write {
				kind = "readwrite"
			}
			fmt.Fprintf(&b, "%s\n", strings.TrimRight(fmt.Sprintf("etcdctl role grant-permission %s %s %s %s", r.User(), kind, from, end), " "))
		}
		fmt.Fprintf(&b, "etcdctl user add %s\netcdctl user grant-role %s %s\n", r.User(), r.User(), r.User())
	}
	b.WriteString("etcdctl auth enable\n")
	return b.String()
}

// EnsureUsers makes the users of the roles that passwords names, with exactly
// the permissions of Permissions, or puts existing ones right. s is opened as
// etcd's root, or before authentication is enabled; enabling it is left to the
// cluster's owner.
func EnsureUsers(ctx context.Context, s *Store, passwords map[ServerRole]string) error {
	for r, password := range passwords {
		if len(permissions[r]) == 0 || password == "" {
			return trust.Errorf(trust.Invalid, "the etcd user %s needs a known role and a password", r.User())
		}
		if err := s.ensureRole(ctx, r); err != nil {
			return s.failed(ctx, "ensure etcd role "+r.User(), err)
		}
		if err := s.ensureUser(ctx, r, password); err != nil {
			return s.failed(ctx, "ensure etcd user "+r.User(), err)
		}
	}
	return nil
}

// ensureRole makes the role's permissions what they should be. Those too many
// go first.
func (s *Store) ensureRole(ctx context.Context, r ServerRole) error {
	if _, err := s.client.RoleAdd(ctx, r.User()); err != nil && !errors.Is(err, rpctypes.ErrRoleAlreadyExist) {
		return err
	}
	has, err := s.client.RoleGet(ctx, r.User())
	if err != nil {
		return err
	}
	type grant struct {
		kind      authpb.Permission_Type
		from, end string
	}
	want := map[grant]bool{}
	for _, p := range permissions[r] {
		from, end := p.span()
		want[grant{authpb.Permission_Type(p.kind()), from, end}] = true
	}
	for _, p := range has.Perm {
		g := grant{p.PermType, string(p.Key), string(p.RangeEnd)}
		if want[g] {
			delete(want, g)
		} else if _, err := s.client.RoleRevokePermission(ctx, r.User(), g.from, g.end); err != nil {
			return err
		}
	}
	for g := range want {
		if _, err := s.client.RoleGrantPermission(ctx, r.User(), g.from, g.end, clientv3.PermissionType(g.kind)); err != nil {
			return err
		}
	}
	return nil
}

// ensureUser makes the user with the password and its one role.
func (s *Store) ensureUser(ctx context.Context, r ServerRole, password string) error {
	_, err := s.client.UserAdd(ctx, r.User(), password)
	if errors.Is(err, rpctypes.ErrUserAlreadyExist) {
		_, err = s.client.UserChangePassword(ctx, r.User(), password)
	}
	if err != nil {
		return err
	}
	has, err := s.client.UserGet(ctx, r.User())
	if err != nil {
		return err
	}
	for _, role := range has.Roles {
		if role == r.User() {
			continue
		}
		if _, err := s.client.UserRevokeRole(ctx, r.User(), role); err != nil {
			return err
		}
	}
	_, err = s.client.UserGrantRole(ctx, r.User(), r.User())
	return err
}

// mustAuthenticate refuses a cluster that does not check users although this
// server has one: everybody who reaches it could write everything.
func (s *Store) mustAuthenticate(ctx context.Context) error {
	cctx, done := s.call(ctx)
	defer done()
	st, err := s.client.AuthStatus(cctx)
	err = s.failed(ctx, "ask for authentication", err)
	if errors.Is(err, ErrPermission) { // only root is told, and only when it is enabled
		return nil
	}
	if err == nil && !st.Enabled {
		e := trust.Errorf(trust.Invalid, "the etcd cluster does not check users")
		e.Hint = "etcdctl auth enable, or leave the etcd user out of the configuration"
		return e
	}
	return err
}
