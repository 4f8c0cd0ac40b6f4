package gateway

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

// routeServing adds what is asked about endpoints and deployments.
func (g *Gateway) routeServing(on func(pattern string, do func(*call) (any, error))) {
	endpoint, deployment := wire.Prefix+"/endpoints/{uid}", wire.Prefix+"/deployments/{uid}"
	on("PUT "+endpoint, func(c *call) (any, error) {
		body, err := decode[wire.Endpoint](c.r)
		if err != nil {
			return nil, err
		}
		body.UID = c.r.PathValue("uid")
		return nil, g.putEndpoint(c.ctx, c.owner, *body)
	})
	on("DELETE "+endpoint, func(c *call) (any, error) {
		return nil, g.removeEndpoint(c.ctx, c.owner, c.r.PathValue("uid"))
	})
	on("PUT "+deployment, func(c *call) (any, error) {
		body, err := decode[wire.Deployment](c.r)
		if err != nil {
			return nil, err
		}
		body.UID = c.r.PathValue("uid")
		return nil, g.putDeployment(c.ctx, c.owner, *body)
	})
	on("GET "+deployment, func(c *call) (any, error) {
		return g.deploymentStatus(c.ctx, c.owner, c.r.PathValue("uid"), c.r.FormValue("after"), wait(c.r))
	})
	on("DELETE "+deployment, func(c *call) (any, error) {
		return nil, g.removeDeployment(c.ctx, c.owner, c.r.PathValue("uid"))
	})
	on("GET "+deployment+"/logs", func(c *call) (any, error) {
		d, err := g.deployment(c.ctx, c.owner, c.r.PathValue("uid"))
		if err != nil {
			return nil, err
		}
		return g.serverLog(c.ctx, d, c.r.FormValue("container"), tail(c.r))
	})
}

var servedName = regexp.MustCompile(`^[a-zA-Z](-?[a-zA-Z0-9]){0,31}$`)

// endpoint is the workspace's own of that uid.
func (g *Gateway) endpoint(ctx context.Context, owner mlext.Owner, uid string) (*mlext.OnlineEndpoint, error) {
	return own(ctx, g, mlext.OnlineEndpoints, owner, uid, mlext.EndpointName, coded(trust.NotFound, wire.EndpointNotFound, "the endpoint is not here"),
		func(e *mlext.OnlineEndpoint) mlext.Owner { return e.Spec.Owner })
}

// deployment is the workspace's own of that uid.
func (g *Gateway) deployment(ctx context.Context, owner mlext.Owner, uid string) (*mlext.OnlineDeployment, error) {
	return own(ctx, g, mlext.OnlineDeployments, owner, uid, mlext.DeploymentName, coded(trust.NotFound, wire.DeploymentNotFound, "the deployment is not here"),
		func(d *mlext.OnlineDeployment) mlext.Owner { return d.Spec.Owner })
}

// putEndpoint keeps an endpoint of one of the workspace's own computes; the same
// one again changes it.
func (g *Gateway) putEndpoint(ctx context.Context, owner mlext.Owner, e wire.Endpoint) error {
	if !uidPattern.MatchString(e.UID) || !servedName.MatchString(e.Name) {
		return trust.Errorf(trust.Invalid, "an endpoint needs uid and name")
	}
	for _, k := range e.Keys {
		if !digest.MatchString(k) {
			return trust.Errorf(trust.Invalid, "keys come as SHA-256 digests")
		}
	}
	c, err := g.compute(ctx, owner, e.Compute)
	if err != nil {
		return err
	}
	if err := g.admits(c.Spec.Namespace); err != nil {
		return err
	}
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		old, err := g.endpoint(ctx, owner, e.UID)
		version := ""
		switch {
		case err == nil:
			version = old.ResourceVersion
		case trust.KindOf(err) != trust.NotFound:
			return err
		default:
			all, err := listed[mlext.OnlineEndpoint](ctx, g, mlext.OnlineEndpoints)
			if err != nil {
				return err
			}
			for _, other := range all {
				if other.Spec.Owner == owner && trust.Fold(other.Spec.Endpoint.Name) == trust.Fold(e.Name) {
					return coded(trust.Conflict, wire.EndpointAlreadyExists, "this workspace has another endpoint named %s in the cluster", e.Name)
				}
			}
			if len(all) >= wire.MaxEndpoints {
				return coded(trust.Conflict, wire.QuotaExceeded, "the cluster has %d endpoints, and no more are taken", len(all))
			}
		}
		err = g.write(ctx, mlext.OnlineEndpoints, mlext.NewOnlineEndpoint(mlext.OnlineEndpointSpec{Owner: owner, Endpoint: e, Namespace: c.Spec.Namespace}), version)
		if apierrors.IsAlreadyExists(err) { // another workspace's, since we did not find it
			return coded(trust.Conflict, wire.NameTaken, "the endpoint's uid is taken")
		}
		return err
	})
}

