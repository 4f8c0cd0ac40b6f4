package store

import (
	"context"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// What only tests need of the inside.

// Compact makes etcd forget what is older than a revision.
func (s *Store) Compact(ctx context.Context, revision int64) error {
	_, err := s.client.Compact(ctx, revision, clientv3.WithCompactPhysical())
	return err
}

// Client is the etcd client.
func (s *Store) Client() *clientv3.Client { return s.client }

// RevokeByForce ends a lease behind its holder's back.
func (l *Lease) RevokeByForce(ctx context.Context) error {
	_, err := l.store.client.Revoke(ctx, l.id)
	return err
}

// Within, Span and EtcdLogger are tested by themselves.
var (
	Within     = within
	Span       = span
	EtcdLogger = etcdLogger
)

// Sized sets the size metrics.
func (s *Store) Sized(size, quota int64) bool { return s.metrics.sized(size, quota) }

// RaiseNoSpace raises etcd's alarm of a used-up quota.
func (s *Store) RaiseNoSpace(ctx context.Context) error {
	_, err := s.embedded.etcd.Server.Alarm(ctx, &etcdserverpb.AlarmRequest{
		Action: etcdserverpb.AlarmRequest_ACTIVATE, Alarm: etcdserverpb.AlarmType_NOSPACE,
	})
	return err
}
