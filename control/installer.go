package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/extension"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// The installer is a cluster's third agent, and need not be there. It asks what
// extensions shall be in the cluster, and says what is. It alone is told the
// protected settings.

const (
	// extensionBound is how long an operation waits for the installer.
	extensionBound = 15 * time.Minute
	// installerPoll is how long the installer's question is held open while
	// there is nothing new.
	installerPoll = 20 * time.Second
)

// extensionInput tells an operation which state of an extension it works on.
type extensionInput struct {
	UID        string
	Generation int64
	Cluster    trust.ClusterUID
}

// wanted answers what shall be in the cluster: at once if that is newer than
// what the installer holds, else when it changes, or with 204 after a while.
func (c *Control) wanted(w http.ResponseWriter, r *http.Request, a *agent, _ []byte) error {
	held, err := floorOf(r)
	if err != nil {
		return err
	}
	instance := r.URL.Query().Get("instance")
	if instance == "" || len(instance) > 128 {
		return trust.Errorf(trust.Invalid, "the query must name the instance that asks")
	}
	ctx, cancel := context.WithTimeout(r.Context(), installerPoll)
	defer cancel()
	if err := c.heard(ctx, a, instance, func(s *store.AgentStatus, i *store.AgentInstance) {
		i.Epoch, i.Revision, s.Epoch, s.Revision = held.Epoch, held.Revision, held.Epoch, held.Revision
	}); err != nil {
		return err
	}
	var signed []byte
	err = c.picture.until(ctx, []string{topicMandate(a.cluster)}, func() (bool, time.Duration, error) {
		e, err := c.extensionsToldTo(ctx, a)
		if err != nil || held == (mandate.Floor{Epoch: e.Epoch, Revision: e.Revision}) {
			return false, 0, err
		}
		signed, err = mandate.SignExtensions(c.MandateKey, e)
		return true, 0, err
	})
	if errors.Is(err, context.DeadlineExceeded) {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, struct {
		Extensions []byte `json:"extensions"`
	}{signed})
	return nil
}

// extensionsToldTo reads what an installer is told, as of one revision of the
// cluster's mandate.
func (c *Control) extensionsToldTo(ctx context.Context, a *agent) (mandate.Extensions, error) {
	epoch, err := c.epoch(ctx)
	if err != nil {
		return mandate.Extensions{}, err
	}
	key := store.Mandate{Cluster: a.cluster}.Key()
	for {
		m, err := store.Get[store.Mandate](ctx, c.Store, key)
		if err != nil {
			return mandate.Extensions{}, missing(err, trust.Errorf(trust.Forbidden, "no cluster is registered as %s", a.cluster))
		}
		all, _, err := store.List[store.Extension](ctx, c.Store, extensionsOf(m.Value.ClusterID))
		if err != nil {
			return mandate.Extensions{}, err
		}
		nodes, err := c.readyNodes(ctx, a.cluster)
		if err != nil {
			return mandate.Extensions{}, err
		}
		e := mandate.Extensions{Cluster: a.cluster, Epoch: epoch, Revision: m.Revision, Nodes: nodes, Extensions: []mandate.Extension{}}
		for i := range all {
			x := &all[i].Value
			secrets, err := c.secretsOf(x)
			if err != nil {
				return mandate.Extensions{}, err
			}
			e.Extensions = append(e.Extensions, mandate.Extension{UID: x.UID, Name: x.Name, Generation: x.Generation, Type: x.Type, Train: x.Train, Version: x.Version,
				Release: x.Release, Namespace: x.Namespace, Settings: x.Settings, Protected: secrets, Remove: x.Deleting, Refused: refused(x)})
		}
		if again, err := store.Get[store.Mandate](ctx, c.Store, key); err == nil && again.Revision == m.Revision {
			return e, nil
		}
	}
}

// refused tells whether the installer did all it could for what is wanted, and
// nothing came of it.
func refused(x *store.Extension) bool {
	i := &x.Installed
	return !x.Deleting && i.Generation == x.Generation && i.Problem != nil && !i.Present && !i.Unseen
}

// readyNodes is how many nodes of a cluster were ready when its reconciler last
// reported; 0 if nobody knows.
func (c *Control) readyNodes(ctx context.Context, cluster trust.ClusterUID) (int, error) {
	report, err := c.lastReport(ctx, cluster)
	n := 0
	for _, p := range report.Pools {
		n += p.Ready
	}
	return n, err
}

