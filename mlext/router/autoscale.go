package router

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
)

// autoscale decides for every deployment that scales, each at its own interval,
// until ctx ends or this process drains.
func (r *Router) autoscale(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	known := map[string]*scaling{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.drained:
			return
		case <-tick.C:
		}
		c := r.coordinating()
		if c == nil || !r.synced.Load() {
			continue
		}
		t := r.table.Load()
		for uid := range known {
			if d := t.deployments[uid]; d == nil || d.scale == nil {
				delete(known, uid)
			}
		}
		for uid, d := range t.deployments {
			if d.scale == nil {
				continue
			}
			s := known[uid]
			if s == nil {
				s = &scaling{}
				known[uid] = s
			}
			if err := r.scale(ctx, c, s, d); err != nil && ctx.Err() == nil {
				r.Log.WarnContext(ctx, "deployment not scaled", "deployment", d.name, "uid", uid, "error", err)
			}
		}
	}
}

// scaling is a deployment's scaler and when it decides next.
type scaling struct {
	scaler
	next time.Time
}

// scale decides once, if it is time, and writes what was decided.
func (r *Router) scale(ctx context.Context, c *coordinator, s *scaling, d *deployment) error {
	now := r.Now()
	if now.Before(s.next) {
		return nil
	}
	s.next = now.Add(time.Duration(max(d.scale.PollingSecs, 1)) * time.Second)
	busy, queued := c.demand(d.uid)
	current := first(*d.scale, d.started, d.scaled)
	wanted := s.decide(*d.scale, demand{busy: busy, queued: queued, concurrent: d.concurrent, ready: len(d.ready), current: current}, now)
	if wanted == d.scaled || d.scaled == 0 && wanted == current {
		return nil
	}
	// Of a deployment the router may change this number and nothing else.
	_, err := r.Dynamic.Resource(mlext.OnlineDeployments).Namespace(wire.Namespace).Patch(ctx, mlext.DeploymentName(d.uid), types.MergePatchType,
		fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, wanted), metav1.PatchOptions{}, "scale")
	if err != nil {
		return fmt.Errorf("write the number of replicas: %w", err)
	}
	r.Log.InfoContext(ctx, "deployment scaled", "deployment", d.name, "uid", d.uid, "from", current, "to", wanted, "busy", busy, "queued", queued)
	return nil
}