var digest = regexp.MustCompile(`^[0-9a-f]{64}$`)

// removeEndpoint removes an endpoint and its deployments.
func (g *Gateway) removeEndpoint(ctx context.Context, owner mlext.Owner, uid string) error {
	e, err := g.endpoint(ctx, owner, uid)
	if err != nil {
		return err
	}
	all, err := listed[mlext.OnlineDeployment](ctx, g, mlext.OnlineDeployments)
	if err != nil {
		return err
	}
	for _, d := range all {
		if d.Spec.Owner == owner && d.Spec.Deployment.Endpoint == uid {
			if err := g.drop(ctx, mlext.OnlineDeployments, d.Name); err != nil {
				return err
			}
		}
	}
	return g.drop(ctx, mlext.OnlineEndpoints, e.Name)
}

// putDeployment keeps a deployment of one of the workspace's own endpoints; the
// same one again changes it.
func (g *Gateway) putDeployment(ctx context.Context, owner mlext.Owner, d wire.Deployment) error {
	if !uidPattern.MatchString(d.UID) || !servedName.MatchString(d.Name) || d.Image == "" || d.Instances < 1 || d.Scoring.Port < 1 || d.Scoring.Port > 65535 ||
		d.Request.Timeout < 1 || d.Request.MaxConcurrent < 1 || d.Request.MaxQueueWait < 0 {
		return trust.Errorf(trust.Invalid, "a deployment needs uid, name, image, instances, scoring port and request settings")
	}
	if s := d.Scale; s != nil && (s.Min < 1 || s.Max < s.Min || s.Target < 1 || s.PollingSecs < 1) {
		return trust.Errorf(trust.Invalid, "a deployment's scale needs min, max, target and polling interval")
	}
	e, err := g.endpoint(ctx, owner, d.Endpoint)
	if err != nil {
		return err
	}
	c, err := g.compute(ctx, owner, e.Spec.Endpoint.Compute)
	if err != nil {
		return err
	}
	if err := g.admits(c.Spec.Namespace); err != nil {
		return err
	}
	if d.InstanceType == "" {
		d.InstanceType = c.Spec.DefaultInstanceType
	}
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		spec := mlext.OnlineDeploymentSpec{Owner: owner, Deployment: d, Namespace: e.Spec.Namespace, InstanceTypes: c.Spec.InstanceTypes,
			PullSecret: c.PullSecret(), Compute: c.Spec.Name}
		old, err := g.deployment(ctx, owner, d.UID)
		version := ""
		switch {
		case err == nil:
			version, spec.Scaled = old.ResourceVersion, old.Spec.Scaled
		case trust.KindOf(err) != trust.NotFound:
			return err
		default:
			all, err := listed[mlext.OnlineDeployment](ctx, g, mlext.OnlineDeployments)
			if err != nil {
				return err
			}
			if len(all) >= wire.MaxDeployments {
				return coded(trust.Conflict, wire.QuotaExceeded, "the cluster has %d deployments, and no more are taken", len(all))
			}
		}
		err = g.write(ctx, mlext.OnlineDeployments, mlext.NewOnlineDeployment(spec), version)
		if apierrors.IsAlreadyExists(err) {
			return coded(trust.Conflict, wire.NameTaken, "the deployment's uid is taken")
		}
		return err
	})
}

