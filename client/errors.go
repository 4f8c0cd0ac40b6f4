package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport/sallyport/trust"
)

// Error is a refusal or failure that a server answered with: the ARM error
// envelope, or the OAuth one of an authority (RFC 6749, 5.2). trust.KindOf tells
// its kind.
type Error struct {
	Status    int    // HTTP status; 0 for an operation that failed later
	Code      string // "ResourceNotFound"
	Message   string
	Target    string
	Hint      string // what to type next, "" if the server gave none
	Details   []Detail
	RequestID string // x-ms-request-id, to find the answer in the server's log

	retry time.Duration // Retry-After
}

func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// retryAfter is how long the server asks to wait, 0 if it does not say.
func retryAfter(err error) time.Duration {
	if e := asError(err); e != nil {
		return e.retry
	}
	return 0
}

// Detail is one entry of an ARM error's details.
type Detail struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Target  string `json:"target,omitempty"`
}

// Error gives code and message as az prints them.
func (e *Error) Error() string {
	if e.Code == "" {
		return e.Message
	}
	return "(" + e.Code + ") " + e.Message
}

// Unwrap lets trust.KindOf see the kind.
func (e *Error) Unwrap() error {
	return &trust.Error{Kind: kindOf(e.Status, e.Code), Code: e.Code, Target: e.Target, Message: e.Message, Hint: e.Hint}
}

func kindOf(status int, code string) trust.Kind {
	switch status {
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusUnprocessableEntity, http.StatusUnsupportedMediaType:
		return trust.Invalid
	case http.StatusUnauthorized:
		return trust.Unauthenticated
	case http.StatusForbidden:
		return trust.Forbidden
	case http.StatusNotFound:
		return trust.NotFound
	case http.StatusConflict:
		return trust.Conflict
	case http.StatusPreconditionFailed:
		return trust.Precondition
	case http.StatusRequestEntityTooLarge:
		return trust.TooLarge
	case http.StatusTooManyRequests:
		return trust.Throttled
	case http.StatusNotImplemented:
		return trust.Unsupported
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return trust.Unavailable
	case http.StatusGatewayTimeout:
		return trust.Timeout
	case 0: // an operation's error has a code only
		if code != "" && code != "InternalServerError" {
			return trust.Invalid
		}
	}
	return trust.Internal
}

type wireError struct {
	Code           string   `json:"code"`
	Message        string   `json:"message"`
	Target         string   `json:"target"`
	Details        []Detail `json:"details"`
	AdditionalInfo []struct {
		Type string          `json:"type"`
		Info json.RawMessage `json:"info"`
	} `json:"additionalInfo"`
}

// hint finds the next command among the additional information.
func (w *wireError) hint() string {
	for _, a := range w.AdditionalInfo {
		if trust.Fold(a.Type) != "hint" {
			continue
		}
		var info struct{ Hint string }
		if json.Unmarshal(a.Info, &info) == nil {
			return info.Hint
		}
	}
	return ""
}

func (w *wireError) into(status int, requestID string) *Error {
	return &Error{Status: status, Code: w.Code, Message: w.Message, Target: w.Target, Hint: w.hint(), Details: w.Details, RequestID: requestID}
}

// failure reads an answer that is not a success. The forms: {"error":{…}}, the
// same without the wrapper (AKS has sent both), OAuth's, and anything else.
func failure(res *http.Response, body []byte) *Error {
	id := res.Header.Get("X-Ms-Request-Id")
	var arm struct {
		Error json.RawMessage `json:"error"`
		wireError
		Description string `json:"error_description"`
	}
	if json.Unmarshal(body, &arm) == nil {
		var inner wireError
		var oauth string
		switch {
		case json.Unmarshal(arm.Error, &inner) == nil && inner.Code != "":
			return inner.into(res.StatusCode, id)
		case json.Unmarshal(arm.Error, &oauth) == nil && oauth != "":
			return &Error{Status: res.StatusCode, Code: oauth, Message: arm.Description, RequestID: id}
		case arm.Code != "":
			return arm.into(res.StatusCode, id)
		}
	}
	text := strings.TrimSpace(string(body))
	if len(text) > 300 {
		text = text[:300] + "…"
	}
	if text == "" {
		text = "the server gave no reason"
	}
	return &Error{Status: res.StatusCode, Message: fmt.Sprintf("HTTP %s: %s", res.Status, text), RequestID: id}
}

// unreachable explains a call that got no answer.
func unreachable(ctx context.Context, base string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		lookup    *net.DNSError
	)
	switch {
	case errors.As(err, &authority):
		e := trust.Errorf(trust.Unauthenticated, "the certificate of %s is not signed by a CA that is trusted here", base).Because(err)
		e.Hint = "give the server's CA with --ca-file, or its hash with --ca-hash; the server's operator finds both in the administrator's credential file"
		return e
	case errors.As(err, &name), errors.As(err, &invalid), errors.As(err, &verify):
		return trust.Errorf(trust.Unauthenticated, "the certificate of %s cannot be believed", base).Because(err)
	case errors.As(err, &lookup):
		return trust.Errorf(trust.Unavailable, "the host of %s has no address", base).Because(err)
	}
	e := trust.Errorf(trust.Unavailable, "%s does not answer", base).Because(err)
	e.Hint = "see that the server runs and can be reached from here; sallyport account list shows the servers that are known"
	return e
}
