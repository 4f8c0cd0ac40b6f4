package router

import (
	"maps"
	"slices"
	"sync"
)

// split deals requests out by percent, in a fixed order that spreads each share
// evenly: any run of as many calls as the sum of the weights holds exactly each
// one's weight (smooth weighted round-robin, as nginx has it).
type split struct {
	traffic map[string]int

	mu    sync.Mutex // guards current
	names []string
	shares,
	current []int
	sum int
}

func newSplit(traffic map[string]int) *split {
	s := &split{traffic: traffic}
	for _, name := range slices.Sorted(maps.Keys(traffic)) {
		if w := traffic[name]; w > 0 {
			s.names, s.shares, s.sum = append(s.names, name), append(s.shares, w), s.sum+w
		}
	}
	s.current = make([]int, len(s.names))
	return s
}

// next is the deployment of the next request; "" if none has any traffic.
func (s *split) next() string {
	switch len(s.names) {
	case 0:
		return ""
	case 1:
		return s.names[0]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	best := 0
	for i := range s.current {
		s.current[i] += s.shares[i]
		if s.current[i] > s.current[best] {
			best = i
		}
	}
	s.current[best] -= s.sum
	return s.names[best]
}
