package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// call is one request that passed the checks so far.
type call struct {
	*Control
	ctx       context.Context
	request   *http.Request
	route     *route
	ids       arm.RequestIDs
	caller    trust.Caller
	version   string
	path      []string          // decoded segments
	asked     string            // the first action that the caller was asked to be allowed
	entry     *pendingActivity  // of the activity log; nil for reads
	connected bool              // the path names the cluster as a connected one
	head      bool              // HEAD, answered as the GET is, without a body
	vars      map[string]string // what the pattern's names stand for
	id        arm.ID            // what the request is about

	subscription store.Item[store.Subscription]
	group        store.Item[store.Group]
	cluster      store.Item[store.Cluster]
	source       store.Item[store.Source]
}

// answer is what a handler wants to be sent.
type answer struct {
	status int
	body   any // nil: no body
	header http.Header
}

func ok(body any) *answer      { return &answer{status: http.StatusOK, body: body} }
func empty(status int) *answer { return &answer{status: status} }
func created(body any) *answer { return &answer{status: http.StatusCreated, body: body} }
func (a *answer) h() http.Header {
	if a.header == nil {
		a.header = http.Header{}
	}
	return a.header
}

// serveARM does one request: the checks in ARM's order, then the resource.
func (c *Control) serveARM(w http.ResponseWriter, r *http.Request) {
	k := &call{Control: c, ctx: r.Context(), request: r, ids: arm.NewRequestIDs(r.Header, newUID())}
	k.ids.Write(w.Header(), c.Location, c.Now())
	start := c.Now()
	a, err := k.guarded(w.Header())
	status := 0
	if err != nil {
		status = k.fail(w, err)
	} else {
		status = k.send(w, a)
	}
	name := "none"
	if k.route != nil {
		name = k.route.method + " " + k.route.pattern
	}
	took := c.Now().Sub(start)
	c.metrics.requests.WithLabelValues(name, fmt.Sprint(status)).Observe(took.Seconds())
	c.Log.InfoContext(k.ctx, "control request", "method", r.Method, "path", r.URL.Path, "status", status,
		"request", k.ids.Request, "correlation", k.ids.Correlation, "caller", k.caller.Object, "took", took)
}

// guarded turns a panic into an error.
func (k *call) guarded(h http.Header) (a *answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			k.Log.ErrorContext(k.ctx, "control request panicked", "request", k.ids.Request, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			a, err = nil, trust.Errorf(trust.Internal, "panic")
		}
	}()
	return k.pass(h)
}

// pass is the order of the checks, ARM's: authentication, api-version,
// subscription, provider, authorization, resource group, parent, locks, and then
// the resource.
// Authorization before existence, so that no name can be probed. h are the
// answer's headers.
func (k *call) pass(h http.Header) (*answer, error) {
	if err := k.authenticate(); err != nil {
		return nil, err
	}
	if err := k.match(); err != nil {
		return nil, err
	}
	var err error
	if k.version, err = k.route.versions.Check(k.request.URL.Query(), k.typ(), k.Location, k.Locations...); err != nil {
		return nil, err
	}
	if err := k.reserved(); err != nil {
		return nil, err
	}
	missing := k.findSubscription()
	if err := k.throttle(h); err != nil {
		return nil, err
	}
	if missing != nil {
		return nil, missing
	}
	if err := k.demandProvider(); err != nil {
		return nil, err
	}
	if err := k.authorize(); err != nil {
		return nil, err
	}
	if err := k.findParents(); err != nil {
		return nil, err
	}
	if m := k.route.method; k.subscription.Revision != 0 && (m == http.MethodPut || m == http.MethodPatch || m == http.MethodPost) {
		if err := subscriptionOpen(&k.subscription.Value); err != nil {
			return nil, err
		}
	}
	a, err := k.recorded()
	if err == nil && k.head {
		a = empty(http.StatusNoContent)
	}
	return a, k.raced(err)
}

// raced is what a write that lost against another is told: that its condition
// does not hold any more, if it made one, and by AKS that something else goes on.
func (k *call) raced(err error) error {
	switch {
	case !errors.Is(err, store.ErrConflict):
		return err
	case arm.ParseConditions(k.request.Header).Given():
		return arm.Errorf(trust.Precondition, arm.PreconditionFailed, "The condition of the request is not met any more: another request changed the resource first.").Because(err)
	case strings.HasPrefix(k.typ(), "Microsoft.ContainerService/"):
		e := pending(arm.Updating)
		return e.Because(err)
	}
	return err
}

func (k *call) typ() string {
	if k.route.typ != "" {
		return k.route.typ
	}
	return k.id.Type()
}

