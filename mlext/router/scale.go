package router

import (
	"math"
	"time"

	"github.com/sallyport/sallyport/mlext/wire"
)

// scaler decides how many replicas one deployment should have. It remembers the
// load it has seen, which follows a rise within about one polling interval and a
// fall about twenty times slower, as Azure's routers do.
type scaler struct {
	load float64 // in replicas that would be all busy
	at   time.Time
}

// demand is what goes on in a deployment.
type demand struct {
	busy, queued float64 // requests, on average since the last decision
	concurrent   int     // requests that a replica takes at once
	ready        int     // replicas that take requests
	current      int     // replicas that are wanted so far
}

const slowerDown = 20

// decide gives the replicas that are wanted: as many as keep
// (busy + queued) / replicas at the target. Growth is bounded by what there is,
// since a queue says more than is needed while new replicas start.
func (s *scaler) decide(scale wire.Scale, d demand, now time.Time) int {
	load := (d.busy + d.queued) / float64(max(d.concurrent, 1))
	interval := float64(max(scale.PollingSecs, 1))
	if !s.at.IsZero() {
		within := interval
		if load < s.load {
			within *= slowerDown
		}
		s.load += (load - s.load) * (1 - math.Exp(-now.Sub(s.at).Seconds()/within))
	} else {
		// One that takes over knows nothing: what is there was wanted.
		s.load = max(load, float64(d.current)*target(scale))
	}
	s.at = now
	wanted := int(math.Ceil(s.load/target(scale) - 0.01))
	if wanted > d.current {
		wanted = max(d.current, min(wanted, max(2*d.ready, d.ready+2)))
	}
	least := max(scale.Min, 1)
	return min(max(wanted, least), max(scale.Max, least))
}

// target is a share; Azure's default where there is none.
func target(s wire.Scale) float64 {
	if s.Target < 1 || s.Target > 100 {
		return 0.7
	}
	return float64(s.Target) / 100
}

// first is how many replicas a deployment has before anything was decided.
func first(scale wire.Scale, started, scaled int) int {
	if scaled > 0 {
		started = scaled
	}
	least := max(scale.Min, 1)
	return min(max(started, least), max(scale.Max, least))
}
