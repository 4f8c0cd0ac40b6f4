package trust

import (
	"errors"
	"fmt"
)

// Kind says what sort of failure an error is. Each edge (the ARM API, the
// gateway, the CLI) translates kinds in one place.
type Kind uint8

// The kinds. Internal is the zero value: an error of unknown origin must never
// be shown as anything better.
const (
	Internal        Kind = iota
	Invalid              // the caller's input is wrong; the same call fails again
	Unauthenticated      // nobody known is calling
	Forbidden            // somebody known, who may not
	NotFound             // the named thing does not exist, or may not be seen
	Exists               // the name is taken
	Conflict             // another change is under way, or came first
	Precondition         // If-Match or If-None-Match did not hold
	TooLarge             // the body is over the limit
	Throttled            // too many requests
	Unsupported          // understood, and refused on purpose
	Unavailable          // a needed part is away; the same call may work later
	Timeout              // a needed part did not answer in time
)

var kindNames = [...]string{
	"internal", "invalid", "unauthenticated", "forbidden", "not found", "exists", "conflict",
	"precondition", "too large", "throttled", "unsupported", "unavailable", "timeout",
}

// String names the kind, for logs and metric labels.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return kindNames[Internal]
}

// Error is a failure that a person may be shown. Err, the cause, is for logs
// only and never leaves the process.
type Error struct {
	Kind    Kind
	Code    string // machine-readable code, ARM's where ARM has one; "" means the kind's default
	Target  string // the property or resource at fault, "" if none
	Message string // names the thing and the reason, in one sentence
	Hint    string // what to type or do next, "" if nothing helps
	Err     error
}

// Error returns the message and, after a colon, the cause.
func (e *Error) Error() string {
	if e.Err != nil {
		return e.Message + ": " + e.Err.Error()
	}
	return e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error of the given kind whose message may be shown. There is
// no %w: a cause goes into Err, by Because, so that internal text cannot slip
// into what a person sees.
func Errorf(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// Because returns a copy of e with err as its cause.
func (e *Error) Because(err error) *Error {
	c := *e
	c.Err = err
	return &c
}

// KindOf finds the kind of err: that of the outermost Error in its chain, or
// Internal.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}