// installed takes what the installer did.
func (c *Control) installed(w http.ResponseWriter, r *http.Request, a *agent, body []byte) error {
	report, err := mandate.ParseExtensionReport(body)
	if err != nil {
		return err
	}
	ctx := context.WithoutCancel(r.Context())
	for _, uid := range report.Begun {
		if err := c.begin(ctx, a, uid); err != nil {
			return err
		}
	}
	for i := range report.Extensions {
		if err := c.installedOne(ctx, a, &report.Extensions[i]); err != nil {
			return err
		}
	}
	// After the records: whoever waits is woken by it.
	if err := c.heard(ctx, a, report.Instance, func(s *store.AgentStatus, i *store.AgentInstance) {
		s.Version, i.Version = report.Version, report.Version
	}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// begin notes that something of an extension may be in the cluster from now on,
// unless it is being deleted: then nothing new is begun.
func (c *Control) begin(ctx context.Context, a *agent, uid string) error {
	for {
		item, err := c.extensionByUID(ctx, a, uid)
		if err != nil {
			return err
		}
		x := item.Value
		switch {
		case item.Revision == 0 || x.Deleting:
			return trust.Errorf(trust.Conflict, "extension %s is not wanted in the cluster any more", uid)
		case x.Begun:
			return nil
		}
		x.Begun = true
		_, err = c.Store.Commit(ctx, store.Update(x, item.Revision))
		if !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
}

// installedOne notes what is said of one extension, and lets its state follow
// when no operation is in charge of it.
func (c *Control) installedOne(ctx context.Context, a *agent, said *mandate.ExtensionState) error {
	for {
		item, err := c.extensionByUID(ctx, a, said.UID)
		if err != nil || item.Revision == 0 || said.Generation < item.Value.Installed.Generation || said.Generation > item.Value.Generation {
			return err
		}
		x := item.Value
		x.Installed = store.ExtensionInstalled{Generation: said.Generation, Time: c.Now().UTC(), Present: said.Present, Version: cut(said.Version, 64)}
		if said.Unseen {
			x.Installed.Unseen, x.Installed.Present, x.Installed.Version = true, item.Value.Installed.Present, item.Value.Installed.Version
		}
		if p := said.Problem; p != nil {
			x.Installed.Problem = &store.Failure{Code: cut(p.Code, 64), Message: cut(p.Message, 2000)}
		}
		for _, s := range said.Statuses[:min(len(said.Statuses), 50)] {
			x.Installed.Statuses = append(x.Installed.Statuses, store.ExtensionStatus{Code: cut(s.Code, 64), Level: cut(s.Level, 16), Message: cut(s.Message, 2000), Time: c.Now().UTC()})
		}
		if said.Generation == x.Generation && arm.Terminal(x.State) && !x.Deleting {
			x.State, x.Problem = arm.Succeeded, x.Installed.Problem
			if x.Problem != nil || !x.Installed.Present {
				x.State = arm.Failed
			}
		}
		ops := []store.Op{store.Update(x, item.Revision)}
		if unfollowed(&item.Value) && !unfollowed(&x) {
			// The reconciler may stop the installer, also where no operation waits for
			// this any more.
			ops = append(ops, store.Put(store.Mandate{Cluster: x.ClusterUID, ClusterID: x.ClusterID}))
		}
		_, err = c.Store.Commit(ctx, ops...)
		if !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
}

// extensionByUID finds an extension of the agent's cluster; none is the zero
// item.
func (c *Control) extensionByUID(ctx context.Context, a *agent, uid string) (store.Item[store.Extension], error) {
	all, _, err := store.List[store.Extension](ctx, c.Store, a.clusterID+"/")
	for _, x := range all {
		if x.Value.UID == uid {
			return x, nil
		}
	}
	return store.Item[store.Extension]{}, err
}

// applyExtension waits until the installer has done what the PUT asked for. With
// no installer in the cluster nothing is done, and it says so.
func (c *Control) applyExtension(ctx context.Context, op *store.Operation, progress func(string)) error {
	x, why, err := c.followed(ctx, op, progress)
	if err != nil {
		return err
	}
	if why == nil && !x.Installed.Present {
		why = &store.Failure{Code: "ExtensionNotPresent", Message: "The cluster's installer says that nothing of the extension is in the cluster."}
	}
	return c.endExtension(ctx, op, func(r *store.Extension) ([]store.Op, error) {
		r.State, r.Problem = arm.Succeeded, why
		if why != nil {
			r.State = arm.Failed
		}
		return nil, nil
	}, why)
}

// deleteExtension waits until the installer has removed it, and then removes the
// record. What was never begun is not there, whatever stands in the installer's way.
// What could not be removed is wanted again.
func (c *Control) deleteExtension(ctx context.Context, op *store.Operation, progress func(string)) error {
	x, why, err := c.followed(ctx, op, progress)
	if err != nil {
		return err
	}
	if !x.Begun && !x.Installed.Present {
		why = nil
	}
	if why == nil {
		return c.endExtension(ctx, op, func(r *store.Extension) ([]store.Op, error) { return goneExtension(r), nil }, nil)
	}
	why.Message += " Delete it with forceDelete=true to forget it all the same."
	return c.endExtension(ctx, op, func(r *store.Extension) ([]store.Op, error) {
		r.State, r.Problem = arm.Failed, why
		return nil, c.turnExtension(r, false)
	}, why)
}

const codeNoInstaller = "ExtensionInstallerMissing"

// followed waits until the installer has spoken of what the operation asked for.
// why is what stands in the way of it.
func (c *Control) followed(ctx context.Context, op *store.Operation, progress func(string)) (x store.Extension, why *store.Failure, err error) {
	var in extensionInput
	if err := json.Unmarshal(op.Input, &in); err != nil {
		return x, nil, fmt.Errorf("read operation: %w", err)
	}
	err = c.picture.until(ctx, []string{topicAgents(in.Cluster)}, func() (bool, time.Duration, error) {
		item, err := c.extensionInCharge(ctx, op)
		if err != nil {
			return false, 0, err
		}
		if x = item.Value; x.Installed.Generation >= in.Generation {
			if why = x.Installed.Problem; why != nil {
				why = consented(&x, *why)
			}
			return true, 0, nil
		}
		s, err := c.status(ctx, in.Cluster, installer)
		if err != nil {
			return false, 0, err
		}
		left := extensionBound - c.Now().Sub(op.Started)
		switch {
		case left <= 0:
			why = &store.Failure{Code: "ExtensionTimeout", Message: fmt.Sprintf("The cluster's installer did not follow within %s; it was last heard %s.", extensionBound, since(s.Seen))}
			return true, 0, nil
		case c.Now().Sub(s.Seen) <= connectedWithin+installerPoll && !s.Left:
			progress("waiting for the cluster's installer to follow")
			return false, min(left, connectedWithin), nil
		}
		there, doing, err := c.installerThere(ctx, in.Cluster, &s)
		if err == nil && !there {
			why = noInstaller(&x)
			return true, 0, nil
		}
		progress(doing)
		return false, min(left, connectedWithin), err
	})
	return x, why, err
}

// installerThere tells whether an installer that is not heard may come: the
// reconciler starts it when there is something to do, if the owner has accepted
// an extension. Otherwise nothing comes, unless one runs outside the cluster and
// was heard before.
func (c *Control) installerThere(ctx context.Context, cluster trust.ClusterUID, heard *store.AgentStatus) (there bool, doing string, err error) {
	s, err := c.status(ctx, cluster, reconciler)
	if err != nil {
		return false, "", err
	}
	report, err := c.lastReport(ctx, cluster)
	if err != nil {
		return false, "", err
	}
	m, err := store.Get[store.Mandate](ctx, c.Store, store.Mandate{Cluster: cluster}.Key())
	if err != nil {
		return false, "", err
	}
	away := c.away(&s)
	switch now := c.Now(); {
	case away == "" && report.Revision < m.Revision && now.Sub(s.Seen) <= connectedWithin:
		return true, "waiting for the cluster's reconciler agent, which starts the installer", nil
	case report.Installer != nil && report.Installer.Problem != "":
		return true, "the cluster's installer cannot be started: " + report.Installer.Problem, nil
	case report.Installer != nil:
		if away != "" {
			return true, away, nil
		}
		return true, "waiting for the cluster's installer to start", nil
	case !heard.Seen.IsZero():
		return true, "waiting for the cluster's installer: not connected since " + since(heard.Seen), nil
	}
	return false, "", nil
}

// noInstaller is what is wrong in a cluster whose owner has accepted nothing.
func noInstaller(x *store.Extension) *store.Failure {
	return consented(x, store.Failure{Code: codeNoInstaller, Message: "Nothing was installed: the cluster has no installer, since its owner has accepted no extension."})
}

// consented adds, to a problem that the owner's consent solves, what they type.
func consented(x *store.Extension, f store.Failure) *store.Failure {
	t, err := extension.Find(x.Type)
	id, bad := arm.ParseID(x.ClusterID)
	if (f.Code == codeNoInstaller || f.Code == mandate.ExtensionNotAccepted || f.Code == mandate.ExtensionDigestRefused) && err == nil && bad == nil {
		command := t.ConsentCommand(id.Group, nameOf(x.ClusterID))
		f.Message += " They accept it, with their own rights, by: " + command
		f.Details = []store.Failure{{Code: "Command", Message: command}}
	}
	return &f
}

// extensionInCharge is the extension if the operation is still in charge of it.
func (c *Control) extensionInCharge(ctx context.Context, op *store.Operation) (store.Item[store.Extension], error) {
	x, err := store.Get[store.Extension](ctx, c.Store, store.ResourceKey(op.Target))
	if err != nil && trust.KindOf(err) != trust.NotFound {
		return x, err
	}
	if err != nil || x.Value.Operation != op.ID {
		return x, arm.Errorf(trust.Conflict, "OperationPreempted", "A later request changed or deleted the extension before the operation ended.")
	}
	return x, nil
}

// endExtension settles the extension as long as the operation is in charge. A
// deletion without a problem removes the record.
func (c *Control) endExtension(ctx context.Context, op *store.Operation, change func(*store.Extension) ([]store.Op, error), why *store.Failure) error {
	for {
		item, err := c.extensionInCharge(ctx, op)
		if err != nil {
			return err
		}
		x := item.Value
		more, err := change(&x)
		if err != nil {
			return err
		}
		write := store.Update(x, item.Revision)
		if op.Kind == opExtensionDelete && why == nil {
			write = store.Delete(x.Key(), item.Revision)
		}
		ops := append([]store.Op{write, operation.Fence(ctx), store.Put(store.Mandate{Cluster: x.ClusterUID, ClusterID: x.ClusterID})}, more...)
		_, err = c.Store.Commit(ctx, ops...)
		if err == nil && why != nil {
			return &failed{*why}
		}
		if !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
}
