package router

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// many is routers, with their pools of one deployment, and a coordinator, joined
// by queues that deliver in any order between, and in order within each.
type many struct {
	t        *testing.T
	rand     *rand.Rand
	capacity int
	ledger   *ledger
	names    []string
	pools    map[string]*pool
	up       map[string]*mailbox  // to the coordinator
	down     map[string][]message // to a router
	joining  map[string][]message
	joined   map[string]bool
	ready    map[string]string
	using    map[string][]*replica // by router
	busy     map[string]int        // by replica, over all routers
	parked   map[string][]*waiter
	now      time.Time
}

func newMany(t *testing.T, seed uint64, capacity int, routers, replicas int) *many {
	m := &many{t: t, rand: rand.New(rand.NewPCG(seed, 1)), capacity: capacity, ledger: newLedger(), pools: map[string]*pool{}, up: map[string]*mailbox{},
		down: map[string][]message{}, joining: map[string][]message{}, joined: map[string]bool{}, ready: map[string]string{}, using: map[string][]*replica{},
		busy: map[string]int{}, parked: map[string][]*waiter{}, now: time.Unix(1e9, 0)}
	for i := range routers {
		name := fmt.Sprint("router-", i)
		m.names = append(m.names, name)
		m.pools[name] = newPool("d", func() time.Time { return m.now })
	}
	for i := range replicas {
		m.ready[fmt.Sprint("replica-", i)] = "address"
	}
	for _, name := range m.names {
		m.pools[name].set(m.ready)
		m.join(name)
	}
	m.ledger.set("d", capacity, m.replicas())
	m.ledger.settle()
	return m
}

func (m *many) replicas() (ids []string) {
	for id := range m.ready {
		ids = append(ids, id)
	}
	return ids
}

func (m *many) join(name string) {
	m.up[name], m.down[name], m.joined[name], m.joining[name] = newMailbox(), nil, false, nil
	m.pools[name].attach(m.up[name])
	m.up[name].put(message{Kind: joined})
}

// ask begins a request as take does, without waiting for it.
func (m *many) ask(name string) {
	p := m.pools[name]
	done, cancel := context.WithCancel(m.t.Context())
	cancel()
	p.mu.Lock()
	w := &waiter{got: make(chan *replica, 1)}
	if p.first == nil && !p.contended {
		if r := p.free(m.now); r != nil {
			r.busy++
			p.busy++
			w.got <- r
			p.mu.Unlock()
			m.parked[name] = append(m.parked[name], w)
			return
		}
	}
	p.enqueue(w)
	p.say(want, "", 1)
	p.mu.Unlock()
	m.parked[name] = append(m.parked[name], w)
	if m.rand.IntN(8) == 0 { // the caller leaves
		m.parked[name] = m.parked[name][:len(m.parked[name])-1]
		if r, err := p.wait(done, w, patience{wait: time.Hour, settled: func() bool { return true }}, m.now); err == nil {
			m.start(name, r)
		}
	}
}

func (m *many) start(name string, r *replica) {
	m.using[name] = append(m.using[name], r)
	if m.busy[r.id]++; m.busy[r.id] > m.capacity {
		m.t.Fatalf("replica %s has %d requests at once, at most %d", r.id, m.busy[r.id], m.capacity)
	}
}

// look sees which requests were given a slot.
func (m *many) look() {
	for _, name := range m.names {
		kept := m.parked[name][:0]
		for _, w := range m.parked[name] {
			select {
			case r := <-w.got:
				m.start(name, r)
			default:
				kept = append(kept, w)
			}
		}
		m.parked[name] = kept
	}
}

func (m *many) finish(name string) {
	if u := m.using[name]; len(u) > 0 {
		i := m.rand.IntN(len(u))
		r := u[i]
		m.using[name] = append(u[:i], u[i+1:]...)
		m.busy[r.id]--
		m.pools[name].done(r, m.rand.IntN(20) == 0)
	}
}

func (m *many) post(orders []order) {
	for _, o := range orders {
		if m.joined[o.to] {
			m.down[o.to] = append(m.down[o.to], o.message)
		}
	}
}

// deliver carries one message in each direction, if there is one.
func (m *many) deliver(name string) bool {
	did := false
	box := m.up[name]
	box.mu.Lock()
	var next []message
	if len(box.items) > 0 {
		next, box.items = box.items[:1:1], box.items[1:]
	}
	box.mu.Unlock()
	for _, msg := range next {
		did = true
		switch {
		case msg.Kind == joined:
			m.joined[name] = true
			m.post(m.ledger.join(name, m.joining[name]))
		case !m.joined[name]:
			m.joining[name] = append(m.joining[name], msg)
		default:
			m.post(m.ledger.hear(name, msg))
		}
	}
	if len(m.down[name]) > 0 {
		did = true
		msg := m.down[name][0]
		m.down[name] = m.down[name][1:]
		switch msg.Kind {
		case grant:
			m.pools[name].granted(msg.Replica, msg.N)
		case contended:
			m.pools[name].yield(msg.On)
		}
	}
	m.look()
	return did
}

func (m *many) someone() string { return m.names[m.rand.IntN(len(m.names))] }

