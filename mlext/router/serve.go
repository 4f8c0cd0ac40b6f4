package router

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/trust"
)

// exchange is one request and its answer.
type exchange struct {
	*Router
	w          http.ResponseWriter
	r          *http.Request
	entry      entry
	deployment *deployment // nil: none was found
	body       *payload
	begun      bool // the answer's head was sent
}

// maxAttempts of one request, each at a replica that takes no connection.
const maxAttempts = 10

// statusGone is what the log says of a caller that left; nobody gets it.
const statusGone = 499

// WriteTimeout, of the server before a Router, bounds a whole request: its body, the queue, the longest timeout.
const WriteTimeout = maxTimeout + 5*time.Minute

// ServeHTTP scores.
func (r *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	x := &exchange{Router: r, w: w, r: req}
	x.entry = entry{began: r.Now(), client: req.RemoteAddr, requestID: uuid.NewString(), clientID: clientRequestID(req.Header)}
	h := w.Header()
	id := []string{x.entry.requestID}
	h[requestIDHeader], h[serviceRequestIDHeader] = id, id
	if r.draining.Load() {
		// Whoever keeps connections makes another one elsewhere, before this one is
		// closed under a request.
		h["Connection"] = []string{"close"}
	}
	if x.entry.clientID != "" {
		h[clientRequestIDHeader] = []string{x.entry.clientID}
	}
	err := x.score()
	if err != nil {
		if req.ContentLength != 0 && !x.body.complete() {
			// The server reads on before it sends what follows.
			deadline(http.NewResponseController(w).SetReadDeadline, time.Now().Add(lingering))
		}
		x.refuse(err)
	}
	x.entry.took = r.Now().Sub(x.entry.began)
	if x.deployment != nil {
		x.deployment.metrics.observe(&x.entry)
	} else {
		r.metrics.refused.Inc()
	}
	r.access.write(&x.entry)
	if err != nil && x.begun {
		panic(http.ErrAbortHandler) // the caller must see that something is missing
	}
}

// score is the way of a request; every error is its end.
func (x *exchange) score() error {
	name, ok := endpointOf(x.r.URL.Path)
	if !ok || x.r.URL.RawPath != "" {
		return trust.Errorf(trust.NotFound, "endpoints are scored by POST /api/v1/endpoint/NAME/score")
	}
	given, err := credential(x.r.Header)
	if err != nil {
		return err
	}
	t := x.table.Load()
	e, err := t.authenticate(x.r.Context(), name, given, x.tokens)
	if err != nil {
		return err
	}
	x.entry.endpoint, x.entry.workspace = e.name, e.owner.Workspace
	if x.r.Method != http.MethodPost {
		return &failure{http.StatusMethodNotAllowed, "MethodNotAllowed", "endpoints are scored by POST", nil}
	}
	d, err := e.choose(x.r.Header)
	if err != nil {
		return err
	}
	x.deployment, x.entry.deployment = d, d.name
	x.w.Header()[deploymentHeader] = []string{d.name}
	if x.body, err = receive(x.w, x.r, x.MaxBody, x.bodyTimeout); err != nil {
		return err
	}
	defer x.body.release()
	if x.entry.read = x.body.length; x.entry.read < 0 {
		x.entry.read = int64(len(x.body.head))
	}
	outgoing(x.r.Header, x.entry.requestID, x.entry.clientID, d.name)
	return x.send(d)
}

// choose is the deployment that a request goes to.
func (e *endpoint) choose(h http.Header) (*deployment, error) {
	if asked := h[deploymentHeader]; len(asked) > 0 {
		if d := e.find(asked[0]); len(asked) == 1 && d != nil {
			return d, nil
		}
		return nil, trust.Errorf(trust.NotFound, "the endpoint %s has no deployment %.64q", e.name, asked[0])
	}
	name := e.split.next()
	if name == "" {
		return nil, trust.Errorf(trust.NotFound, "the endpoint %s sends traffic to no deployment", e.name)
	}
	if d := e.find(name); d != nil {
		return d, nil
	}
	return nil, trust.Errorf(trust.Unavailable, "the endpoint %s sends traffic to %s, which is not in the cluster", e.name, name)
}

