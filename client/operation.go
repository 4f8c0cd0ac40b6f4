package client

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport/trust"
)

const (
	firstPoll = 150 * time.Millisecond
	lastPoll  = 5 * time.Second
)

// Operation is a long-running operation that a call began. It follows
// Azure-AsyncOperation, else Location, else the resource's own
// provisioningState, as ARM clients do.
type Operation struct {
	c                 *Client
	path, version     string // of the resource
	method            string
	async, location   string
	wait              time.Duration // Retry-After of the last answer
	Initial           *Response     // the answer that began it
	Status, Reason    string        // as last seen; Reason is what it waits for, or what is left once it has succeeded; "" if the server does not say
	done              bool
	resourceDiscarded bool
}

// status is an operation's document, or a resource that carries its own state.
type status struct {
	Status     string     `json:"status"`
	Error      *wireError `json:"error"`
	Properties struct {
		ProvisioningState string `json:"provisioningState"`
		Reason            string `json:"reason"`
	} `json:"properties"`
}

// Begin makes a call that may go on after its answer.
func (c *Client) Begin(ctx context.Context, r Request) (*Operation, error) {
	res, err := c.Do(ctx, r)
	if err != nil {
		return nil, err
	}
	o := &Operation{c: c, path: r.Path, version: r.Version, method: r.Method, Initial: res,
		async: res.Header.Get("Azure-AsyncOperation"), location: res.Header.Get("Location")}
	o.wait = seconds(res.Header.Get("Retry-After"))
	o.resourceDiscarded = r.Method == http.MethodDelete || r.Method == http.MethodPost
	var s status
	if json.Unmarshal(res.Body, &s) == nil {
		o.Status, o.Reason = s.Properties.ProvisioningState, s.Properties.Reason
	}
	switch {
	case o.async != "", o.location != "" && res.Status != http.StatusNoContent:
	case o.Status == "" || terminal(o.Status) || o.resourceDiscarded:
		o.done = true
	}
	return o, nil
}

// Wait follows the operation to its end. tell, if not nil, is called after each
// look, with Status and Reason up to date. The result of a PUT or PATCH is the
// resource as it is then; of anything else the last answer's body. A failed
// operation is an *Error.
func (o *Operation) Wait(ctx context.Context, tell func(*Operation)) (json.RawMessage, error) {
	poll := &backoff{first: firstPoll, most: lastPoll, now: firstPoll}
	for !o.done {
		if tell != nil {
			tell(o)
		}
		wait := poll.next()
		if poll.now > time.Second { // a quick first look costs nobody anything
			wait = max(wait, min(o.wait, maxRetry))
		}
		if err := sleep(ctx, wait); err != nil {
			return nil, context.Cause(ctx)
		}
		if err := o.look(ctx); err != nil {
			return nil, err
		}
	}
	if o.resourceDiscarded {
		return o.Initial.Body, nil
	}
	if o.async == "" && o.location == "" {
		return o.Initial.Body, nil
	}
	return o.c.Get(ctx, o.path, o.version)
}

// look asks once.
func (o *Operation) look(ctx context.Context) error {
	at, version := o.async, ""
	if at == "" {
		at = o.location
	}
	if at == "" {
		at, version = o.path, o.version
	}
	res, err := o.c.Do(ctx, Request{Method: http.MethodGet, Path: at, Version: version})
	if err != nil {
		return err
	}
	o.wait = seconds(res.Header.Get("Retry-After"))
	if o.async == "" && o.location != "" {
		o.done = res.Status != http.StatusAccepted
		return nil
	}
	s, err := decode[status](res.Body)
	if err != nil {
		return err
	}
	o.Status, o.Reason = s.Status, s.Properties.Reason
	if o.Status == "" {
		o.Status = s.Properties.ProvisioningState
		if o.async == "" {
			o.Initial = res
		}
	}
	if !terminal(o.Status) {
		return nil
	}
	o.done = true
	if strings.EqualFold(o.Status, "Succeeded") {
		return nil
	}
	if s.Error != nil {
		return s.Error.into(0, res.Header.Get("X-Ms-Request-Id"))
	}
	return trust.Errorf(trust.Invalid, "the operation ended as %s; the server gave no reason", o.Status)
}

func terminal(s string) bool {
	return strings.EqualFold(s, "Succeeded") || strings.EqualFold(s, "Failed") || strings.EqualFold(s, "Canceled")
}
