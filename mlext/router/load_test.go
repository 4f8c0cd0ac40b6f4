package router

import (
	"math"
	"testing"
	"time"

	"github.com/sallyport/sallyport/mlext/wire"
)

// reports is a coordinator that hears of the deployment "d", by a clock of the
// test's.
type reports struct {
	*coordinator
	at    time.Time
	links map[string]*link
}

func newReports(routers ...string) *reports {
	r := &reports{at: time.Unix(1e9, 0), links: map[string]*link{}}
	r.coordinator = newCoordinator(1, func() time.Time { return r.at })
	r.update(&table{deployments: map[string]*deployment{"d": {uid: "d", concurrent: 1}}})
	for _, name := range routers {
		r.links[name] = r.connect(name)
		r.hear(r.links[name], message{Kind: joined})
	}
	r.demand("d")
	return r
}

// pass lets time pass in which every router that is named says its load twice a
// second.
func (r *reports) pass(d time.Duration, busy map[string]float64) {
	for range d / reportEvery {
		r.at = r.at.Add(reportEvery)
		for name, b := range busy {
			r.hear(r.links[name], message{Kind: load, Deployment: "d", Busy: b, Queued: 2 * b})
		}
	}
}

// What counts for scaling is the whole interval, not how it ended.
func TestTheLoadIsAnAverageOverTheInterval(t *testing.T) {
	const interval = 10 * time.Second
	type part struct {
		of   time.Duration
		busy map[string]float64
	}
	for name, c := range map[string]struct {
		parts []part
		want  float64
	}{
		"steady":              {[]part{{interval, map[string]float64{"a": 3, "b": 1}}}, 4},
		"a peak at the end":   {[]part{{9 * time.Second, map[string]float64{"a": 0}}, {time.Second, map[string]float64{"a": 10}}}, 1},
		"quiet at the end":    {[]part{{9 * time.Second, map[string]float64{"a": 10}}, {time.Second, map[string]float64{"a": 0}}}, 9},
		"one router dies":     {[]part{{4500 * time.Millisecond, map[string]float64{"a": 4, "b": 4}}, {5500 * time.Millisecond, map[string]float64{"a": 8}}}, 8.2},
		"the last is late":    {[]part{{9500 * time.Millisecond, map[string]float64{"a": 4}}, {reportEvery, nil}}, 4},
		"one is late by much": {[]part{{8 * time.Second, map[string]float64{"a": 4}}, {1500 * time.Millisecond, nil}, {reportEvery, map[string]float64{"a": 4}}}, 4},
		"nobody":              {[]part{{interval, nil}}, 0},
	} {
		r := newReports("a", "b")
		for _, p := range c.parts {
			r.pass(p.of, p.busy)
		}
		if busy, queued := r.demand("d"); math.Abs(busy-c.want) > 0.01 || math.Abs(queued-2*c.want) > 0.02 {
			t.Errorf("%s: %.2f busy and %.2f queued, want %.2f and twice that", name, busy, queued, c.want)
		}
	}
}

func TestARouterThatSaysNothingGoesOnForAWhileOnly(t *testing.T) {
	r := newReports("a")
	r.pass(time.Second, map[string]float64{"a": 5})
	for _, want := range []float64{5, 5, 5, 0, 0} { // at the end of seconds 1, 2, …
		if busy, _ := r.demand("d"); busy != want {
			t.Errorf("%v after its last word: %v busy, want %v", r.at.Sub(time.Unix(1e9+1, 0)), busy, want)
		}
		r.pass(time.Second+time.Millisecond, nil)
		r.at = r.at.Add(time.Millisecond)
	}
}

// A deployment that is asked in short bursts has as many replicas as its average
// needs, whenever the decision falls.
func TestBurstsAreScaledByTheirAverage(t *testing.T) {
	scale := wire.Scale{Min: 1, Max: 100, Target: 100, PollingSecs: 10}
	for offset := time.Duration(0); offset < 10*time.Second; offset += time.Second {
		r, s, wanted := newReports("a"), &scaler{}, 1
		s.decide(scale, demand{concurrent: 1, ready: 1, current: 1}, r.at)
		for range 60 { // one second of forty in every ten
			r.pass(offset, map[string]float64{"a": 0})
			r.pass(time.Second, map[string]float64{"a": 40})
			r.pass(9*time.Second-offset, map[string]float64{"a": 0})
			busy, _ := r.demand("d")
			wanted = s.decide(scale, demand{busy: busy, concurrent: 1, ready: wanted, current: wanted}, r.at)
		}
		if wanted != 4 {
			t.Errorf("an average of 4, asked %v after a burst, has %d replicas, want 4", 9*time.Second-offset, wanted)
		}
	}
}
