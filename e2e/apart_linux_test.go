package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/e2e/installation"
	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
	"github.com/sallyport/sallyport/store"
)

// apart is an installation whose roles are processes of their own, on an etcd
// that checks users, each with its own.
type apart struct {
	*world
	endpoint string
	root     *store.Store
	configs  map[string]string // of the servers, by name
}

// startApart moves the shared API server to an installation of its own for one
// test. With handOver there is a second gateway, to which alone the agent dials,
// while requests go to the first.
func startApart(t *testing.T, handOver bool) *apart {
	t.Helper()
	kube, bin := kubes.Cluster(t), programs(t)
	if shared.w != nil {
		if err := shared.w.leave(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	in, err := installation.New(installation.Config{Bin: bin, Dir: t.TempDir(), Cluster: kube})
	if err != nil {
		t.Fatal(err)
	}
	a := &apart{world: &world{Installation: in, nodes: kubes.Config.Nodes}, configs: map[string]string{}}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute)
		defer cancel()
		if t.Failed() {
			for _, name := range []string{"control", "authority", "gateway", holder, "proxy"} {
				if p := in.Process(name); p != nil {
					log, _ := os.ReadFile(p.Log)
					t.Logf("%s:\n%s", name, log[max(0, len(log)-3000):])
				}
			}
		}
		if a.UID != "" {
			if err := a.leave(ctx); err != nil {
				t.Error(err)
			}
		}
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := a.workloads(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.startEtcd(t)
	a.startServers(t)
	if err := a.Login(t.Context(), "home"); err != nil {
		t.Fatal(err)
	}
	if err := a.publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.register(t.Context(), "private"); err != nil {
		t.Fatal(err)
	}
	dials := a.gateway
	if handOver {
		dials = "https://" + address(t)
		a.startServer(t, holder, store.RoleGateway, dials)
	}
	if err := a.StartAgents(t.Context(), installation.Agents{Gateways: strings.TrimPrefix(dials, "https://")}); err != nil {
		t.Fatal(err)
	}
	return a
}

func address(t *testing.T) string {
	t.Helper()
	addr, err := installation.FreePort("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func password(r store.ServerRole) string { return "password-of-" + string(r) }

// startEtcd starts etcd, makes the users, and has it check them.
func (a *apart) startEtcd(t *testing.T) {
	t.Helper()
	a.endpoint = "http://" + address(t)
	peer := "http://" + address(t)
	if _, err := a.Run(installation.Command{Name: "etcd", Path: devclustertest.Binary(t), Args: []string{"etcd", "--data-dir", a.Path("etcd"),
		"--listen-client-urls", a.endpoint, "--advertise-client-urls", a.endpoint, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer, "--max-txn-ops=4096", "--auto-compaction-retention=5m"}}); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	var open *store.Store
	eventually(t, "etcd answers", time.Minute, func(ctx context.Context) (err error) {
		open, err = store.Open(ctx, store.Config{Endpoints: []string{a.endpoint}})
		return err
	})
	defer open.Close()
	if err := store.EnsureUsers(ctx, open, map[store.ServerRole]string{
		store.RoleControl: password(store.RoleControl), store.RoleAuthority: password(store.RoleAuthority), store.RoleGateway: password(store.RoleGateway),
	}); err != nil {
		t.Fatal(err)
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{a.endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.UserAdd(ctx, "root", "root-password"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.UserGrantRole(ctx, "root", "root"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AuthEnable(ctx); err != nil {
		t.Fatal(err)
	}
	if a.root, err = store.Open(ctx, store.Config{Endpoints: []string{a.endpoint}, Username: "root", Password: "root-password"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.root.Close() })
}

// holder is the gateway that holds the tunnels where requests arrive elsewhere.
const holder = "holder"

// startServers starts the three servers. Control and authority share the seal
// key, as they would from a secret store; the gateway has none.
func (a *apart) startServers(t *testing.T) {
	t.Helper()
	urls := map[store.ServerRole]string{}
	for _, r := range []store.ServerRole{store.RoleControl, store.RoleAuthority, store.RoleGateway} {
		urls[r] = "https://" + address(t)
	}
	a.URL, a.gateway = urls[store.RoleControl], urls[store.RoleGateway]
	for _, r := range []store.ServerRole{store.RoleControl, store.RoleAuthority, store.RoleGateway} {
		a.startServer(t, string(r), r, urls[r])
	}
	// Callers are told where the authority is.
	a.Admin.Authority = urls[store.RoleAuthority]
	data, err := json.Marshal(a.Admin)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.AdminFile(), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// startServer starts a server of one role.
func (a *apart) startServer(t *testing.T, name string, r store.ServerRole, url string) {
	t.Helper()
	file := a.Path("keys", string(r)+".password")
	if err := os.WriteFile(file, []byte(password(r)), 0o600); err != nil {
		t.Fatal(err)
	}
	own := fmt.Sprintf("sealKeyFile: %s\nadminFile: %s\n", a.Path("keys", "seal.key"), a.AdminFile())
	if r == store.RoleGateway {
		own = "peers: {listen: '127.0.0.1:0'}\n"
	}
	config := fmt.Sprintf("externalURL: %s\ngatewayURL: %s\nlisten: %s\nlocation: local\ndataDir: %s\naudit: {file: %s}\nroles: [%s]\nlog: {format: json, level: debug}\ndrainTimeout: 20s\nstore: {endpoints: [%q], user: %s, passwordFile: %s}\n%s",
		a.URL, a.gateway, strings.TrimPrefix(url, "https://"), a.Path(name), a.AuditFile(), r, a.endpoint, r.User(), file, own)
	a.configs[name] = config
	if err := a.StartConfigured(t.Context(), name, config, url); err != nil {
		t.Fatal(err)
	}
}

// Each role alone, with only its own etcd user's rights: everything works, and
// what goes wrong between them is bounded.
func TestRolesApart(t *testing.T) {
	a := startApart(t, false)
	program := a.startController(t) // works meanwhile
	t.Run("controller", program.works)
	t.Run("binding deleted", func(t *testing.T) { ways()[0].run(t, a.world) })
	t.Run("client secret removed", func(t *testing.T) {
		for _, c := range ways() {
			if c.name == "client secret removed" {
				c.run(t, a.world)
			}
		}
	})
	t.Run("token expired", func(t *testing.T) { a.expired().run(t, a.world) })
	t.Run("controller over renewals", program.overRenewals)
	t.Run("controller without its binding", program.stops)
	t.Run("binding deleted while the gateway drains", func(t *testing.T) { a.deletedInDrain().run(t, a.world) })
	// The gateway hangs: the agent has the signed state from control.
	t.Run("gateway frozen", func(t *testing.T) {
		way{name: "gateway frozen", bound: inTouch, frozen: true, take: a.freezing("gateway", ways()[0]), back: a.thaw("gateway")}.run(t, a.world)
	})
	// Nobody can revoke while etcd hangs; nobody is let through either.
	t.Run("etcd frozen", func(t *testing.T) {
		way{name: "etcd frozen", bound: outOfTouch, back: a.thaw("etcd"), take: func(context.Context, *world, *victim) error {
			return a.Process("etcd").Signal(syscall.SIGSTOP)
		}}.run(t, a.world)
	})
	// Control says nothing: the agent refuses after 30 s by its own clock.
	t.Run("control silent", func(t *testing.T) {
		way{name: "control silent", bound: silence, back: a.thaw("control"), take: func(context.Context, *world, *victim) error {
			return a.Process("control").Signal(syscall.SIGSTOP)
		}}.run(t, a.world)
	})
	t.Run("signing key revoked", func(t *testing.T) {
		way{name: "signing key revoked", bound: inTouch, take: func(ctx context.Context, _ *world, _ *victim) error {
			kids, err := a.CLI(ctx, "identity", "signing-key", "list", "--query", "[?state=='Signing'].name", "-o", "tsv")
			if err != nil {
				return err
			}
			_, err = a.CLI(ctx, "identity", "signing-key", "revoke", "--kid", strings.TrimSpace(kids), "--yes", "-o", "none")
			return err
		}}.run(t, a.world)
	})
}

// The request arrives at a gateway that has no tunnel of the cluster, so it goes
// through one that has. What was handed over ends like anything else, whichever
// of the two hangs.
func TestHandOver(t *testing.T) {
	a := startApart(t, true)
	t.Run("binding deleted", func(t *testing.T) { ways()[0].run(t, a.world) })
	t.Run("client secret removed", func(t *testing.T) {
		for _, c := range ways() {
			if c.name == "client secret removed" {
				c.run(t, a.world)
			}
		}
	})
	t.Run("the caller's gateway frozen", func(t *testing.T) {
		way{name: "gateway frozen", bound: inTouch, frozen: true, take: a.freezing("gateway", ways()[0]), back: a.thaw("gateway")}.run(t, a.world)
	})
	t.Run("the tunnel's gateway frozen", func(t *testing.T) {
		way{name: "holder frozen", bound: inTouch, take: a.freezing(holder, ways()[0]), back: a.thaw(holder)}.run(t, a.world)
	})
}

const (
	outOfTouch = 10 * time.Second // a gateway out of touch with the store
	silence    = 30 * time.Second // an agent out of touch with control
)

// freezing takes a right away while a process does not run.
func (a *apart) freezing(name string, c way) func(context.Context, *world, *victim) error {
	return func(ctx context.Context, w *world, v *victim) error {
		if err := a.Process(name).Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		return c.take(ctx, w, v)
	}
}

func (a *apart) thaw(name string) func(context.Context, *world) error {
	return func(ctx context.Context, w *world) error {
		if err := a.Process(name).Signal(syscall.SIGCONT); err != nil {
			return err
		}
		return w.AgentsConnected(ctx)
	}
}
