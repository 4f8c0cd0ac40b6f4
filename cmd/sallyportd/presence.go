package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime/debug"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// version is the module's version, as the Go command recorded it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

const (
	presenceTTL   = 15 * time.Second
	presenceEvery = 2 * time.Second
	presenceSoon  = 250 * time.Millisecond // while it is not ready
	usageEvery    = 30 * time.Second
)

// presence keeps in the store what this process says of itself, for status,
// until ctx ends. Nothing depends on it, so whatever goes wrong is only logged.
func (s *server) presence(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := s.present(ctx); err != nil && ctx.Err() == nil {
			level := s.log.WarnContext
			if errors.Is(err, store.ErrPermission) {
				level = s.log.ErrorContext
				err = fmt.Errorf("%w: the etcd users were made by an older version; make them again", err)
			}
			level(ctx, "this server is missing in status", "error", err)
		}
		pause(ctx, presenceEvery)
	}
	return nil
}

// present writes the record under a lease, and again whenever it has changed,
// until the lease is lost.
func (s *server) present(ctx context.Context) error {
	lease, err := s.store.Lease(ctx, presenceTTL)
	if err != nil {
		return err
	}
	defer func() { _ = lease.Close() }() // or it ends by itself
	var written store.Server
	var usage *store.Usage
	var asked time.Time
	for {
		if time.Since(asked) >= usageEvery {
			usage, asked = s.usage(ctx), time.Now()
		}
		now := s.describe()
		now.Store = usage
		if !reflect.DeepEqual(now, written) {
			if _, err := s.store.Commit(ctx, store.Under(lease, store.Put(now))); err != nil {
				return err
			}
			written = now
		}
		every := presenceEvery
		if len(now.Problems) > 0 {
			every = presenceSoon
		}
		timer := time.NewTimer(every)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-lease.Lost():
			timer.Stop()
			return trust.Errorf(trust.Unavailable, "the lease was lost")
		case <-timer.C:
		}
	}
}

// describe is this process as status shows it.
func (s *server) describe() store.Server {
	host, err := os.Hostname()
	if err != nil {
		host = s.replica
	}
	r := store.Server{Replica: s.replica, Host: host, Version: version(), Roles: s.Roles, Location: s.Location, Started: s.started.UTC(),
		HandsOver: s.peers != nil}
	for name, check := range s.ready() {
		if err := check(); err != nil {
			r.Problems = append(r.Problems, name+": "+err.Error())
		}
	}
	slices.Sort(r.Problems)
	if s.plays("gateway") {
		if err := s.records.Ready(); err != nil {
			r.Audit = err.Error()
		}
	}
	certificate := func(use string, k *pki.Keeper, renewed bool) {
		if c := k.Certificate(); c != nil && c.Leaf != nil {
			r.Certificates = append(r.Certificates, store.ServerCertificate{Use: use, Expires: c.Leaf.NotAfter.UTC(), Renewed: renewed})
		}
	}
	certificate(store.UseServer, s.certificate, s.TLS.CertFile == "")
	if s.peers != nil {
		certificate(store.UsePeer, s.peers.asked.keeper, true)
	}
	return r
}

// usage is how full the store is, in whole MiB so that it is not news all the
// time; nil where etcd does not tell this user.
func (s *server) usage(ctx context.Context) *store.Usage {
	u, err := s.store.Usage(ctx)
	if err != nil {
		return nil
	}
	const unit = 1 << 20
	u.Size = (u.Size + unit - 1) / unit * unit
	return &u
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