// Forty-five thousand mixed steps: no replica ever has more at once than it takes,
// whatever crosses on the way, also while coordinators come and go; and when all
// is quiet nobody waits beside a free slot.
func TestSlotsAreNeverExceededAndNeverIdleWhileSomeoneWaits(t *testing.T) {
	steps := 1_500
	if testing.Short() {
		steps = 500
	}
	for seed := range uint64(30) {
		m := newMany(t, seed, 1+int(seed%3), 1+int(seed%4), 1+int(seed%5))
		for range steps {
			name := m.someone()
			switch n := m.rand.IntN(100); {
			case n < 25:
				m.ask(name)
			case n < 50:
				m.finish(name)
			case n < 97:
				m.deliver(name)
			case n == 97: // a replica goes, and another comes
				if len(m.ready) > 1 {
					for id := range m.ready {
						delete(m.ready, id)
						break
					}
				}
				m.ready[fmt.Sprint("replica-", m.rand.Uint32())] = "address"
				if m.rand.IntN(2) == 0 {
					m.post(m.ledger.set("d", m.capacity, m.replicas()))
				}
				for _, name := range m.names {
					m.pools[name].set(m.ready)
				}
				m.post(m.ledger.set("d", m.capacity, m.replicas()))
			case n == 98: // the way to a router breaks and is there again
				m.ledger.quit(name)
				m.join(name)
			default: // another coordinator
				m.ledger = newLedger()
				m.ledger.set("d", m.capacity, m.replicas())
				for _, name := range m.names {
					m.join(name)
				}
				for settled := false; !settled; {
					settled = true
					for _, name := range m.names {
						m.deliver(name)
						settled = settled && m.joined[name]
					}
				}
				m.post(m.ledger.settle())
			}
			m.look()
			m.now = m.now.Add(time.Millisecond)
		}
		m.quiet()
	}
}

// quiet lets everything arrive and checks that slots are used.
func (m *many) quiet() {
	m.now = m.now.Add(time.Minute)
	for did := true; did; {
		did = false
		for _, name := range m.names {
			m.pools[name].tick(m.now)
			did = m.deliver(name) || did
		}
	}
	waiting, busy := 0, 0
	for _, name := range m.names {
		waiting += len(m.parked[name])
		_, _, b, w := m.pools[name].current()
		busy += b
		if w != len(m.parked[name]) {
			m.t.Fatalf("%s counts %d that wait, there are %d", name, w, len(m.parked[name]))
		}
	}
	free := 0
	for id := range m.ready {
		free += m.capacity - m.busy[id]
	}
	if waiting > 0 && free > 0 {
		m.t.Fatalf("%d requests wait and %d slots are free (%d busy): %+v", waiting, free, busy, m.ledger.deployments["d"])
	}
	// All that run end, and all that wait get their turn.
	for range 100_000 {
		name := m.someone()
		m.finish(name)
		m.deliver(name)
		left := 0
		for _, name := range m.names {
			m.pools[name].tick(m.now)
			left += len(m.parked[name]) + len(m.using[name])
		}
		m.now = m.now.Add(10 * time.Millisecond)
		if left == 0 {
			return
		}
	}
	m.t.Fatal("some never get a slot")
}

func TestThoseWhoWaitComeInTheOrderOfAsking(t *testing.T) {
	l := newLedger()
	l.set("d", 1, []string{"p"})
	l.settle()
	if got := l.want("a", "d", 1); len(got) != 1 || got[0].Kind != grant || got[0].to != "a" {
		t.Fatalf("%+v", got)
	}
	l.want("b", "d", 1)
	l.want("c", "d", 1)
	l.want("b", "d", 1)
	var order string
	holder := "a"
	for range 3 {
		for _, o := range l.back(holder, "d", "p", 1) {
			if o.Kind == grant {
				order += o.to
				holder = o.to
			}
		}
	}
	if order != "bcb" {
		t.Errorf("slots went to %s, want bcb", order)
	}
}

func TestNobodyGivesBackWhatItDoesNotHave(t *testing.T) {
	l := newLedger()
	l.set("d", 1, []string{"p"})
	l.settle()
	l.want("a", "d", 1)
	l.back("b", "d", "p", 1)
	l.back("b", "d", "p", -5)
	for _, o := range l.want("b", "d", 1) {
		if o.Kind == grant {
			t.Error("b got the slot that a holds")
		}
	}
	l.leave("b")
	l.want("c", "d", 1)
	granted := false
	for _, o := range l.leave("a") {
		granted = granted || o.Kind == grant && o.to == "c"
	}
	if !granted {
		t.Error("what a held, when its process was gone, was not given to c")
	}
}

// A router may see a deployment sooner than the coordinator does: what it waits
// for is not forgotten, and what is gone is.
func TestWhoWaitsForAnUnknownDeploymentIsKept(t *testing.T) {
	l := newLedger()
	l.settle()
	none := func(string) bool { return false }
	l.want("a", "d", 1)
	l.drop(none)
	if got := l.set("d", 1, []string{"p"}); len(got) != 1 || got[0].Kind != grant || got[0].to != "a" {
		t.Fatalf("%+v", got)
	}
	l.drop(none)
	if l.deployments["d"] == nil {
		t.Error("a held slot was forgotten")
	}
	l.back("a", "d", "p", 1)
	if l.drop(none); len(l.deployments) != 0 {
		t.Errorf("left: %+v", l.deployments)
	}
}
