package ml

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const (
	// silence is how long a cluster may be out of reach before the operation
	// that waits for it ends.
	silence = 10 * time.Minute
	// withoutRouter is how long an endpoint waits for the cluster's router.
	withoutRouter = time.Minute

	codeNoRouter = "ScoringFeUnhealthy"
)

// provided works on a resource until step says that it is as it should be, or
// cannot be. It ends with the reason when the workspace loses its access: what
// serves in the cluster goes on.
func (m *ML) provided(ctx context.Context, op *store.Operation, progress func(string), step func(t *target) (done bool, err error)) error {
	wait, silent := m.again, time.Time{}
	for {
		t, err := m.target(ctx, op)
		if err != nil {
			return err
		}
		if t.resource.Value.Operation != op.ID {
			return arm.Errorf(trust.Conflict, preempted, "A later request changed the resource before the operation ended.")
		}
		done, err := step(t)
		switch {
		case ctx.Err() != nil || errors.Is(err, store.ErrUnavailable):
			return err
		case err == nil && done:
			return m.settle(ctx, op, func(r *store.Provided) error {
				r.State, r.Problem = arm.Succeeded, nil
				return nil
			})
		case err == nil:
			wait, silent = m.again, time.Time{}
			continue
		}
		now := m.Now()
		if silent.IsZero() {
			silent = now
		}
		if trust.KindOf(err) != trust.Unavailable || now.Sub(silent) > patienceFor(err) {
			return m.unprovided(ctx, op, err)
		}
		progress(err.Error())
		pause(ctx, wait)
		wait = min(2*wait, retryMost)
	}
}

func patienceFor(err error) time.Duration {
	var e *trust.Error
	if errors.As(err, &e) && e.Code == codeNoRouter {
		return withoutRouter
	}
	return silence
}

// unprovided ends an operation whose resource is not as it should be.
func (m *ML) unprovided(ctx context.Context, op *store.Operation, cause error) error {
	var e *trust.Error
	if errors.As(cause, &e) && e.Code == preempted {
		return cause
	}
	p := &store.Failure{Code: arm.InternalServerError, Message: "An internal error ended the operation."}
	internal := e == nil || e.Kind == trust.Internal
	if !internal {
		p = problem(e)
	}
	if err := m.settle(ctx, op, func(r *store.Provided) error {
		r.State, r.Problem = arm.Failed, p
		return nil
	}); err != nil {
		return errors.Join(cause, err)
	}
	if internal {
		return cause
	}
	return &failed{*p}
}

// provideEndpoint makes an endpoint in the cluster what its record says.
func (m *ML) provideEndpoint(ctx context.Context, op *store.Operation, progress func(string)) error {
	return m.provided(ctx, op, progress, func(t *target) (bool, error) {
		p, err := readEndpoint(&t.resource.Value)
		if err != nil {
			return false, err
		}
		progress("telling the cluster")
		e, err := m.reach(ctx, &t.workspace, p.Cluster)
		if err != nil {
			return false, err
		}
		if err := m.tellEndpoint(ctx, e, &t.workspace, &t.resource.Value, &p); err != nil {
			return false, err
		}
		var health wire.Health
		if err := e.call(ctx, http.MethodGet, "/health", nil, &health); err != nil {
			return false, err
		}
		if err := m.settle(ctx, op, func(r *store.Provided) error {
			now, err := readEndpoint(r) // a deployment may have gone from its split
			if err != nil {
				return err
			}
			now.Told, now.Scoring = true, now.scoring(health.Scoring)
			r.Private, err = json.Marshal(now)
			return err
		}); err != nil {
			return false, err
		}
		if health.Scoring == "" {
			return false, noRouter(e.cluster, health.ScoringMessage)
		}
		return true, nil
	})
}

// noRouter: an address may come yet, a router that was not installed does not.
func noRouter(cluster, message string) error {
	kind, hint := trust.Unavailable, "kubectl get service,pods -n "+wire.Namespace
	if message == "" {
		kind, message = trust.Conflict, "its ML extension has no router"
		hint = "sallyport k8s-extension update -g GROUP --cluster-name " + cluster + " --cluster-type managedClusters -n azureml --config enableInference=True"
	}
	why := arm.Errorf(kind, codeNoRouter, "Nothing can be scored on the cluster '%s': %s.", cluster, message)
	why.Hint = hint
	return why
}

// tellEndpoint tells the extension of an endpoint.
func (m *ML) tellEndpoint(ctx context.Context, e *extension, w *store.Item[store.Source], r *store.Provided, p *endpointPrivate) error {
	body := p.Endpoint
	var err error
	if body.Keys, err = m.digests(r, p); err != nil { // made of the sealed ones each time
		return err
	}
	return m.onCompute(ctx, w, p.ComputeID, body.Compute, "endpoint", func() error {
		return e.call(ctx, http.MethodPut, "/endpoints/"+body.UID, body, nil)
	})
}