// send finds a replica with room and carries the request there; to another one
// only if the first took no connection.
func (x *exchange) send(d *deployment) error {
	var err error
	for range maxAttempts {
		from := x.Now()
		var at *replica
		at, err = d.pool.take(x.r.Context(), patience{d.wait, x.seat.ready})
		x.entry.waited += x.Now().Sub(from)
		if err != nil {
			return err
		}
		var again bool
		if again, err = x.at(d, at); !again {
			return err
		}
		x.metrics.retried.Inc()
	}
	return trust.Errorf(trust.Unavailable, "no replica of the deployment takes connections").Because(err)
}

// at is attempt with the slot given back, whatever happens.
func (x *exchange) at(d *deployment, at *replica) (again bool, err error) {
	defer func() { d.pool.done(at, again) }()
	return x.attempt(at)
}

// failure is an end with a status of its own.
type failure struct {
	status        int
	code, message string
	cause         error
}

func (f *failure) Error() string { return f.message }
func (f *failure) Unwrap() error { return f.cause }

// failureOf is the one place where errors become answers.
func failureOf(err error) *failure {
	var f *failure
	var m *modelError
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &m):
		return &failure{http.StatusBadGateway, "ModelFailed", m.message, err}
	case errors.Is(err, errSlowBody):
		return &failure{http.StatusRequestTimeout, "RequestTimeout", errSlowBody.Error(), err}
	case errors.Is(err, errLeft), errors.Is(err, context.Canceled):
		return &failure{statusGone, "CallerLeft", errLeft.Error(), err}
	}
	var e *trust.Error
	if errors.As(err, &e) {
		switch e.Kind {
		case trust.Unauthenticated:
			return &failure{http.StatusUnauthorized, "Unauthorized", e.Message, err}
		case trust.NotFound:
			return &failure{http.StatusNotFound, "NotFound", e.Message, err}
		case trust.TooLarge:
			return &failure{http.StatusRequestEntityTooLarge, "PayloadTooLarge", e.Message, err}
		case trust.Unavailable:
			return &failure{http.StatusServiceUnavailable, "NoReplicaAvailable", e.Message, err}
		case trust.Timeout:
			return &failure{http.StatusGatewayTimeout, "RequestTimedOut", e.Message, err}
		}
	}
	return &failure{http.StatusInternalServerError, "InternalServerError", "the router failed", err}
}

// refuse answers with an error, if nothing was answered yet.
func (x *exchange) refuse(err error) {
	f := failureOf(err)
	x.entry.status, x.entry.failure = f.status, f.code
	if f.status >= 500 {
		x.Log.DebugContext(x.r.Context(), "request failed", "request_id", x.entry.requestID, "status", f.status, "error", err)
	}
	if x.begun || f.status == statusGone {
		x.begun = true // whatever was sent is not all
		return
	}
	h := x.w.Header()
	h["Content-Type"] = []string{"application/json"}
	switch f.status {
	case http.StatusUnauthorized:
		h["Www-Authenticate"] = []string{"Bearer"}
	case http.StatusMethodNotAllowed:
		h["Allow"] = []string{http.MethodPost}
	case http.StatusServiceUnavailable:
		h["Retry-After"] = []string{"1"}
	case http.StatusRequestTimeout, http.StatusRequestEntityTooLarge:
		h["Connection"] = []string{"close"} // the rest of the body is not read
	}
	var body struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	body.Error.Code, body.Error.Message = f.code, f.message
	data, failed := json.Marshal(body)
	if failed != nil {
		data = nil // two strings encode
	}
	h["Content-Length"] = []string{strconv.Itoa(len(data))}
	x.w.WriteHeader(f.status)
	_, _ = x.w.Write(data) // the caller is gone: nothing to do
}
