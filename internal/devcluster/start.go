package devcluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// startLimit bounds Start when ctx has no earlier deadline: a very busy machine
// needs minutes, a broken one never ends.
const startLimit = 10 * time.Minute

// Start makes a cluster and returns when it is usable: the API server's /readyz
// says ok, with Controllers the default ServiceAccount exists, with Nodes every
// node is Ready. ctx bounds the start only; Stop ends the cluster. If Start
// fails it leaves no process behind, and its error holds the end of the log of
// whatever failed.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("it did not start within %s, so something is broken or the machine is too busy", startLimit))
	defer cancel()
	c, err := prepare(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	if err := c.start(ctx); err != nil {
		if why := context.Cause(ctx); why != nil {
			err = fmt.Errorf("%w: %w", why, err) // what was cut off says only that it was killed
		}
		cancel() // so that Stop kills: nothing is worth a graceful end
		return nil, errors.Join(fmt.Errorf("start cluster: %w", err), c.Stop(ctx))
	}
	return c, nil
}

// prepare finds the binaries and claims the folder. After it, Stop cleans up.
func prepare(ctx context.Context, cfg Config) (*Cluster, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if cfg.Binary == "" {
		path, err := Find(ctx, Options{})
		if err != nil {
			return nil, err
		}
		cfg.Binary = path
	}
	bins, err := newBinaries(cfg.Binary)
	if err != nil {
		return nil, err
	}
	if cfg.Controllers {
		if err := bins.have("kube-controller-manager", "kube-scheduler"); err != nil {
			return nil, err
		}
	}
	if cfg.Nodes > 0 {
		if err := bins.have("kubelet", "kube-proxy"); err != nil {
			return nil, err
		}
		if cfg.NodeTool == "" {
			if cfg.NodeTool, err = BuildNodeTool(ctx, Options{}); err != nil {
				return nil, err
			}
		}
	}
	c := &Cluster{cfg: cfg, bins: bins, release: func() {}}
	if err := c.claim(ctx); err != nil {
		if c.temp {
			err = errors.Join(err, os.RemoveAll(c.dir))
		}
		return nil, err
	}
	c.http = c.Client()
	return c, nil
}

// claim makes the folder and takes it.
func (c *Cluster) claim(ctx context.Context) error {
	dir, err := filepath.Abs(c.cfg.Dir)
	if c.cfg.Dir == "" {
		c.temp = true
		sweep(ctx, os.TempDir())
		dir, err = os.MkdirTemp("", tempPrefix)
	}
	if err != nil {
		return err
	}
	c.dir = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	journal, err := newJournal(dir, strings.ToLower(rand.Text()))
	if err != nil {
		return err
	}
	if err := freshFolders(dir); err != nil {
		return errors.Join(err, os.Remove(journal.path))
	}
	c.sup = &supervisor{dir: dir, detached: c.cfg.Detached, journal: journal, thread: newThread()}
	return nil
}

// freshFolders empties everything but the logs of earlier clusters.
func freshFolders(dir string) error {
	for _, sub := range []string{dirPKI, dirConf, dirEtcd, dirNodes, dirLogs, dirBin} {
		path := filepath.Join(dir, sub)
		if sub != dirLogs {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
		if err := os.MkdirAll(path, 0o700); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) start(ctx context.Context) error {
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet", "kube-proxy"} {
		if err := os.Symlink(c.bins.target(name), c.Program(name)); err != nil {
			return err
		}
	}
	if err := c.makeNetwork(ctx); err != nil {
		return err
	}
	if err := c.choosePort(); err != nil {
		return err
	}
	if err := c.writeCredentials(); err != nil {
		return err
	}
	// The client was made before there was a CA to trust.
	c.http = c.Client()
	if err := c.writeConfigs(); err != nil {
		return err
	}
	if err := c.startControlPlane(ctx); err != nil {
		return err
	}
	if !c.cfg.Controllers {
		return nil
	}
	for _, n := range c.nodes {
		if err := c.finishNode(n); err != nil {
			return fmt.Errorf("start %s: %w", n.name, err)
		}
	}
	if err := c.wait(ctx, "the default ServiceAccount", c.defaultServiceAccount); err != nil {
		return err
	}
	if c.cfg.Nodes == 0 {
		return nil
	}
	if err := c.wait(ctx, "the nodes", c.nodesReady); err != nil {
		return err
	}
	return c.addFirstImages(ctx)
}

// choosePort reserves the API server's port in its own network namespace.
func (c *Cluster) choosePort() error {
	addr := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if c.net.host.IsValid() {
		addr = c.net.host
	}
	if c.cfg.BindAddress.IsValid() {
		addr = c.cfg.BindAddress
	}
	err := c.sup.thread.do(netnsPath(c.cfg.NetNS), func() (err error) {
		c.addr, c.release, err = reservePort(addr)
		return err
	})
	if err != nil {
		c.release = func() {}
		return fmt.Errorf("reserve a port for the API server: %w", err)
	}
	return c.sup.journal.update(func(s *state) { s.URL = c.URL() })
}

func (c *Cluster) writeConfigs() error {
	if c.cfg.AuditLevel != "" {
		policy := fmt.Sprintf("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: %s\n", c.cfg.AuditLevel)
		if err := os.WriteFile(filepath.Join(c.dir, dirConf, "audit-policy.yaml"), []byte(policy), 0o600); err != nil {
			return err
		}
	}
	if len(c.cfg.AuthenticationConfig) > 0 {
		return os.WriteFile(filepath.Join(c.dir, dirConf, "authentication.yaml"), c.cfg.AuthenticationConfig, 0o600)
	}
	return nil
}

func (c *Cluster) startControlPlane(ctx context.Context) error {
	netns := netnsPath(c.cfg.NetNS)
	run := func(rank int, args []string) error {
		_, err := c.sup.start(command{
			name: args[0], rank: rank, path: c.Program(args[0]), args: args, netns: netns,
		})
		return err
	}
	if err := run(rankEtcd, c.etcdFlags()); err != nil {
		return err
	}
	if err := run(rankAPIServer, c.apiServerFlags()); err != nil {
		return err
	}
	if err := c.wait(ctx, "the API server", c.apiReady); err != nil {
		return err
	}
	if !c.cfg.Controllers {
		return nil
	}
	if err := run(rankController, c.controllerManagerFlags()); err != nil {
		return err
	}
	return run(rankController, c.schedulerFlags())
}
