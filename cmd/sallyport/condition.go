package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/trust"
)

// Between what a command reads and what it writes somebody else may write: it
// says under which condition its own write is meant.

// ifNone is the condition that there is nothing yet, ifAny that there is
// something, ifSame that it is still what had a tag; without one, ifAny.
func ifNone() http.Header { return http.Header{"If-None-Match": {"*"}} }
func ifAny() http.Header  { return http.Header{"If-Match": {"*"}} }

func ifSame(tag string) http.Header {
	if tag == "" {
		return ifAny()
	}
	return http.Header{"If-Match": {tag}}
}

// unmet tells that a request's condition did not hold.
func unmet(err error) bool {
	var e *client.Error
	return errors.As(err, &e) && e.Status == http.StatusPreconditionFailed
}

// made is the error of a request under ifNone: somebody else was faster.
func made(err, exists error) error {
	if unmet(err) {
		return exists
	}
	return err
}

// overtakes is how often a change is made again after others overtook it.
const overtakes = 8

// amend reads a resource, lets change say what it should be, and writes that, if
// nobody has written meanwhile; otherwise again. With orMake change gets nil for
// what is not there.
func (a *app) amend(ctx context.Context, what, id, version string, orMake bool, change func(was json.RawMessage) (any, error)) (json.RawMessage, error) {
	c, err := a.session()
	if err != nil {
		return nil, err
	}
	for range overtakes {
		condition, was := ifNone(), json.RawMessage(nil)
		res, err := c.Do(ctx, client.Request{Method: http.MethodGet, Path: id, Version: version})
		switch {
		case err == nil:
			condition, was = ifSame(res.Header.Get("ETag")), res.Body
		case !orMake || !notFound(err):
			return nil, err
		}
		body, err := change(was)
		if err != nil {
			return nil, err
		}
		raw, err := a.begin(ctx, what, client.Request{Method: http.MethodPut, Path: id, Version: version, Body: body, Header: condition})
		if !unmet(err) {
			return raw, err
		}
	}
	e := trust.Errorf(trust.Conflict, "others change %s all the time", id)
	e.Hint = "type the same command again"
	return nil, e
}
