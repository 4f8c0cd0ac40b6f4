package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/trust"
)

// What callers ask for with errors.Is.
var (
	// ErrConflict: a comparison of a Commit did not hold. Always inside a
	// *ConflictError.
	ErrConflict = errors.New("another change came first")
	// ErrCompacted: a watch or a page of a list asked for a revision that is
	// gone. List again.
	ErrCompacted = errors.New("revision is compacted")
	// ErrPermission: this server's etcd user may not touch the key.
	ErrPermission = errors.New("the store's user lacks the permission")
	// ErrUnavailable: the store was away, too slow or full; the same call may
	// work later. In every error of kind Unavailable that the store makes
	// itself.
	ErrUnavailable = errors.New("store is unavailable")
	// ErrLeaseLost: the lease of an operation or a Lease has ended.
	ErrLeaseLost = errors.New("lease is lost")
)

// ConflictError tells which operation of a Commit did not hold. Nothing of the
// Commit was stored. Its kind is trust.Conflict.
type ConflictError struct {
	Op   int    // index into the operations given to Commit
	Key  string // the key compared, or the prefix of a Quiet
	Want int64  // revision expected, 0 for absent
	Have int64  // revision found, 0 for absent
}

// Error names the key and what was found.
func (e *ConflictError) Error() string {
	switch {
	case e.Have == 0:
		return fmt.Sprintf("%s does not exist any more", e.Key)
	case e.Want == 0:
		return fmt.Sprintf("%s exists already", e.Key)
	}
	return fmt.Sprintf("%s was changed in the meantime", e.Key)
}

// Unwrap gives the sentinel and the kind.
func (e *ConflictError) Unwrap() []error {
	return []error{ErrConflict, &trust.Error{
		Kind: trust.Conflict, Message: "another request changed the same thing first",
		Hint: "read it again and repeat the request",
	}}
}

// failed translates an error of etcd or of the call's context. ctx is the
// caller's own context, so that a caller's cancellation stays one; what is
// named is for the log.
func (s *Store) failed(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
	if s.ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, context.Cause(s.ctx))
	}
	return fmt.Errorf("%s: %w", what, translate(err))
}

// away is an error of the store's own of kind Unavailable; cause may be nil.
func away(cause error, hint, format string, args ...any) error {
	e := trust.Errorf(trust.Unavailable, format, args...)
	e.Hint, e.Err = hint, ErrUnavailable
	if cause != nil {
		e.Err = fmt.Errorf("%w: %w", ErrUnavailable, cause)
	}
	return e
}

// translate gives an error of the etcd client its kind.
func translate(err error) error {
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	switch {
	case is(rpctypes.ErrCompacted):
		return away(ErrCompacted, "", "the store no longer has that revision")
	case is(rpctypes.ErrPermissionDenied), // a refused watch has only the text
		strings.HasSuffix(err.Error(), rpctypes.ErrPermissionDenied.Error()):
		return trust.Errorf(trust.Internal, "the store's user may not do this").Because(ErrPermission)
	case is(rpctypes.ErrAuthFailed, rpctypes.ErrInvalidAuthToken, rpctypes.ErrUserEmpty, rpctypes.ErrUserNotFound):
		return away(err, "check the etcd user and password in the server's configuration",
			"the store does not accept this server's user and password")
	case is(rpctypes.ErrLeaseNotFound, rpctypes.ErrLeaseExist):
		return away(ErrLeaseLost, "", "this server's lease in the store has ended")
	case is(rpctypes.ErrNoSpace):
		return away(err, "restart the server to defragment an embedded store; for an etcd cluster: etcdctl defrag, then etcdctl alarm disarm",
			"the store is full: etcd's quota is used up")
	case is(rpctypes.ErrRequestTooLarge), // and gRPC's own limit, which has no error of its own
		status.Code(err) == codes.ResourceExhausted && strings.Contains(err.Error(), "larger than max"):
		return trust.Errorf(trust.TooLarge, "the record is too large for the store").Because(err)
	case is(rpctypes.ErrTooManyOps):
		e := trust.Errorf(trust.TooLarge, "the change touches more records than the store takes in one transaction")
		e.Hint = "run the etcd cluster with --max-txn-ops=4096"
		return e.Because(err)
	case errors.Is(err, context.DeadlineExceeded):
		return away(err, "", "the store did not answer in time")
	case errors.Is(err, context.Canceled):
		return away(err, "", "the store ended the call")
	}
	code := status.Code(err)
	var etcd rpctypes.EtcdError
	if errors.As(err, &etcd) {
		code = etcd.Code()
	}
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.ResourceExhausted:
		return away(err, "", "the store is not reachable")
	}
	return trust.Errorf(trust.Internal, "the store refused the call").Because(err)
}
