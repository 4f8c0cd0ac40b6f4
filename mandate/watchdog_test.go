package mandate

import (
	"testing"
	"time"

	"github.com/sallyport/sallyport/trust"
)

// world is an agent's watchdog, a control plane that answers, and a clock that
// only the test moves.
type world struct {
	t   *testing.T
	now time.Time
	w   *Watchdog
}

func newWorld(t *testing.T) *world {
	pub, _ := key('k')
	x := &world{t: t, now: time.Now()}
	x.w = NewWatchdog(ours, pub, func() time.Time { return x.now })
	return x
}

func (x *world) answer(nonce string, f Floor) error {
	x.t.Helper()
	_, priv := key('k')
	data, err := SignAnswer(priv, Answer{Cluster: ours, Epoch: f.Epoch, Revision: f.Revision, Nonce: nonce})
	if err != nil {
		x.t.Fatal(err)
	}
	_, err = x.w.Hear(data)
	return err
}

func (x *world) want(fresh bool, when string) {
	x.t.Helper()
	if x.w.Fresh() != fresh {
		x.t.Errorf("%s: fresh is %v, %v left", when, !fresh, x.w.Left())
	}
}

func TestWatchdog(t *testing.T) {
	x := newWorld(t)
	x.want(false, "at start")
	x.w.Hold(Floor{1, 10})
	x.want(false, "with a state that nobody vouched for")

	nonce := x.w.Ask()
	x.now = x.now.Add(5 * time.Second)
	if err := x.answer(nonce, Floor{1, 10}); err != nil {
		t.Fatal(err)
	}
	x.want(true, "answered")
	if got := x.w.Left(); got != FreshBound-5*time.Second {
		t.Errorf("an answer counts from its arrival: %v left", got)
	}
	if err := x.answer(nonce, Floor{1, 10}); trust.KindOf(err) != trust.Conflict {
		t.Errorf("replayed answer: %v", err)
	}
	x.now = x.now.Add(25 * time.Second)
	x.want(false, "after the bound")
}

func TestWatchdogStateHeldBack(t *testing.T) {
	x := newWorld(t)
	x.w.Hold(Floor{1, 10})
	if err := x.answer(x.w.Ask(), Floor{1, 10}); err != nil {
		t.Fatal(err)
	}
	for range 3 { // answers go on coming, the state they speak of does not
		x.now = x.now.Add(NoncePeriod)
		if err := x.answer(x.w.Ask(), Floor{1, 11}); err != nil {
			t.Fatal(err)
		}
	}
	x.want(false, "30 s behind a newer state")
	x.w.Hold(Floor{1, 11})
	x.want(true, "once it has come")
	if err := x.answer(x.w.Ask(), Floor{1, 10}); trust.KindOf(err) != trust.Conflict {
		t.Errorf("a control plane that went back in time: %v", err)
	}
	if err := x.answer(x.w.Ask(), Floor{2, 3}); err != nil {
		t.Fatal(err)
	}
	x.now = x.now.Add(FreshBound)
	x.want(false, "with a state of the epoch before")
	x.w.Hold(Floor{2, 4})
	x.want(false, "an answer does not count longer than its bound")
}

func TestWatchdogOvertakenAnswer(t *testing.T) {
	x := newWorld(t)
	x.w.Hold(Floor{1, 12})
	first := x.w.Ask()
	x.now = x.now.Add(NoncePeriod)
	second := x.w.Ask()
	if err := x.answer(second, Floor{1, 12}); err != nil {
		t.Fatal(err)
	}
	if err := x.answer(first, Floor{1, 10}); err != nil {
		t.Errorf("an answer that was overtaken: %v", err)
	}
	if got := x.w.Left(); got != FreshBound {
		t.Errorf("%v left, want %v", got, FreshBound)
	}
}

func TestWatchdogForgetsNonces(t *testing.T) {
	x := newWorld(t)
	first := x.w.Ask()
	for range 100 {
		x.now = x.now.Add(NoncePeriod)
		x.w.Ask()
	}
	if n := len(x.w.asked); n > int(FreshBound/NoncePeriod) {
		t.Errorf("%d nonces are kept", n)
	}
	x.w.Hold(Floor{1, 1})
	if err := x.answer(first, Floor{1, 1}); trust.KindOf(err) != trust.Conflict {
		t.Errorf("an answer after 1000 s: %v", err)
	}
	x.want(false, "after it")
}

func TestFreshDoesNotAllocate(t *testing.T) {
	x := newWorld(t)
	if n := testing.AllocsPerRun(100, func() { x.w.Fresh() }); n > 0 {
		t.Errorf("Fresh allocates %v times", n)
	}
}
