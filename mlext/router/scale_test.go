package router

import (
	"testing"
	"time"

	"github.com/sallyport/sallyport/mlext/wire"
)

// until decides once a second, with as many replicas ready as were wanted the
// second before, and gives the seconds until what is wanted is right.
func until(t *testing.T, s *scaler, scale wire.Scale, wanted *int, now *time.Time, load float64, right func(int) bool) int {
	t.Helper()
	for seconds := range 10_000 {
		if right(*wanted) {
			return seconds
		}
		*now = now.Add(time.Second)
		*wanted = s.decide(scale, demand{busy: min(load, float64(*wanted)), queued: max(load-float64(*wanted), 0), concurrent: 1, ready: *wanted, current: *wanted}, *now)
	}
	t.Fatalf("never: %d", *wanted)
	return 0
}

func TestScaling(t *testing.T) {
	scale := wire.Scale{Min: 1, Max: 100, Target: 70, PollingSecs: 1}
	now, wanted, s := time.Unix(1e9, 0), 1, &scaler{}
	// 14 requests at once at a target of 70 % need 20 replicas.
	up := until(t, s, scale, &wanted, &now, 14, func(n int) bool { return n >= 19 })
	if up > 8 {
		t.Errorf("it took %d s to scale up", up)
	}
	until(t, s, scale, &wanted, &now, 14, func(n int) bool { return n == 20 })
	for range 100 {
		now = now.Add(time.Second)
		if wanted = s.decide(scale, demand{busy: 14, concurrent: 1, ready: 20, current: wanted}, now); wanted != 20 {
			t.Fatalf("a steady load of 14 has %d replicas, want 20", wanted)
		}
	}
	down := until(t, s, scale, &wanted, &now, 0, func(n int) bool { return n <= 2 })
	if down < 30 || down > 90 { // ln(10) · 20 s
		t.Errorf("it took %d s to scale down to a tenth, want about 46", down)
	}
	if until(t, s, scale, &wanted, &now, 0, func(n int) bool { return n == 1 }); wanted != 1 {
		t.Errorf("%d", wanted)
	}
}

// The load itself follows a fall twenty times slower than a rise.
func TestScalingDownIsTwentyTimesSlower(t *testing.T) {
	scale := wire.Scale{Min: 1, Max: 1000, Target: 100, PollingSecs: 1}
	half := func(from, to float64) (d time.Duration) {
		now := time.Unix(1e9, 0)
		s := &scaler{load: from, at: now}
		for middle := (from + to) / 2; (s.load-middle)*(from-middle) > 0; d += 10 * time.Millisecond {
			now = now.Add(10 * time.Millisecond)
			s.decide(scale, demand{busy: to, concurrent: 1, ready: 100, current: 100}, now)
		}
		return d
	}
	if ratio := half(100, 0).Seconds() / half(0, 100).Seconds(); ratio < 19 || ratio > 21 {
		t.Errorf("the fall is %.1f times slower, want 20", ratio)
	}
}

func TestScalingStaysWithinBounds(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, c := range []struct {
		name  string
		scale wire.Scale
		d     demand
		want  int
	}{
		{"min", wire.Scale{Min: 3, Max: 5, Target: 70}, demand{concurrent: 1, ready: 3, current: 3}, 3},
		{"max", wire.Scale{Min: 1, Max: 5, Target: 70}, demand{busy: 100, concurrent: 1, ready: 50, current: 5}, 5},
		{"no faster than double what is ready", wire.Scale{Min: 1, Max: 50, Target: 70}, demand{busy: 4, queued: 400, concurrent: 1, ready: 4, current: 4}, 8},
		{"none is ready: wait, and do not run away", wire.Scale{Min: 1, Max: 50, Target: 70}, demand{queued: 400, concurrent: 1, ready: 0, current: 2}, 2},
		{"several at once", wire.Scale{Min: 1, Max: 50, Target: 50}, demand{busy: 40, concurrent: 10, ready: 8, current: 8}, 8},
		{"nothing set", wire.Scale{}, demand{busy: 40, concurrent: 0, ready: 1, current: 1}, 1},
	} {
		if got := (&scaler{}).decide(c.scale, c.d, now); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// A router that takes the decisions over does not begin at nothing.
func TestTakingOverKeepsTheReplicas(t *testing.T) {
	s, now := &scaler{}, time.Unix(1e9, 0)
	scale := wire.Scale{Min: 1, Max: 50, Target: 70, PollingSecs: 1}
	for range 3 {
		if got := s.decide(scale, demand{busy: 7, concurrent: 1, ready: 20, current: 20}, now); got < 18 {
			t.Fatalf("from 20 to %d at once", got)
		}
		now = now.Add(time.Second)
	}
}
