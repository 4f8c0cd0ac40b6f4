package router

import "time"

// heardLoad is what the coordinator heard of one deployment's load since it was
// last asked.
type heardLoad struct {
	since time.Time
	by    map[string]*routerLoad
}

// routerLoad adds up what one router says: averages of times that follow each
// other.
type routerLoad struct {
	busy, queued         float64   // request-seconds
	seconds              float64   // that these are of; 0: it said nothing
	at                   time.Time // of its last word
	lastBusy, lastQueued float64   // which was this
}

// loadLife is how long a router that says nothing is taken to go on as before.
const loadLife = 3 * time.Second

func (h *heardLoad) note(router string, busy, queued float64, now time.Time) {
	r := h.by[router]
	if r == nil {
		r = &routerLoad{at: now.Add(-reportEvery)}
		h.by[router] = r
	}
	d := min(now.Sub(r.at), loadLife).Seconds()
	r.busy, r.queued, r.seconds = r.busy+busy*d, r.queued+queued*d, r.seconds+d
	r.at, r.lastBusy, r.lastQueued = now, busy, queued
}

// average is how many requests were busy and queued at all routers, on average
// since the last call. A router that was there for a part of that time counts for
// that part.
func (h *heardLoad) average(now time.Time) (busy, queued float64) {
	passed := now.Sub(h.since).Seconds()
	h.since = now
	for name, r := range h.by {
		switch {
		case r.seconds > 0:
			// The last report is up to one interval of reports old.
			share := min(1, (r.seconds+reportEvery.Seconds())/max(passed, reportEvery.Seconds())) / r.seconds
			busy, queued = busy+r.busy*share, queued+r.queued*share
			r.busy, r.queued, r.seconds = 0, 0, 0
		case now.Sub(r.at) > loadLife:
			delete(h.by, name)
		default:
			busy, queued = busy+r.lastBusy, queued+r.lastQueued
		}
	}
	return busy, queued
}
