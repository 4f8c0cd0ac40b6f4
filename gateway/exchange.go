package gateway

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/request"
	"github.com/sallyport/sallyport/trust"
	"github.com/sallyport/sallyport/tunnel"
)

// exchange is one request on its way through the steps.
type exchange struct {
	g      *Gateway
	w      http.ResponseWriter
	r      *http.Request
	handle *tunnel.Handle

	unreset func() bool // leaves the caller's connection alone

	from    netip.Addr
	request *request.Request // nil before it was parsed
	flight  *flight
	event   audit.Event
	started bool // the header of an answer was sent

	unrecorded bool // refused because nothing can be recorded
}

// serve is the whole path of one request.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) {
	cluster, target, ok := request.SplitCluster(r.RequestURI)
	if !ok {
		request.WriteStatus(w, trust.Errorf(trust.NotFound, "this is a Sallyport gateway: Kubernetes paths begin with /clusters/<uid>"), nil, 0)
		return
	}
	x := &exchange{g: g, w: w, r: r, from: g.clientAddress(r)}
	// Field by field: an Event is large, and so would be this function's frame.
	e := &x.event
	e.Stage, e.ID, e.Received, e.Cluster = audit.ResponseComplete, newID(), g.now(), cluster
	path, _, _ := strings.Cut(target, "?")
	e.RequestURI, e.Verb, e.UserAgent = cut(path), cut(r.Method), cut(r.UserAgent())
	if x.from.IsValid() {
		e.SourceIP = x.from.String()
	}
	w.Header()[request.AuditID] = []string{x.event.ID}
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		// Or net/http would wait for the body before an answer that comes early.
		_ = http.NewResponseController(w).EnableFullDuplex()
	}
	x.handle = tunnel.NewHandle(w, r)
	x.unreset = resetWithEnd(x.handle, r)
	defer x.finish()
	if err := x.steps(cluster, target); err != nil {
		x.refuse(err, target)
	}
}

