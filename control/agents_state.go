package control

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// heartbeat is how often a silent state stream says that it lives.
const heartbeat = 10 * time.Second

// streamWrite is how long one line may take to be written.
const streamWrite = 20 * time.Second

// state is one long answer: the cluster's signed state, and again at each
// change, until the agent hangs up, its certificate ends, or its cluster goes.
func (c *Control) state(w http.ResponseWriter, r *http.Request, a *agent, _ []byte) error {
	held, err := floorOf(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithDeadline(r.Context(), a.cert.NotAfter)
	defer cancel()
	topic := []string{topicMandate(a.cluster)}
	woken, stop := c.picture.any(ctx, topic)
	defer func() { stop() }()
	now, signed, err := c.signedState(ctx, a)
	if err != nil {
		return err
	}
	c.metrics.streams.Inc()
	defer c.metrics.streams.Dec()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	out := stateWriter{w: w, control: http.NewResponseController(w)}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	defer out.done()
	first := true
	for {
		if first || now != held {
			line := signed
			if now == held { // an agent that comes back with the newest needs no copy
				line = nil
			}
			if err := out.line(line); err != nil {
				return errStreaming
			}
			held, first = now, false
		}
		select {
		case <-ctx.Done():
			return errStreaming
		case <-beat.C:
			if err := out.line(nil); err != nil {
				return errStreaming
			}
			continue
		case <-woken:
		}
		stop()
		woken, stop = c.picture.any(ctx, topic)
		if now, signed, err = c.signedState(ctx, a); err != nil {
			// The agent comes back at once, and is told why if it is refused.
			c.Log.WarnContext(ctx, "state stream ended", "cluster", a.cluster, "agent", a.name, "error", err)
			return errStreaming
		}
	}
}

// stateWriter writes lines that arrive at once.
type stateWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (s stateWriter) line(signed []byte) error {
	line, err := json.Marshal(struct {
		State []byte `json:"state,omitempty"`
	}{signed})
	if err != nil {
		return err
	}
	// An agent that does not read must not hold a goroutine for ever. The clock
	// is the network's, not the configured one.
	_ = s.control.SetWriteDeadline(time.Now().Add(streamWrite))
	if _, err := s.w.Write(append(line, '\n')); err != nil {
		return err
	}
	return s.control.Flush()
}

// done lets another request use the connection.
func (s stateWriter) done() { _ = s.control.SetWriteDeadline(time.Time{}) }

// floorOf reads what the agent holds already.
func floorOf(r *http.Request) (mandate.Floor, error) {
	var f mandate.Floor
	var errs [2]error
	q := r.URL.Query()
	for i, p := range []struct {
		name string
		into *int64
	}{{"epoch", &f.Epoch}, {"revision", &f.Revision}} {
		if s := q.Get(p.name); s != "" {
			*p.into, errs[i] = strconv.ParseInt(s, 10, 64)
		}
	}
	if err := errors.Join(errs[:]...); err != nil || f.Epoch < 0 || f.Revision < 0 {
		return f, trust.Errorf(trust.Invalid, "epoch and revision must be numbers")
	}
	return f, nil
}

// signedState reads and signs the state of an agent's cluster.
func (c *Control) signedState(ctx context.Context, a *agent) (mandate.Floor, []byte, error) {
	s, err := c.currentState(ctx, a.cluster)
	if err != nil {
		return mandate.Floor{}, nil, err
	}
	signed, err := mandate.Sign(c.MandateKey, s)
	return s.Floor(), signed, err
}

// currentState reads what a cluster's agents are to be told. Whatever changes it
// touches the mandate in the same transaction; so what was read between two
// equal revisions of the mandate is what that revision means.
func (c *Control) currentState(ctx context.Context, uid trust.ClusterUID) (mandate.State, error) {
	epoch, err := c.epoch(ctx)
	if err != nil {
		return mandate.State{}, err
	}
	key := store.Mandate{Cluster: uid}.Key()
	m, err := store.Get[store.Mandate](ctx, c.Store, key)
	for {
		if err != nil {
			return mandate.State{}, missing(err, trust.Errorf(trust.Forbidden, "no cluster is registered as %s", uid))
		}
		item, err := c.clusterByUID(ctx, uid)
		if err != nil {
			return mandate.State{}, err
		}
		r := item.Value
		if err := connected(&r); err != nil {
			return mandate.State{}, err
		}
		bindings, _, err := store.List[store.Binding](ctx, c.Store, r.Key()+"/")
		if err != nil {
			return mandate.State{}, err
		}
		extensions, _, err := store.List[store.Extension](ctx, c.Store, extensionsOf(r.ID))
		if err != nil {
			return mandate.State{}, err
		}
		shut, err := c.shutAround(ctx, r.ID)
		if err != nil {
			return mandate.State{}, err
		}
		before := m.Revision
		if m, err = store.Get[store.Mandate](ctx, c.Store, key); err != nil || m.Revision != before {
			if err != nil {
				return mandate.State{}, missing(err, trust.Errorf(trust.Forbidden, "no cluster is registered as %s", uid))
			}
			continue
		}
		s := mandate.State{Cluster: uid, Epoch: epoch, Revision: m.Revision, Stopped: r.Stopped || r.Deleting || shut}
		for i := range extensions {
			s.Installer = s.Installer || unfollowed(&extensions[i].Value)
		}
		for i := range bindings {
			if b := told(&bindings[i].Value); !r.Deleting && !shut && b != nil {
				s.Bindings = append(s.Bindings, *b)
			}
		}
		return s, nil
	}
}

// shutAround tells whether the group or subscription around a resource is being
// deleted. One that is gone is.
func (c *Control) shutAround(ctx context.Context, id string) (bool, error) {
	parsed, err := arm.ParseID(id)
	if err != nil {
		return true, err
	}
	g, err := store.Get[store.Group](ctx, c.Store, store.ResourceKey(parsed.GroupID().String()))
	if err != nil || g.Value.Deleting {
		return true, missing(err, nil)
	}
	s, err := store.Get[store.Subscription](ctx, c.Store, store.ResourceKey(parsed.SubscriptionID().String()))
	return err != nil || s.Value.State != subscriptionEnabled, missing(err, nil)
}

// told is a binding as agents are told of it, with the desired grants; nil for
// one that lets nobody through.
func told(b *store.Binding) *trust.Binding {
	if b.Source == (trust.Principal{}) || len(b.Desired) == 0 {
		return nil
	}
	return &trust.Binding{ID: b.ID, UID: b.UID, Cluster: b.ClusterUID, SourceID: b.SourceID, Source: b.Source, Grants: b.Desired}
}
