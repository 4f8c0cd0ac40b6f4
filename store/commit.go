package store

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/trust"
)

// Op is one part of a Commit: a comparison, a change, or a comparison with its
// change.
type Op struct {
	key     string
	value   string
	write   write
	compare compare
	rev     int64
	lease   clientv3.LeaseID
	err     error
}

type (
	write   uint8
	compare uint8
)

const (
	writeNothing write = iota
	writePut
	writeDelete
)

const (
	compareNothing compare = iota
	compareKey             // the key's revision is rev; 0 means absent
	compareQuiet           // nothing below the key is newer than rev
)

func put(r Record) Op {
	op := Op{key: r.Key(), write: writePut}
	if op.err = checkKey(op.key); op.err == nil {
		op.value, op.err = encode(r)
	}
	return op
}

// Create stores r, which must not exist.
func Create(r Record) Op {
	op := put(r)
	op.compare = compareKey
	return op
}

// Update stores r, whose revision must still be rev.
func Update(r Record, rev int64) Op {
	op := put(r)
	op.compare, op.rev = compareKey, rev
	if rev <= 0 && op.err == nil {
		op.err = trust.Errorf(trust.Internal, "update of %s without a revision", op.key)
	}
	return op
}

// Put stores r, whatever was there.
func Put(r Record) Op { return put(r) }

// Delete removes a key whose revision must still be rev; with rev 0 whatever
// is there, or nothing.
func Delete(key string, rev int64) Op {
	op := Op{key: key, write: writeDelete, err: checkKey(key)}
	if rev != 0 {
		op.compare, op.rev = compareKey, rev
	}
	return op
}

// Guard changes nothing; the key's revision must still be rev.
func Guard(key string, rev int64) Op {
	return Op{key: key, compare: compareKey, rev: rev, err: checkKey(key)}
}

// Absent changes nothing; the key must not exist.
func Absent(key string) Op { return Guard(key, 0) }

// Quiet changes nothing; no key below prefix may have been made or changed
// since revision rev (of a List). Removed keys are not noticed. The prefix must
// end in "/".
func Quiet(prefix string, rev int64) Op {
	op := Op{key: prefix, compare: compareQuiet, rev: rev}
	if from, _ := span(prefix); from == prefix && prefix[len(prefix)-1] != '/' {
		op.err = trust.Errorf(trust.Internal, "%q is not a prefix that ends in /", prefix)
	}
	return op
}

// Under puts what op stores under the lease: it vanishes when the lease ends.
func Under(lease *Lease, op Op) Op {
	op.lease = lease.id
	if op.write != writePut && op.err == nil {
		op.err = trust.Errorf(trust.Internal, "nothing to put under a lease at %s", op.key)
	}
	return op
}

// condition is op's comparison, as etcd writes it.
func (op Op) condition() (clientv3.Cmp, bool) {
	switch op.compare {
	case compareKey:
		return clientv3.Compare(clientv3.ModRevision(op.key), "=", op.rev), true
	case compareQuiet:
		_, end := span(op.key)
		return clientv3.Compare(clientv3.ModRevision(op.key), "<", op.rev+1).WithRange(end), true
	}
	return clientv3.Cmp{}, false
}

// probe finds out, inside the failed transaction, whether the comparison held.
func (op Op) probe() clientv3.Op {
	if op.compare == compareQuiet {
		_, end := span(op.key)
		return clientv3.OpGet(op.key, clientv3.WithRange(end), clientv3.WithKeysOnly(),
			clientv3.WithMinModRev(op.rev+1), clientv3.WithLimit(1))
	}
	return clientv3.OpGet(op.key, clientv3.WithKeysOnly())
}

// Commit does all of ops in one transaction, or nothing, and returns its
// revision; once it returns without an error the change is on disk. A
// comparison that does not hold is a *ConflictError. After any other error the
// change may or may not have been stored: read before repeating.
func (s *Store) Commit(ctx context.Context, ops ...Op) (int64, error) {
	var (
		conditions []clientv3.Cmp
		probes     []clientv3.Op
		compared   []int // indexes into ops
		changes    []clientv3.Op
		written    = make(map[string]bool, len(ops))
	)
	for i, op := range ops {
		if op.err != nil {
			return 0, fmt.Errorf("commit: operation %d: %w", i, op.err)
		}
		if c, ok := op.condition(); ok {
			conditions, probes, compared = append(conditions, c), append(probes, op.probe()), append(compared, i)
		}
		switch op.write {
		case writePut:
			changes = append(changes, clientv3.OpPut(op.key, op.value, clientv3.WithLease(op.lease)))
		case writeDelete:
			changes = append(changes, clientv3.OpDelete(op.key))
		case writeNothing:
			continue
		}
		if written[op.key] {
			return 0, trust.Errorf(trust.Internal, "commit: %s is written twice", op.key)
		}
		written[op.key] = true
	}
	if len(ops) == 0 {
		return 0, trust.Errorf(trust.Internal, "commit: no operations")
	}
	if len(changes) > 0 {
		if err := s.room(); err != nil {
			return 0, fmt.Errorf("commit: %w", err)
		}
	}
	if ctx.Err() != nil { // in process, etcd would do it all the same
		return 0, s.failed(ctx, "commit", ctx.Err())
	}
	cctx, done := s.call(ctx)
	defer done()
	defer s.observe(time.Now())
	resp, err := s.client.Txn(cctx).If(conditions...).Then(changes...).Else(probes...).Commit()
	if err != nil {
		return 0, s.failed(ctx, "commit", err)
	}
	if resp.Succeeded {
		return resp.Header.Revision, nil
	}
	s.metrics.conflicts.Inc()
	for n, r := range resp.Responses {
		i, kvs := compared[n], r.GetResponseRange().GetKvs()
		conflict := &ConflictError{Op: i, Key: ops[i].key, Want: ops[i].rev}
		if len(kvs) > 0 {
			conflict.Key, conflict.Have = string(kvs[0].Key), kvs[0].ModRevision
		}
		held := conflict.Have == conflict.Want
		if ops[i].compare == compareQuiet {
			held = len(kvs) == 0
		}
		if !held {
			return 0, fmt.Errorf("commit: %w", conflict)
		}
	}
	return 0, trust.Errorf(trust.Internal, "commit: a comparison failed and all of them hold")
}

// room refuses a write while the disk of an embedded store is nearly full.
func (s *Store) room() error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	if s.embedded == nil {
		return nil
	}
	return s.embedded.room()
}