// cut is how much of what anybody can send is written down, as in Kubernetes'
// own audit log.
func cut(s string) string {
	const most = 1024
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// steps are the order of the request path.
func (x *exchange) steps(cluster trust.ClusterUID, target string) error {
	g, r := x.g, x.r
	if g.draining.Load() {
		x.w.Header().Set("Connection", "close")
		return errShutdown
	}
	if err := g.config.Audit.Admit(r.Method == http.MethodGet || r.Method == http.MethodHead); err != nil {
		x.unrecorded = true
		return err
	}
	if err := g.replica.ready(); err != nil {
		return err
	}
	if err := g.table.ready(g.now()); err != nil {
		return err
	}
	caller, err := g.authenticate(x.handle.Context(), r.Header, cluster)
	if err != nil {
		return err
	}
	x.event.Caller = caller
	found := g.table.find(caller, cluster)
	if len(found) == 0 {
		return unbound(caller, cluster)
	}
	// The server gives the bodies of strangers little time. From here on the
	// handle decides when reading ends.
	if r.ContentLength != 0 {
		_ = http.NewResponseController(x.w).SetReadDeadline(time.Time{})
	}
	if x.request, err = parse(r, target); err != nil {
		return err
	}
	x.event.Attributes, x.event.RequestURI = &x.request.Attributes, x.request.Redacted()
	if g.config.WholeTargets {
		x.event.RequestURI = x.request.Target.URI()
	}
	x.event.Upgrade = x.request.Upgrade
	if err := g.config.Audit.Admit(audit.Reads(x.request.Attributes.Verb)); err != nil {
		x.unrecorded = true
		return err
	}
	// Registered first, decided second: what takes the right away in between
	// finds the flight.
	f := &flight{id: x.event.ID, handle: x.handle, caller: caller, from: x.from, cluster: cluster, attributes: &x.request.Attributes}
	if err := g.flights.add(f); err != nil {
		return err
	}
	x.flight = f
	decision, err := g.table.decide(f, found, x.from)
	if err != nil {
		return g.explain(err, caller, found, x.request)
	}
	if !g.config.Authn.Current(caller) {
		return errIdentity
	}
	b := f.bound.Load()
	if err := g.flights.bind(f, b.UID); err != nil {
		return err
	}
	x.event.Allowed, x.event.Binding, x.event.Role = true, &b.Binding, decision.Role
	x.event.Reason = "the base set of every bound source"
	if decision.Role != "" {
		x.event.Reason = "role " + string(decision.Role)
	}
	return x.pass(cluster, b)
}

// parse reads the Kubernetes request.
func parse(r *http.Request, target string) (*request.Request, error) {
	if err := request.CheckRequestHeaders(r.Header, r.Trailer); err != nil {
		return nil, err
	}
	upgrade, err := request.Upgrade(r.Header, r.ProtoMajor, r.ContentLength)
	if err != nil {
		return nil, err
	}
	return request.Parse(r.Method, target, upgrade)
}

// pass sends the request on and its answer back.
func (x *exchange) pass(cluster trust.ClusterUID, b *bound) error {
	out, err := x.outgoing(b)
	if err != nil {
		return err
	}
	if x.request.Upgrade != "" {
		return x.upgrade(cluster, out)
	}
	return x.proxy(cluster, out)
}

// begin notes that an answer of the cluster begins.
func (x *exchange) begin() {
	x.started = true
	x.flight.begin()
}

// refuse answers with a Status, if nothing was answered yet.
func (x *exchange) refuse(err error, target string) {
	x.event.Message = err.Error()
	var te *trust.Error
	if errors.As(err, &te) {
		x.event.Message = te.Message
	}
	if !x.event.Allowed {
		x.event.Reason = x.event.Message
	}
	if x.started {
		return
	}
	if x.handle.Context().Err() != nil {
		// Ended, by us or by the caller. Nothing can be written any more, and
		// nothing must look like an answer.
		panic(http.ErrAbortHandler)
	}
	x.event.Code = request.CodeOf(err)
	retry := 0
	switch trust.KindOf(err) {
	case trust.Unavailable, trust.Throttled:
		retry = 1
	}
	if x.event.Code == http.StatusUnauthorized {
		x.w.Header().Set("WWW-Authenticate", "Bearer")
	}
	x.started = true
	attributes := x.event.Attributes
	if attributes == nil { // refused before it was read: the form of the answer needs to know
		if read, err := parse(x.r, target); err == nil {
			attributes = &read.Attributes
		}
	}
	request.Refuse(x.w, x.r, err, attributes, retry)
}

// finish lets go of the request and writes its record. It runs whatever
// happened before, an abort included.
func (x *exchange) finish() {
	cause := context.Cause(x.handle.Context())
	x.unreset()
	x.handle.Done()
	if x.flight != nil {
		x.g.flights.remove(x.flight)
	}
	x.event.At = x.g.now()
	if x.event.Ended == "" && cause != nil {
		x.event.Ended = endReason(cause)
	}
	x.g.metrics.count(x)
	if !x.unrecorded {
		_ = x.g.config.Audit.Record(x.r.Context(), &x.event) // a loss is counted and logged there
	}
}

// recordStart writes the first of the two records of a request that runs long.
func (x *exchange) recordStart(code int) {
	e := x.event
	e.Stage, e.At, e.Code = audit.ResponseStarted, x.g.now(), code
	_ = x.g.config.Audit.Record(x.r.Context(), &e)
}

// endReason says in a record why a request ended.
func endReason(cause error) string {
	var te *trust.Error
	if errors.As(cause, &te) {
		return te.Message
	}
	if errors.Is(cause, context.Canceled) {
		return "the caller left"
	}
	return "the connection broke"
}

// newID makes a request id: a random (version 4) UUID, RFC 9562.
func newID() string {
	var u [16]byte // to be told from all others; nothing rests on its being secret
	binary.LittleEndian.PutUint64(u[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(u[8:], rand.Uint64())
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	var b [36]byte
	hex.Encode(b[0:8], u[0:4])
	b[8] = '-'
	hex.Encode(b[9:13], u[4:6])
	b[13] = '-'
	hex.Encode(b[14:18], u[6:8])
	b[18] = '-'
	hex.Encode(b[19:23], u[8:10])
	b[23] = '-'
	hex.Encode(b[24:36], u[10:16])
	return string(b[:])
}