// provideDeployment makes a deployment in the cluster what its record says, and
// follows it until it takes requests or cannot.
func (m *ML) provideDeployment(ctx context.Context, op *store.Operation, progress func(string)) error {
	told, version := false, ""
	return m.provided(ctx, op, progress, func(t *target) (bool, error) {
		p, err := readDeployment(&t.resource.Value)
		if err != nil {
			return false, err
		}
		e, err := m.reach(ctx, &t.workspace, p.Cluster)
		if err != nil {
			return false, err
		}
		if !told {
			progress("telling the cluster")
			if err := m.tellDeployment(ctx, e, t, &p); err != nil {
				return false, err
			}
			told = true
		}
		var s wire.DeploymentStatus
		path := fmt.Sprintf("/deployments/%s?wait=%d&after=%s", p.Deployment.UID, longPoll, url.QueryEscape(version))
		if err := e.call(ctx, http.MethodGet, path, nil, &s); err != nil {
			if told = !refusedAs(err, wire.DeploymentNotFound); !told { // it is told again, for some time
				err = arm.Errorf(trust.Unavailable, wire.DeploymentNotFound, "The deployment '%s' was removed from the cluster '%s' by somebody there.", p.Deployment.Name, e.cluster)
			}
			return false, err
		}
		version, s.Version = s.Version, ""
		if err := m.settle(ctx, op, func(r *store.Provided) error {
			p.Told, p.Status = true, s
			if s.State == wire.Scaling || s.State == wire.Updating && r.State != creating {
				r.State = s.State
			}
			r.Private, err = json.Marshal(p)
			return err
		}); err != nil {
			return false, err
		}
		switch s.State {
		case wire.Succeeded:
			return true, nil
		case wire.Failed:
			why := arm.Errorf(trust.Conflict, s.Code, "The deployment '%s' does not run: %s.", p.Deployment.Name, s.Reason)
			why.Hint = fmt.Sprintf("sallyport ml online-deployment get-logs -n %s --endpoint-name %s", p.Deployment.Name, nameOf(p.EndpointID))
			return false, why
		}
		progress(readiness(s))
		return false, nil
	})
}

func readiness(s wire.DeploymentStatus) string {
	text := fmt.Sprintf("%d of %d instances are ready", s.Ready, s.Wanted)
	if s.Reason != "" {
		text += ": " + s.Reason
	}
	return text
}

// tellDeployment tells the extension of a deployment, and of its endpoint if the
// extension was installed anew meanwhile.
func (m *ML) tellDeployment(ctx context.Context, e *extension, t *target, p *deploymentPrivate) error {
	put := func() error {
		return e.call(ctx, http.MethodPut, "/deployments/"+p.Deployment.UID, p.Deployment, nil)
	}
	err := put()
	if !refusedAs(err, wire.EndpointNotFound) {
		return err
	}
	endpoint, err := store.Get[store.Provided](ctx, m.Store, store.ProvidedKey(p.EndpointID))
	if err != nil || endpoint.Value.UID != p.Deployment.Endpoint || endpoint.Value.State == arm.Deleting {
		return orGone(err, arm.Errorf(trust.Conflict, wire.EndpointNotFound, "The endpoint of the deployment was deleted."))
	}
	of, err := readEndpoint(&endpoint.Value)
	if err != nil {
		return err
	}
	if err := m.tellEndpoint(ctx, e, &t.workspace, &endpoint.Value, &of); err != nil {
		return err
	}
	return put()
}

// removeEndpoint removes an endpoint and its deployments. In a cluster that
// cannot be told what serves goes on until it can, and the operation says so.
func (m *ML) removeEndpoint(ctx context.Context, op *store.Operation, progress func(string)) error {
	t, err := m.target(ctx, op)
	if trust.KindOf(err) == trust.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	p, err := readEndpoint(&t.resource.Value)
	if err != nil {
		return err
	}
	children, revision, err := store.List[store.Provided](ctx, m.Store, store.ProvidedKey(op.Target)+"/")
	if err != nil {
		return err
	}
	ops := []store.Op{store.Delete(t.resource.Value.Key(), 0), store.Quiet(store.ProvidedKey(op.Target)+"/", revision), operation.Fence(ctx)}
	objects := []string{"onlineendpoint/" + wire.EndpointName(p.Endpoint.UID)}
	for i := range children {
		objects = append(objects, "onlinedeployment/"+wire.DeploymentName(children[i].Value.UID))
		ops = append(ops, store.Delete(children[i].Value.Key(), 0))
	}
	return m.removed(ctx, op, progress, t, removalPrivate{p.Cluster, "/endpoints/" + p.Endpoint.UID}, objects, ops)
}

// removeDeployment removes a deployment, and its name from the split.
func (m *ML) removeDeployment(ctx context.Context, op *store.Operation, progress func(string)) error {
	t, err := m.target(ctx, op)
	if trust.KindOf(err) == trust.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	p, err := readDeployment(&t.resource.Value)
	if err != nil {
		return err
	}
	ops := []store.Op{store.Delete(t.resource.Value.Key(), 0), operation.Fence(ctx)}
	endpoint, err := store.Get[store.Provided](ctx, m.Store, store.ProvidedKey(p.EndpointID))
	if err == nil && endpoint.Value.UID == p.Deployment.Endpoint {
		e, err := readEndpoint(&endpoint.Value)
		if err != nil {
			return err
		}
		if _, named := e.Endpoint.Traffic[p.Deployment.Name]; named {
			delete(e.Endpoint.Traffic, p.Deployment.Name)
			changed := endpoint.Value
			if changed.Private, err = json.Marshal(e); err != nil {
				return err
			}
			ops = append(ops, store.Update(changed, endpoint.Revision))
		}
	} else if err != nil && trust.KindOf(err) != trust.NotFound {
		return err
	}
	return m.removed(ctx, op, progress, t, removalPrivate{p.Cluster, "/deployments/" + p.Deployment.UID}, []string{"onlinedeployment/" + wire.DeploymentName(p.Deployment.UID)}, ops)
}
