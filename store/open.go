package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/trust"
)

// Config says where the records are. Exactly one of Dir and Endpoints is set.
type Config struct {
	// Dir is the data directory of an embedded etcd, made with mode 0700 when
	// it is missing. One process at a time; no port is opened.
	Dir string

	// Endpoints are the client URLs of an etcd cluster (3.5.8 or newer), to be
	// run with --max-txn-ops=4096 and --auto-compaction-retention=5m.
	Endpoints          []string
	TLS                *tls.Config // nil only for unix sockets and plain http URLs
	Username, Password string      // the etcd user of this server's role, see EnsureUsers

	// Timeout bounds each call whose context has a later deadline or none.
	// 0 means 5 s.
	Timeout time.Duration

	// Reserve is the free space, in bytes, below which an embedded store takes
	// no more writes, so that etcd itself never meets a full disk. 0 means
	// 128 MiB.
	Reserve int64

	Log        *slog.Logger          // nil means slog.Default()
	Registerer prometheus.Registerer // nil means no metrics
	Now        func() time.Time      // nil means time.Now; for the freshness of watches
}

// Store is an open store. Its methods and the package's functions that take it
// are safe for concurrent use.
type Store struct {
	client   *clientv3.Client
	embedded *embedded // nil with an external etcd
	log      *slog.Logger
	now      func() time.Time
	timeout  time.Duration
	metrics  *metrics

	// ctx ends when the store is closed or has failed; its cause says which.
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // watches, leases and the size sampler

	watches atomic.Int64 // numbers watches, so that each has a stream of its own
	close   sync.Once
	closed  error
}

// Open opens the store. With Dir it starts the embedded etcd and returns when
// it serves; a directory in use is refused at once, with the holder's pid.
// With Endpoints it returns once the cluster has answered. Errors are of kind
// Invalid (configuration), Conflict (directory in use) or Unavailable.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if (cfg.Dir == "") == (len(cfg.Endpoints) == 0) {
		return nil, trust.Errorf(trust.Invalid, "the store needs either a data directory or etcd endpoints")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.Reserve == 0 {
		cfg.Reserve = 128 << 20
	}
	s := &Store{log: cfg.Log, now: cfg.Now, timeout: cfg.Timeout, metrics: newMetrics()}
	// The store outlives the call that opens it; only Close or a failure ends it.
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))

	var err error
	if cfg.Dir != "" {
		s.embedded, err = startEmbedded(ctx, cfg, s.fail)
		if err == nil {
			s.client = s.embedded.client
			s.embedded.tidy(ctx, s.log)
		}
	} else {
		s.client, err = dial(cfg)
	}
	if err == nil {
		if _, err = s.Revision(ctx); err != nil {
			err = fmt.Errorf("open store: %w", err)
		}
	}
	if err == nil && cfg.Username != "" {
		err = s.mustAuthenticate(ctx)
	}
	if err == nil {
		err = s.metrics.register(cfg.Registerer)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.wg.Go(func() { s.sample(s.ctx) })
	return s, nil
}

// Close ends every watch and lease keeper, waits for them, and stops the
// embedded etcd. Leases are not revoked: what they hold goes with their time.
// Later calls return what the first did.
func (s *Store) Close() error {
	s.close.Do(func() {
		s.cancel(errClosed)
		s.wg.Wait()
		s.metrics.unregister()
		if s.client != nil {
			if err := s.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
				s.closed = fmt.Errorf("close store: %w", err)
			}
		}
		if s.embedded != nil {
			s.closed = errors.Join(s.closed, s.embedded.stop())
		}
	})
	return s.closed
}

// Done is closed when the store is closed or can never work again in this
// process; Err then says why. A server that sees it should exit: everything
// acknowledged is on disk.
func (s *Store) Done() <-chan struct{} { return s.ctx.Done() }

// Err is nil while the store works, and afterwards an error of kind
// Unavailable.
func (s *Store) Err() error {
	if s.ctx.Err() == nil {
		return nil
	}
	return context.Cause(s.ctx)
}

// fail marks the store as unusable: etcd met an error that it cannot continue
// after.
func (s *Store) fail(cause error) {
	s.cancel(away(cause, "look at the server's log and its disk, then start it again; nothing acknowledged is lost",
		"the store has stopped: it could not write or read its files"))
	s.log.Error("store failed", "error", cause)
}

// errClosed is the cause after Close.
var errClosed = away(nil, "", "the store is closed")

// call prepares the context of one round trip: it ends with ctx, with the
// store, and after the store's timeout.
func (s *Store) call(ctx context.Context) (context.Context, context.CancelFunc) {
	cctx, cancel := context.WithTimeout(ctx, s.timeout)
	stop := context.AfterFunc(s.ctx, cancel)
	return cctx, func() { stop(); cancel() }
}
