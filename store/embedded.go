package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	"github.com/sallyport/sallyport/trust"
)

// The embedded etcd's settings. One member has nobody to wait for, so a short
// election only makes the start quick; a tick wakes the process, so there are as
// few of them as etcd allows for that.
const (
	tickMillis     = 20
	electionMillis = 100
	compaction     = "5m"
	quotaBytes     = 8 << 30
	maxTxnOps      = 4096
)

// How long a stopping etcd is waited for. One that met an error it cannot
// continue after may never end.
const (
	stopTime = 10 * time.Second
	lostTime = time.Second
)

// embedded is an etcd member inside this process, without any listener.
type embedded struct {
	dir     string
	reserve int64
	lock    *os.File
	etcd    *embed.Etcd
	client  *clientv3.Client

	// lost is closed at the first error that etcd cannot continue after.
	lost     chan struct{}
	lostOnce sync.Once
	lostErr  error // set before lost is closed

	stopping chan struct{}
	watcher  sync.WaitGroup
}

// startEmbedded locks the directory, starts etcd on it and returns when it
// serves. fail is called, once at most, when etcd stops by itself later.
func startEmbedded(ctx context.Context, cfg Config, fail func(error)) (*embedded, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, trust.Errorf(trust.Invalid, "the data directory %s cannot be made", cfg.Dir).Because(err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	e := &embedded{
		dir: cfg.Dir, reserve: cfg.Reserve, lock: lock,
		lost: make(chan struct{}), stopping: make(chan struct{}),
	}
	if err := e.start(ctx, e.config(cfg.Log)); err != nil {
		return nil, errors.Join(err, e.stop())
	}
	e.client = v3client.New(e.etcd.Server)
	e.watcher.Go(func() {
		select {
		case <-e.lost:
			fail(e.lostErr)
		case <-e.etcd.Server.StopNotify():
			fail(errors.New("etcd stopped"))
		case <-e.stopping:
		}
	})
	return e, nil
}

// config is the configuration of one member that nobody connects to.
func (e *embedded) config(log *slog.Logger) *embed.Config {
	c := embed.NewConfig()
	c.Name = "sallyport"
	c.Dir = filepath.Join(e.dir, "etcd")
	c.ListenClientUrls, c.ListenPeerUrls, c.ListenClientHttpUrls = nil, nil, nil
	c.InitialCluster = c.InitialClusterFromName(c.Name) // an address that nobody dials
	c.TickMs, c.ElectionMs = tickMillis, electionMillis
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, compaction
	c.QuotaBackendBytes = quotaBytes
	c.MaxTxnOps = maxTxnOps
	c.EnableGRPCGateway = false
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(etcdLogger(log, e.fatal))
	return c
}

// fatal is what etcd calls where it would exit the process.
func (e *embedded) fatal(err error) {
	e.lostOnce.Do(func() {
		e.lostErr = err
		close(e.lost)
	})
}

// start runs etcd up to the point where it serves. It starts in a goroutine of
// its own, because an error that etcd cannot continue after ends that goroutine.
func (e *embedded) start(ctx context.Context, cfg *embed.Config) error {
	type result struct {
		etcd *embed.Etcd
		err  error
	}
	started := make(chan result, 1)
	go func() {
		r := result{err: errors.New("etcd gave up")}
		defer func() { started <- r }()
		r.etcd, r.err = embed.StartEtcd(cfg)
	}()
	unavailable := func(err error) error {
		return away(err, "look at the disk's free space and at the permissions of the directory",
			"the store in %s cannot be opened", e.dir)
	}
	r := <-started // not ended by ctx: a half-started etcd cannot be stopped
	select {
	case <-e.lost:
		return unavailable(e.lostErr)
	default:
	}
	if r.err != nil {
		return unavailable(r.err)
	}
	e.etcd = r.etcd
	select {
	case <-e.etcd.Server.ReadyNotify():
		return nil
	case <-e.lost:
		return unavailable(e.lostErr)
	case <-e.etcd.Server.StopNotify():
		return unavailable(errors.New("etcd stopped while starting"))
	case <-ctx.Done():
		return fmt.Errorf("open store: %w", ctx.Err())
	}
}

// tidy gives back the space that compactions freed, clears the alarm of a full
// store if it is not full any more, and revokes the leases: whoever held one
// died with the process that had the directory before. A failure is logged: the
// store works without.
func (e *embedded) tidy(ctx context.Context, log *slog.Logger) {
	leases, err := e.client.Leases(ctx)
	if err != nil {
		log.Warn("leases not listed", "error", err)
		leases = &clientv3.LeaseLeasesResponse{}
	}
	for _, l := range leases.Leases {
		if _, err := e.client.Revoke(ctx, l.ID); err != nil {
			log.Warn("lease not revoked", "error", err)
		}
	}
	status, err := e.client.Status(ctx, "")
	if err != nil {
		log.Warn("store size unknown", "error", err)
		return
	}
	const worthIt = 1 << 20
	if status.DbSize-status.DbSizeInUse >= worthIt && e.room() == nil {
		if _, err := e.client.Defragment(ctx, ""); err != nil {
			log.Warn("store not defragmented", "error", err)
		}
		if status, err = e.client.Status(ctx, ""); err != nil {
			log.Warn("store size unknown", "error", err)
			return
		}
	}
	if len(status.Errors) > 0 && status.DbSize < quotaBytes {
		if _, err := e.client.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err != nil {
			log.Warn("store alarm not cleared", "error", err)
		}
	}
}

// room refuses writes when the disk is so full that etcd, which cannot
// continue after a failed write, might meet the end of it.
func (e *embedded) room() error {
	free, err := freeBytes(e.dir)
	if err != nil {
		return away(err, "", "the store's disk cannot be looked at")
	}
	if free >= e.reserve {
		return nil
	}
	return away(nil, "free space on the disk of the server's data directory; nothing needs a restart",
		"the store's disk is full: %d MiB free, %d MiB needed to write safely", free>>20, e.reserve>>20)
}

// stop stops etcd, waits for it and gives the directory free.
func (e *embedded) stop() error {
	close(e.stopping)
	e.watcher.Wait()
	if e.etcd != nil {
		done := make(chan struct{})
		go func() {
			defer close(done)
			e.etcd.Close()
		}()
		wait := stopTime
		select {
		case <-e.lost:
			wait = lostTime
		default:
		}
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-done:
		case <-timer.C:
			// The lock stays with the process: what hangs may still write.
			return away(nil, "", "the embedded etcd did not stop within %s", wait)
		}
	}
	if err := e.lock.Close(); err != nil {
		return fmt.Errorf("unlock data directory: %w", err)
	}
	return nil
}