func (g *Gateway) removeDeployment(ctx context.Context, owner mlext.Owner, uid string) error {
	d, err := g.deployment(ctx, owner, uid)
	if err != nil {
		return err
	}
	return g.drop(ctx, mlext.OnlineDeployments, d.Name)
}

// deploymentStatus waits until the deployment's version is another than after,
// or wait is over.
func (g *Gateway) deploymentStatus(ctx context.Context, owner mlext.Owner, uid, after string, wait time.Duration) (*wire.DeploymentStatus, error) {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	for {
		woken := g.changed.next(mlext.DeploymentName(uid)) // before reading, so that no change is missed
		d, err := g.deployment(ctx, owner, uid)
		if err != nil {
			return nil, err
		}
		// What an operator that is gone has said last may not be true any more.
		if why := g.operatorSilent(ctx); why != "" {
			return nil, coded(trust.Unavailable, wire.OperatorSilent, "%s", why)
		}
		s := d.Status
		if s.Observed != d.Generation { // of an earlier spec
			s = wire.DeploymentStatus{State: wire.Updating, Wanted: s.Wanted, Ready: s.Ready}
		}
		if s.Version = d.ResourceVersion; after != s.Version {
			return &s, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-deadline.C:
			return &s, nil
		case <-woken:
		}
	}
}

const (
	tailLines   = 5000    // as Azure has it by default
	podLogBytes = 1 << 20 // of one replica
	allLogBytes = 3 << 20 // below what the ML service reads
)

func tail(r *http.Request) int64 {
	n, err := strconv.ParseInt(r.FormValue("tail"), 10, 64)
	if err != nil || n < 1 {
		return tailLines
	}
	return min(n, tailLines)
}

// serverLog is what the replicas have written lately, each under a line with its
// name. Of one that does not run now it is what it wrote before it ended.
func (g *Gateway) serverLog(ctx context.Context, d *mlext.OnlineDeployment, container string, lines int64) (*wire.ServerLog, error) {
	if err := g.admits(d.Spec.Namespace); err != nil {
		return nil, err
	}
	pods, err := g.Kube.CoreV1().Pods(d.Spec.Namespace).List(ctx, metav1.ListOptions{LabelSelector: mlext.DeploymentLabel + "=" + d.Spec.Deployment.UID})
	if err != nil {
		return nil, fmt.Errorf("list replicas: %w", err)
	}
	var all strings.Builder
	for i := range pods.Items {
		p := &pods.Items[i]
		fmt.Fprintf(&all, "== replica %s on %s\n", p.Name, p.Spec.NodeName)
		text, err := g.podLog(ctx, p, container, lines)
		if err != nil {
			return nil, err
		}
		all.WriteString(text)
		if text != "" && !strings.HasSuffix(text, "\n") {
			all.WriteByte('\n')
		}
		if all.Len() > allLogBytes {
			all.WriteString("== the other replicas are left out\n")
			break
		}
	}
	return &wire.ServerLog{Content: all.String()}, nil
}

func (g *Gateway) podLog(ctx context.Context, p *corev1.Pod, container string, lines int64) (string, error) {
	all := slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses)
	i := slices.IndexFunc(all, func(c corev1.ContainerStatus) bool { return c.Name == container })
	if i < 0 {
		return "", nil
	}
	o := &corev1.PodLogOptions{Container: container, TailLines: &lines, LimitBytes: new(int64(podLogBytes))}
	switch c := all[i]; {
	case c.State.Running != nil || c.State.Terminated != nil:
	case c.LastTerminationState.Terminated != nil:
		o.Previous = true
	default:
		return "", nil // it has not run yet
	}
	stream, err := g.Kube.CoreV1().Pods(p.Namespace).GetLogs(p.Name, o).Stream(ctx)
	if apierrors.IsNotFound(err) || apierrors.IsBadRequest(err) { // it went, or has not begun
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read log of %s: %w", p.Name, err)
	}
	defer stream.Close()
	text, err := io.ReadAll(io.LimitReader(stream, podLogBytes))
	if err != nil {
		return "", fmt.Errorf("read log of %s: %w", p.Name, err)
	}
	return strings.ToValidUTF8(string(text), "\uFFFD"), nil
}
