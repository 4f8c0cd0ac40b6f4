package authority

import (
	"sync"
	"time"
)

// polls remembers when device codes were last asked for.
type polls struct {
	mu   sync.Mutex
	last map[string]time.Time // by device
}

// early notes a poll and reports whether it came too soon after the last.
func (p *polls) early(device string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.last) >= 2*maxDevices {
		for d, at := range p.last {
			if now.Sub(at) > deviceInterval {
				delete(p.last, d)
			}
		}
	}
	at, known := p.last[device]
	// A little less than what clients are told: their clocks and ours differ.
	if known && now.Sub(at) < deviceInterval-time.Second {
		return true
	}
	if p.last == nil {
		p.last = map[string]time.Time{}
	}
	p.last[device] = now
	return false
}
