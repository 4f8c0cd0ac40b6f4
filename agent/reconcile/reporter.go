package reconcile

import (
	"context"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/sallyport/sallyport/mandate"
)

// reporter sends the newest report, and only the newest, until it is taken.
// Sending must not hold up the loop: a control plane may be away while drift is
// repaired.
type reporter struct {
	control Control
	log     *slog.Logger
	every   time.Duration // an unchanged report is sent again after this
	retry   time.Duration

	ready chan struct{}
	mu    sync.Mutex // guards what follows
	next  *mandate.Report
	taken mandate.Floor // of the last report that the control plane took
}

func newReporter(c Control, log *slog.Logger, every, retry time.Duration) *reporter {
	return &reporter{control: c, log: log, every: every, retry: retry, ready: make(chan struct{}, 1)}
}

// put makes report the next one to send.
func (r *reporter) put(report mandate.Report) {
	r.mu.Lock()
	r.next = &report
	r.mu.Unlock()
	select {
	case r.ready <- struct{}{}:
	default:
	}
}

func (r *reporter) run(ctx context.Context) error {
	var sent mandate.Report
	var at time.Time
	wait := r.retry
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.ready:
		}
		r.mu.Lock()
		next := *r.next
		r.mu.Unlock()
		// Rounds that found nothing new need no word, but now and then one.
		if !at.IsZero() && time.Since(at) < r.every/2 && reflect.DeepEqual(sent, next) {
			continue
		}
		if err := r.control.Report(ctx, next); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.log.Warn("report not taken, trying again", "error", err, "retry", wait)
			if err := sleep(ctx, wait); err != nil {
				return err
			}
			wait = min(2*wait, maxRetry/6) // one call of one agent: soon enough after a restart of the server
			select {
			case r.ready <- struct{}{}:
			default:
			}
			continue
		}
		sent, at, wait = next, time.Now(), r.retry
		r.mu.Lock()
		r.taken = mandate.Floor{Epoch: next.Epoch, Revision: next.Revision}
		r.mu.Unlock()
	}
}

// live tells the control plane every period that this agent is there, though
// there is nothing new to report. It claims no more than reports have told.
func (r *reporter) live(ctx context.Context, period time.Duration) error {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		r.mu.Lock()
		taken := r.taken
		r.mu.Unlock()
		if _, err := r.control.Ask(ctx, mandate.NewNonce(), taken); err != nil && ctx.Err() == nil {
			r.log.Warn("control plane did not answer", "error", err)
		}
	}
}
