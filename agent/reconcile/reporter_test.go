package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/mandate"
)

// listener is a control plane that takes note of what it is told.
type listener struct {
	mu      sync.Mutex
	asked   []mandate.Floor
	reports int
	deaf    bool
}

func (l *listener) States(ctx context.Context, _ func() mandate.Floor, _ func([]byte) error) error {
	<-ctx.Done()
	return ctx.Err()
}

func (l *listener) Ask(_ context.Context, _ string, applied mandate.Floor) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, applied)
	return nil, nil
}

func (l *listener) Report(context.Context, mandate.Report) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.deaf {
		return errors.New("away")
	}
	l.reports++
	return nil
}

func TestAQuietReconcilerSaysThatItIsThereAndClaimsNoMoreThanItReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &listener{deaf: true}
		r := newReporter(l, slog.New(slog.DiscardHandler), time.Hour, time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = r.run(ctx) })
		running.Go(func() { _ = r.live(ctx, 10*time.Second) })
		r.put(mandate.Report{Epoch: 1, Revision: 7})
		time.Sleep(15 * time.Second)
		l.mu.Lock()
		if len(l.asked) != 1 || l.asked[0] != (mandate.Floor{}) {
			t.Errorf("before a report was taken it claimed %v", l.asked)
		}
		l.deaf = false
		l.mu.Unlock()
		time.Sleep(2 * time.Minute)
		l.mu.Lock()
		if n := len(l.asked); n != 13 || l.asked[n-1] != (mandate.Floor{Epoch: 1, Revision: 7}) || l.reports != 1 {
			t.Errorf("asked %d times, last claiming %v, %d reports; want 13, revision 7, 1", n, l.asked[n-1], l.reports)
		}
		l.mu.Unlock()
		cancel()
		running.Wait()
	})
}
