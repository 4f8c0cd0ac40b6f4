package control

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// forgetInstance is when a process of an agent that is not heard any more is
// forgotten: long after it has stopped letting anybody through.
const forgetInstance = 10 * time.Minute

// maxInstances bounds how many processes of one agent are kept track of.
const maxInstances = 200

// nonce answers an agent's question whether its state is the newest, and takes
// note of what it has applied.
func (c *Control) nonce(w http.ResponseWriter, r *http.Request, a *agent, body []byte) error {
	var in struct {
		Nonce             string
		Epoch, Revision   int64
		Instance, Version string
		Leaving           bool
	}
	if err := arm.Decode(body, &in); err != nil {
		return err
	}
	if !mandate.ValidNonce(in.Nonce) || in.Instance == "" || len(in.Instance) > 128 || len(in.Version) > 128 || in.Epoch < 0 || in.Revision < 0 {
		return trust.Errorf(trust.Invalid, "a nonce, an instance and what is applied are needed")
	}
	if in.Leaving {
		if err := c.left(r.Context(), a, in.Instance); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	// Stored before the mandate's revision is read: whoever changes it after
	// that reading sees that this process was heard, and waits for it.
	err := c.heard(r.Context(), a, in.Instance, func(s *store.AgentStatus, i *store.AgentInstance) {
		i.Epoch, i.Revision, i.Version = in.Epoch, in.Revision, in.Version
		s.Epoch, s.Revision, s.Version = in.Epoch, in.Revision, in.Version
	})
	if err != nil {
		return err
	}
	epoch, err := c.epoch(r.Context())
	if err != nil {
		return err
	}
	m, err := store.Get[store.Mandate](r.Context(), c.Store, store.Mandate{Cluster: a.cluster}.Key())
	if err != nil {
		return missing(err, trust.Errorf(trust.Forbidden, "no cluster is registered as %s", a.cluster))
	}
	signed, err := mandate.SignAnswer(c.MandateKey, mandate.Answer{Cluster: a.cluster, Epoch: epoch, Revision: m.Revision, Nonce: in.Nonce})
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, struct {
		Answer []byte `json:"answer"`
	}{signed})
	return nil
}

// heard takes note of an agent's process. With an empty instance the process is
// the one that was heard last.
func (c *Control) heard(ctx context.Context, a *agent, instance string, note func(*store.AgentStatus, *store.AgentInstance)) error {
	key := store.AgentStatus{Cluster: a.cluster, Agent: a.name}.Key()
	for {
		item, err := store.Get[store.AgentStatus](ctx, c.Store, key)
		if err != nil && trust.KindOf(err) != trust.NotFound {
			return err
		}
		s, write := item.Value, store.Create
		if item.Revision != 0 {
			write = updating(item.Revision)
		} else {
			s = store.AgentStatus{Cluster: a.cluster, Agent: a.name}
		}
		now := c.Now().UTC()
		if instance != "" {
			s.Instance = instance
		}
		all := map[string]store.AgentInstance{}
		for name, i := range s.Instances {
			if now.Sub(i.Seen) < forgetInstance {
				all[name] = i
			}
		}
		this, known := all[s.Instance]
		if !known && len(all) >= maxInstances {
			return trust.Errorf(trust.Throttled, "%d processes of the %s agent were heard within %s", len(all), a.name, forgetInstance)
		}
		this.Seen, s.Seen, s.Left = now, now, false
		note(&s, &this)
		if s.Instance != "" {
			all[s.Instance] = this
		}
		s.Instances = all
		// Not after its cluster is gone: nobody would remove it.
		m, err := store.Get[store.Mandate](ctx, c.Store, store.Mandate{Cluster: a.cluster}.Key())
		if err != nil {
			return missing(err, trust.Errorf(trust.Forbidden, "no cluster is registered as %s", a.cluster))
		}
		_, err = c.Store.Commit(ctx, write(s), store.Guard(m.Value.Key(), m.Revision))
		if !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
}

// left forgets a process of an agent that ends and lets nobody through any more:
// nobody need wait until it could not.
func (c *Control) left(ctx context.Context, a *agent, instance string) error {
	key := store.AgentStatus{Cluster: a.cluster, Agent: a.name}.Key()
	for {
		item, err := store.Get[store.AgentStatus](ctx, c.Store, key)
		if trust.KindOf(err) == trust.NotFound {
			return nil
		}
		if err != nil {
			return err
		}
		s := item.Value
		if _, known := s.Instances[instance]; !known {
			return nil
		}
		s.Instances = maps.Clone(s.Instances)
		delete(s.Instances, instance)
		running := false
		for _, i := range s.Instances {
			running = running || c.Now().Sub(i.Seen) <= connectedWithin
		}
		s.Left = !running
		if _, err = c.Store.Commit(ctx, store.Update(s, item.Revision)); !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			if err == nil {
				c.Log.InfoContext(ctx, "agent ended", "cluster", a.cluster, "agent", a.name)
			}
			return err
		}
	}
}