// authenticate says who calls. Only callers of this installation's own issuer
// and tenant are known here: a principal's id means nothing without them.
func (k *call) authenticate() error {
	token, given := arm.Bearer(k.request.Header)
	if !given {
		return arm.Errorf(trust.Unauthenticated, arm.AuthenticationFailed, "Authentication failed. The 'Authorization' header is missing or not one Bearer token.")
	}
	caller, err := k.Authenticate(k.ctx, token)
	if err != nil {
		return err
	}
	if caller.Object == "" || caller.Issuer != k.Issuer {
		return arm.Errorf(trust.Unauthenticated, arm.InvalidAuthenticationToken, "The access token is from the wrong issuer '%.200s'. It must be issued by '%s'.", caller.Issuer, k.Issuer)
	}
	if trust.Fold(caller.Tenant) != trust.Fold(k.Tenant) {
		return arm.Errorf(trust.Unauthenticated, arm.InvalidAuthenticationTokenTenant, "The access token is from the wrong tenant '%.64s'. It must match the tenant '%s' associated with this subscription.", caller.Tenant, k.Tenant)
	}
	if a := strings.TrimSuffix(caller.Audience, "/"); a != k.BaseURL {
		return arm.Errorf(trust.Unauthenticated, arm.InvalidAuthenticationToken, "The access token has been obtained for wrong audience '%.200s'. Please use '%s'.", caller.Audience, k.BaseURL)
	}
	k.caller = caller
	return nil
}

func (k *call) findSubscription() error {
	if k.route.need&needSubscription == 0 || k.id.Subscription == "" {
		return nil
	}
	var err error
	k.subscription, err = store.Get[store.Subscription](k.ctx, k.Store, store.ResourceKey(k.id.SubscriptionID().String()))
	return missing(err, arm.NoResource(k.id.SubscriptionID()))
}

// findParents loads what must exist around the resource, outermost first.
func (k *call) findParents() error {
	need := k.route.need
	var err error
	if need&needGroup != 0 && k.id.Group != "" {
		if k.group, err = store.Get[store.Group](k.ctx, k.Store, store.ResourceKey(k.id.GroupID().String())); err != nil {
			return missing(err, arm.NoResource(k.id.GroupID()))
		}
	}
	if need&needCluster != 0 {
		id := clusterOf(k.id)
		absent := error(arm.NoParent(id))
		if id.Equal(k.id) {
			absent = arm.NoResource(id)
		}
		if k.cluster, err = store.Get[store.Cluster](k.ctx, k.Store, store.ResourceKey(id.String())); err != nil {
			return missing(err, absent)
		}
	}
	if need&needSource != 0 {
		id := sourceOf(k.id)
		if k.source, err = store.Get[store.Source](k.ctx, k.Store, store.ResourceKey(id.String())); err != nil {
			return missing(err, arm.NoParent(id))
		}
	}
	return nil
}

// missing is the store's NotFound in ARM's words, any other error as it is.
func missing(err error, as error) error {
	if trust.KindOf(err) == trust.NotFound {
		return as
	}
	return err
}

// decode reads the body of a PUT, PATCH or POST of a resource.
func (k *call) decode(into any) ([]byte, error) {
	data, err := arm.ReadBody(k.request)
	if err != nil {
		return nil, err
	}
	return data, arm.DecodeResource(data, into)
}

// durable is the context for what must be done once it is begun: a caller that
// hangs up leaves the old or the new, and what follows a commit is still done.
func (k *call) durable() context.Context { return context.WithoutCancel(k.ctx) }

func (k *call) send(w http.ResponseWriter, a *answer) int {
	for name, values := range a.header {
		w.Header()[name] = values
	}
	if a.body == nil {
		w.WriteHeader(a.status)
		return a.status
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(a.body); err != nil {
		return k.fail(w, fmt.Errorf("encode answer: %w", err))
	}
	w.Header().Set("Content-Type", arm.ContentType)
	w.WriteHeader(a.status)
	if _, err := w.Write(b.Bytes()); err != nil {
		k.Log.DebugContext(k.ctx, "answer not sent", "request", k.ids.Request, "error", err)
	}
	return a.status
}

// fail is the one place where errors become answers.
func (k *call) fail(w http.ResponseWriter, err error) int {
	if errors.Is(err, context.Canceled) && k.ctx.Err() != nil {
		err = trust.Errorf(trust.Unavailable, "the caller hung up").Because(err)
	}
	status, body := arm.Translate(err)
	h := w.Header()
	var m *methodError
	if errors.As(err, &m) {
		h.Set("Allow", m.allow)
	}
	switch status {
	case http.StatusUnauthorized:
		code, text := "", ""
		if k.request.Header.Get("Authorization") != "" {
			code, text = "invalid_token", body.Error.Message
		}
		h.Set("WWW-Authenticate", arm.Challenge(k.BaseURL+"/"+k.Tenant, code, text))
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		after := retryAfter
		if t := (*throttled)(nil); errors.As(err, &t) {
			after = t.after
		}
		arm.RetryAfter(h, after)
	case http.StatusInternalServerError:
		k.Log.ErrorContext(k.ctx, "control request failed", "request", k.ids.Request, "method", k.request.Method, "path", k.request.URL.Path, "error", err)
	}
	h.Set("x-ms-error-code", body.Error.Code)
	a := &answer{status: status, body: body}
	return k.send(w, a)
}
