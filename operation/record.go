package operation

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// NewRecord makes an operation in progress with a new id. Commit it with
// store.Create in the transaction that stores what it works on; runners see it
// from there. input is encoded as JSON.
func NewRecord(kind, subscription, location, target, caller string, input any) (store.Operation, error) {
	b, err := json.Marshal(input)
	if err != nil {
		return store.Operation{}, fmt.Errorf("encode input of %s: %w", kind, err)
	}
	id, err := uuid.NewRandom()
	if err != nil {
		return store.Operation{}, fmt.Errorf("make operation id: %w", err)
	}
	return store.Operation{
		ID: id.String(), Kind: kind, Subscription: subscription, Location: location,
		Target: target, Caller: caller, Status: store.OperationInProgress,
		Started: time.Now().UTC(), Input: b,
	}, nil
}

// Failer is an error that says itself what is stored of it.
type Failer interface {
	error
	Failure() store.Failure
}

// remark is an end that is none of failure.
type remark string

func (r remark) Error() string { return string(r) }

// Remark, returned by a handler, ends its operation as Succeeded with something
// that should be known: one readable sentence, kept as the reason.
func Remark(text string) error { return remark(text) }

// codes are the stored codes of errors that bring none of their own.
var codes = map[trust.Kind]string{
	trust.Internal:        "InternalServerError",
	trust.Invalid:         "InvalidParameter",
	trust.Unauthenticated: "AuthenticationFailed",
	trust.Forbidden:       "AuthorizationFailed",
	trust.NotFound:        "NotFound",
	trust.Exists:          "Conflict",
	trust.Conflict:        "Conflict",
	trust.Precondition:    "PreconditionFailed",
	trust.TooLarge:        "RequestEntityTooLarge",
	trust.Throttled:       "TooManyRequests",
	trust.Unsupported:     "NotSupported",
	trust.Unavailable:     "ServiceUnavailable",
	trust.Timeout:         "Timeout",
}

// problem is what a person may see of a handler's error: the message of a
// trust.Error, never its cause.
func problem(op *store.Operation, err error) *store.Failure {
	var f Failer
	if errors.As(err, &f) {
		p := f.Failure()
		return &p
	}
	var e *trust.Error
	if !errors.As(err, &e) || e.Kind == trust.Internal {
		return &store.Failure{
			Code:    codes[trust.Internal],
			Message: fmt.Sprintf("An internal error ended the operation; the server's log has it under %s.", op.ID),
			Target:  op.Target,
		}
	}
	p := &store.Failure{Code: e.Code, Message: e.Message, Target: e.Target}
	if p.Code == "" {
		p.Code = codes[e.Kind]
	}
	if e.Hint != "" {
		p.Message += ". " + e.Hint
	}
	return p
}