// report takes what the reconciler found and did.
func (c *Control) report(w http.ResponseWriter, r *http.Request, a *agent, body []byte) error {
	report, err := mandate.ParseReport(body)
	if err != nil {
		return err
	}
	// The work that follows is finished even if the agent hangs up.
	ctx := context.WithoutCancel(r.Context())
	floor := mandate.Floor{Epoch: report.Epoch, Revision: report.Revision}
	if report.Unseen {
		// What was accepted when the cluster was last seen is the best there is
		// to go by; the reconciler has the last word on it.
		last, err := c.lastReport(ctx, a.cluster)
		if err != nil {
			return err
		}
		report.Accepted = last.Accepted
		if body, err = json.Marshal(report); err != nil {
			return fmt.Errorf("encode report: %w", err)
		}
	}
	fresh, err := c.keepReport(ctx, a, floor, body)
	if err != nil {
		return err
	}
	err = c.heard(ctx, a, "", func(s *store.AgentStatus, _ *store.AgentInstance) {
		if (mandate.Floor{Epoch: s.Epoch, Revision: s.Revision}).Before(floor) {
			s.Epoch, s.Revision = report.Epoch, report.Revision
		}
	})
	if err != nil {
		return err
	}
	c.metrics.reports.Inc()
	if fresh {
		err := c.follow(ctx, a, &report)
		if err == nil {
			err = c.lookAgain(ctx, a, report.Installer)
		}
		if err != nil {
			// The report is stored; the next one, at the latest in five
			// minutes, brings the same again.
			c.Log.WarnContext(ctx, "report not followed to its end", "cluster", a.cluster, "error", err)
		}
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// keepReport stores a report unless one of a newer state was stored before.
func (c *Control) keepReport(ctx context.Context, a *agent, floor mandate.Floor, body []byte) (fresh bool, err error) {
	var compressed bytes.Buffer
	z := gzip.NewWriter(&compressed)
	if _, err := z.Write(body); err != nil {
		return false, err
	}
	if err := z.Close(); err != nil {
		return false, err
	}
	r := store.AgentReport{Cluster: a.cluster, Epoch: floor.Epoch, Revision: floor.Revision, Compressed: compressed.Bytes()}
	for {
		old, err := store.Get[store.AgentReport](ctx, c.Store, r.Key())
		if err != nil && trust.KindOf(err) != trust.NotFound {
			return false, err
		}
		write := store.Create
		if old.Revision != 0 {
			if floor.Before(mandate.Floor{Epoch: old.Value.Epoch, Revision: old.Value.Revision}) {
				return false, nil
			}
			write = updating(old.Revision)
		}
		// Not after its cluster is gone: nobody would remove it.
		m, err := store.Get[store.Mandate](ctx, c.Store, store.Mandate{Cluster: a.cluster}.Key())
		if err != nil {
			return false, missing(err, trust.Errorf(trust.Forbidden, "no cluster is registered as %s", a.cluster))
		}
		_, err = c.Store.Commit(ctx, write(r), store.Guard(m.Value.Key(), m.Revision))
		if !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			return err == nil, err
		}
	}
}

// lastReport is what a cluster's reconciler last reported; the zero report if it
// never did.
func (c *Control) lastReport(ctx context.Context, cluster trust.ClusterUID) (mandate.Report, error) {
	var report mandate.Report
	item, err := store.Get[store.AgentReport](ctx, c.Store, store.AgentReport{Cluster: cluster}.Key())
	if err != nil {
		return report, missing(err, nil)
	}
	z, err := gzip.NewReader(bytes.NewReader(item.Value.Compressed))
	if err != nil {
		return report, fmt.Errorf("read report: %w", err)
	}
	raw, err := io.ReadAll(io.LimitReader(z, mandate.MaxReport+1))
	if err != nil {
		return report, fmt.Errorf("read report: %w", err)
	}
	return mandate.ParseReport(raw)
}

// follow does what a report makes necessary beyond the operations that wait for
// it: rights whose acceptance was withdrawn end, new acceptances are taken up,
// and deleted bindings that the cluster is rid of are forgotten.
func (c *Control) follow(ctx context.Context, a *agent, report *mandate.Report) error {
	epoch, err := c.epoch(ctx)
	if err != nil {
		return err
	}
	floor := mandate.Floor{Epoch: report.Epoch, Revision: report.Revision}
	gone, _, err := store.List[store.Departed](ctx, c.Store, store.DepartedPrefix+string(a.cluster)+"/")
	if err != nil {
		return err
	}
	for _, d := range gone {
		clean := report.Fence == "" && !floor.Before(mandate.Floor{Epoch: epoch, Revision: d.Created})
		if !clean || !d.Value.Refused {
			continue
		}
		if _, err := c.Store.Commit(ctx, store.Delete(d.Value.Key(), d.Revision)); err != nil && !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	m, err := store.Get[store.Mandate](ctx, c.Store, store.Mandate{Cluster: a.cluster}.Key())
	if err != nil {
		return err
	}
	newest := floor == mandate.Floor{Epoch: epoch, Revision: m.Revision}
	bindings, _, err := store.List[store.Binding](ctx, c.Store, a.clusterID+"/")
	if err != nil {
		return err
	}
	var failures []error
	for _, b := range bindings {
		for _, found := range report.Bindings {
			if found.UID == b.Value.UID {
				err := c.followBinding(ctx, b, m, &found, report, newest)
				if errors.Is(err, store.ErrConflict) {
					err = nil // somebody changed it: the state that this report spoke of is old
				}
				failures = append(failures, err)
			}
		}
	}
	return errors.Join(failures...)
}

// followBinding brings a settled binding in line with what its cluster accepts.
// Bindings that an operation works on are the operation's. A report that does
// not speak of the newest state can only take away: what is not accepted is not,
// whatever the state.
func (c *Control) followBinding(ctx context.Context, b store.Item[store.Binding], m store.Item[store.Mandate], found *mandate.BindingReport, report *mandate.Report, newest bool) error {
	r := b.Value
	withdrawn := r.State == arm.Failed && !sameGrants(r.Grants, r.Desired)
	if r.State != arm.Succeeded && !withdrawn || r.Source == (trust.Principal{}) {
		return nil
	}
	var renewed []trust.Grant
	if newest {
		var err error
		if renewed, err = c.renewed(ctx, &r, report.Accepted); err != nil {
			return err
		}
	}
	switch {
	case renewed != nil:
		return c.renew(ctx, b, m, renewed)
	case newest && found.Applied && withdrawn:
		r.Grants, r.State, r.Problem = r.Desired, arm.Succeeded, nil
	case !found.Applied && withdrawal[found.Problem.Code]:
		kept := stillAccepted(r.Grants, report.Accepted)
		if newest && !withdrawn && sameGrants(kept, r.Grants) {
			kept = nil // it says that something is not accepted, and not what
		}
		if sameGrants(kept, r.Grants) {
			return nil
		}
		f := failureOf(found.Problem)
		r.Grants, r.State, r.Problem = kept, arm.Failed, &f
	default:
		return nil
	}
	_, err := c.Store.Commit(ctx, store.Update(r, b.Revision), store.Guard(m.Value.Key(), m.Revision))
	return err
}

// withdrawal are the problems that mean that the owner's consent is gone.
var withdrawal = map[string]bool{mandate.RoleNotAccepted: true, mandate.RoleNotAcceptedThere: true, mandate.RoleChanged: true}

// renewed are the grants that the binding's roles have under the acceptances as
// they are now, if all of them are accepted and they differ from the desired
// ones; else nil.
func (c *Control) renewed(ctx context.Context, r *store.Binding, accepted []mandate.Accepted) ([]trust.Grant, error) {
	k := &call{Control: c, ctx: ctx}
	all, err := k.roles()
	if err != nil {
		return nil, err
	}
	var roles []trust.Role
	for _, name := range r.Roles {
		for _, role := range all {
			if role.FullName().Equal(trust.RoleName(name)) {
				roles = append(roles, role)
			}
		}
	}
	if len(roles) != len(r.Roles) {
		return nil, nil // a role was unpublished: what is accepted stays
	}
	grants := grantsFor(roles, accepted, r.Desired)
	if sameGrants(grants, r.Desired) || !sameGrants(stillAccepted(grants, accepted), grants) {
		return nil, nil
	}
	return grants, nil
}

// renew has the agents apply other revisions of a binding's roles, as a PUT
// would.
func (c *Control) renew(ctx context.Context, b store.Item[store.Binding], m store.Item[store.Mandate], grants []trust.Grant) error {
	r := b.Value
	id, err := arm.ParseID(r.ID)
	if err != nil {
		return err
	}
	op, err := operation.NewRecord(opApply, id.Subscription, c.Location, r.ID, "", bindingInput{r.UID, r.ClusterUID})
	if err != nil {
		return err
	}
	r.Grants, r.Desired = inBoth(r.Grants, grants), grants
	r.State, r.Problem, r.Operation = arm.Updating, nil, op.ID
	_, err = c.Store.Commit(ctx, store.Update(r, b.Revision), store.Create(op), store.Update(m.Value, m.Revision))
	return err
}
