package ml

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// crowd are callers of an endpoint that score without end, each one request after
// the other. What takes no connection they ask again, as nothing was sent.
type crowd struct {
	asked atomic.Int64
	stop  context.CancelFunc
	work  sync.WaitGroup

	mu   sync.Mutex
	lost []string
}

const callers = 8

// crowd starts callers that take turns at the addresses.
func (m *ml) crowd(at ...*scorer) *crowd {
	ctx, stop := context.WithCancel(context.WithoutCancel(m.t.Context()))
	c := &crowd{stop: stop}
	m.t.Cleanup(func() { c.end() })
	for i := range callers {
		c.work.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				s := at[n%len(at)]
				status, text, err := s.score(context.WithoutCancel(ctx), s.key, "")
				if notSent(err) {
					continue
				}
				c.asked.Add(1)
				if err != nil || status != http.StatusOK {
					c.mu.Lock()
					c.lost = append(c.lost, fmt.Sprintf("%d %s %v", status, text, err))
					c.mu.Unlock()
				}
			}
		})
	}
	return c
}

// end lets callers finish, and gives what was not answered with 200.
func (c *crowd) end() []string {
	c.stop()
	c.work.Wait()
	return c.lost
}

// more waits until so many more requests have been answered.
func (c *crowd) more(m *ml, n int64) {
	m.t.Helper()
	from := c.asked.Load()
	eventually(m.t, fmt.Sprintf("%d more requests are answered", n), func(context.Context) error {
		if done := c.asked.Load() - from; done < n {
			return fmt.Errorf("%d are", done)
		}
		return nil
	})
}

func notSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// dialing is a client that reaches an address, whatever its URLs say; "" for what
// they say. A dead machine is noticed in seconds.
func dialing(address string) *http.Transport {
	d := &net.Dialer{Timeout: 2 * time.Second}
	return &http.Transport{MaxIdleConnsPerHost: 2 * callers, DialContext: func(ctx context.Context, network, asked string) (net.Conn, error) {
		if address != "" {
			asked = address
		}
		return d.DialContext(ctx, network, asked)
	}}
}
