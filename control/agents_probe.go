package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/sallyport/sallyport/netenv/probe"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// probe takes what the proxy agent saw of the names that the cluster's owner
// allows it to look at. There is no request for it: the list is in the owner's
// hands, and nothing that is answered here changes it.
func (c *Control) probe(w http.ResponseWriter, r *http.Request, a *agent, body []byte) error {
	report, err := probe.ParseReport(body)
	if err != nil {
		return trust.Errorf(trust.Invalid, "the report cannot be used").Because(err)
	}
	report.Time = c.Now().UTC() // by this clock, as the agents' last signs of life
	kept, err := json.Marshal(report)
	if err != nil {
		return fmt.Errorf("encode probe: %w", err)
	}
	for {
		// Not after its cluster is gone: nobody would remove it.
		m, err := store.Get[store.Mandate](r.Context(), c.Store, store.Mandate{Cluster: a.cluster}.Key())
		if err != nil {
			return missing(err, trust.Errorf(trust.Forbidden, "no cluster is registered as %s", a.cluster))
		}
		_, err = c.Store.Commit(r.Context(), store.Put(store.AgentProbe{Cluster: a.cluster, Seen: report.Time, Report: kept}), store.Guard(m.Value.Key(), m.Revision))
		if errors.Is(err, store.ErrConflict) && r.Context().Err() == nil {
			continue
		}
		if err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
}

// lastProbe is what a cluster's agent last saw, under the cluster's own id; nil
// when its owner allows no probes.
func (c *Control) lastProbe(ctx context.Context, r *store.Cluster) (*probe.Report, error) {
	item, err := store.Get[store.AgentProbe](ctx, c.Store, store.AgentProbe{Cluster: r.UID}.Key())
	if err != nil {
		return nil, missing(err, nil)
	}
	report, err := probe.ParseReport(item.Value.Report)
	if err != nil {
		return nil, fmt.Errorf("read probe: %w", err)
	}
	report.Cluster = r.ID
	return &report, nil
}
