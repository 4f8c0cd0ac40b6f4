package control

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// picture wakes who waits for a change in the store. It keeps nothing but who
// waits for what: whoever is woken reads the store, so that nothing is decided
// on what a watch has not delivered yet.
type picture struct {
	mu     sync.Mutex
	topics map[string]chan struct{} // closed at the next change
}

func newPicture() *picture { return &picture{topics: map[string]chan struct{}{}} }

// Topics.
const topicGateways = "gateways"

func topicMandate(c trust.ClusterUID) string  { return "mandate/" + string(c) }
func topicAgents(c trust.ClusterUID) string   { return "agents/" + string(c) }
func topicDeparted(c trust.ClusterUID) string { return "departed/" + string(c) }

// followed are the prefixes watched, and the topic of a key below each.
var followed = map[string]func(rest string) string{
	store.MandatePrefix:  func(rest string) string { return topicMandate(trust.ClusterUID(rest)) },
	store.AgentPrefix:    func(rest string) string { return topicAgents(trust.ClusterUID(firstPart(rest))) },
	store.DepartedPrefix: func(rest string) string { return topicDeparted(trust.ClusterUID(firstPart(rest))) },
	store.GatewayPrefix:  func(string) string { return topicGateways },
}

func firstPart(s string) string {
	part, _, _ := strings.Cut(s, "/")
	return part
}

// run follows the store until ctx or the store ends.
func (p *picture) run(ctx context.Context, s *store.Store) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for prefix, topic := range followed {
		wg.Go(func() {
			err := store.Follow(ctx, s, prefix,
				func([]store.KV, int64) error {
					p.wakeAll()
					return nil
				},
				func(b store.Batch) error {
					for _, e := range b.Events {
						p.wake(topic(strings.TrimPrefix(e.Key, prefix)))
					}
					return nil
				})
			if err != nil && !errors.Is(err, context.Canceled) {
				mu.Lock()
				failed = errors.Join(failed, err)
				mu.Unlock()
			}
			cancel()
		})
	}
	wg.Wait()
	p.wakeAll()
	return failed
}

// next is closed at the next change of the topic.
func (p *picture) next(topic string) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	ch := p.topics[topic]
	if ch == nil {
		ch = make(chan struct{})
		p.topics[topic] = ch
	}
	return ch
}

func (p *picture) wake(topic string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ch := p.topics[topic]; ch != nil {
		close(ch)
		delete(p.topics, topic)
	}
}

func (p *picture) wakeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for topic, ch := range p.topics {
		close(ch)
		delete(p.topics, topic)
	}
}

// until calls check now, at each change of the topics, and after the time that
// check asked for (0: none), until it is done, fails, or ctx ends. A store that
// is away is waited for.
func (p *picture) until(ctx context.Context, topics []string, check func() (done bool, again time.Duration, err error)) error {
	const whenAway = time.Second
	for {
		// Taken before check looks: a change after that wakes.
		woken, stop := p.any(ctx, topics)
		done, again, err := check()
		switch {
		case ctx.Err() != nil:
			stop()
			return ctx.Err()
		case errors.Is(err, store.ErrUnavailable):
			again = whenAway
		case err != nil || done:
			stop()
			return err
		}
		if again <= 0 {
			again = forever
		}
		timer := time.NewTimer(again)
		select {
		case <-ctx.Done():
		case <-woken:
		case <-timer.C:
		}
		timer.Stop()
		stop()
	}
}

// forever is when a check that asked for no time is made again all the same.
const forever = time.Hour

// any is closed at the next change of one of the topics. stop must be called.
func (p *picture) any(ctx context.Context, topics []string) (<-chan struct{}, func()) {
	if len(topics) == 1 {
		return p.next(topics[0]), func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	woken := make(chan struct{})
	var once sync.Once
	var wg sync.WaitGroup
	for _, t := range topics {
		ch := p.next(t)
		wg.Go(func() {
			select {
			case <-ch:
				once.Do(func() { close(woken) })
			case <-ctx.Done():
			}
		})
	}
	return woken, func() {
		cancel()
		wg.Wait()
	}
}
