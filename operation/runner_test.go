package operation_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

func TestMain(m *testing.M) {
	child()
	goleak.VerifyTestMain(m)
}

var quiet = slog.New(slog.DiscardHandler)

func open(t *testing.T, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Dir: dir, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// start runs a runner; the returned function stops it and waits.
func start(t *testing.T, cfg operation.Config) (stop func()) {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = quiet
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := operation.New(cfg).Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return stop
}

// add stores a new operation.
func add(t *testing.T, s *store.Store, kind string, input any) store.Operation {
	t.Helper()
	op, err := operation.NewRecord(kind, "sub", "here", "/target", "caller", input)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), store.Create(op)); err != nil {
		t.Fatal(err)
	}
	return op
}

// await polls the operation until it is as wanted.
func await(t *testing.T, s *store.Store, op store.Operation, what string, ok func(store.Operation) bool) store.Operation {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		item, err := store.Get[store.Operation](t.Context(), s, op.Key())
		if err == nil && ok(item.Value) {
			return item.Value
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s: %+v, %v", what, item.Value, err)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func done(op store.Operation) bool { return op.Done() }

type shown struct{ failure store.Failure }

func (s shown) Error() string          { return "shown" }
func (s shown) Failure() store.Failure { return s.failure }

func TestOutcomes(t *testing.T) {
	s := open(t, t.TempDir())
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	detailed := store.Failure{Code: "RoleNotAccepted", Message: "no", Details: []store.Failure{{Code: "x", Message: "y"}}}
	type outcome struct {
		Status  string
		Problem *store.Failure
	}
	cases := map[string]struct {
		handler func(op *store.Operation) error
		want    outcome
	}{
		"good": {func(op *store.Operation) error {
			if string(op.Input) != `{"n":7}` {
				return fmt.Errorf("input %s", op.Input)
			}
			return nil
		}, outcome{Status: store.OperationSucceeded}},
		"kind": {func(*store.Operation) error {
			e := trust.Errorf(trust.Forbidden, "not you")
			e.Hint, e.Err = "ask the owner", errors.New("internal detail")
			return fmt.Errorf("wrapped: %w", e)
		}, outcome{store.OperationFailed, &store.Failure{Code: "AuthorizationFailed", Message: "not you. ask the owner"}}},
		"own code": {func(*store.Operation) error {
			return &trust.Error{Kind: trust.Invalid, Code: "Mine", Message: "m", Target: "p"}
		}, outcome{store.OperationFailed, &store.Failure{Code: "Mine", Message: "m", Target: "p"}}},
		"failer": {func(*store.Operation) error { return shown{detailed} }, outcome{store.OperationFailed, &detailed}},
		"unknown error": {func(*store.Operation) error { return errors.New("secret text") },
			outcome{store.OperationFailed, &store.Failure{Code: "InternalServerError", Message: "the id", Target: "/target"}}},
		"panic": {func(*store.Operation) error { panic("secret text") },
			outcome{store.OperationFailed, &store.Failure{Code: "InternalServerError", Message: "the id", Target: "/target"}}},
	}
	handlers := map[string]operation.Handler{}
	for name, c := range cases {
		handlers[name] = func(_ context.Context, op *store.Operation, _ func(string)) error { return c.handler(op) }
	}
	start(t, operation.Config{Store: s, Handlers: handlers, Now: func() time.Time { return now }})
	for name, c := range cases {
		op := await(t, s, add(t, s, name, map[string]int{"n": 7}), name, done)
		got := outcome{op.Status, op.Problem}
		if got.Problem != nil && strings.Contains(got.Problem.Message, op.ID) {
			got.Problem.Message = "the id"
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		if !op.Ended.Equal(now) {
			t.Errorf("%s: ended %v", name, op.Ended)
		}
	}
	if runs, _, err := store.List[store.Run](t.Context(), s, store.RunnerPrefix); err != nil || len(runs) != 0 {
		t.Errorf("claims left: %v %v", runs, err)
	}
}

func TestReasonIsStored(t *testing.T) {
	s := open(t, t.TempDir())
	release := make(chan struct{})
	start(t, operation.Config{Store: s, Handlers: map[string]operation.Handler{
		"wait": func(ctx context.Context, _ *store.Operation, progress func(string)) error {
			progress("the agent is not connected")
			progress("the agent is not connected")
			progress("the agent is applying")
			select {
			case <-release:
			case <-ctx.Done():
			}
			return nil
		},
	}})
	op := add(t, s, "wait", nil)
	await(t, s, op, "reason", func(o store.Operation) bool { return o.Reason == "the agent is applying" })
	close(release)
	if o := await(t, s, op, "end", done); o.Reason != "" || o.Status != store.OperationSucceeded {
		t.Errorf("%+v", o)
	}
}

// Two runners race for many operations: each runs once, none twice at once.
func TestTwoRunnersShareTheWork(t *testing.T) {
	s := open(t, t.TempDir())
	var runs sync.Map // id → *atomic.Int32, how often it ran
	var at [2]atomic.Int32
	handler := func(i int) operation.Handler {
		return func(_ context.Context, op *store.Operation, _ func(string)) error {
			n, _ := runs.LoadOrStore(op.ID, new(atomic.Int32))
			n.(*atomic.Int32).Add(1)
			at[i].Add(1)
			return nil
		}
	}
	for i := range at {
		start(t, operation.Config{Store: s, Replica: fmt.Sprint(i), Handlers: map[string]operation.Handler{"k": handler(i)}})
	}
	var ops []store.Operation
	for range 60 {
		ops = append(ops, add(t, s, "k", nil))
	}
	for _, op := range ops {
		await(t, s, op, "end", done)
		if n, _ := runs.Load(op.ID); n.(*atomic.Int32).Load() != 1 {
			t.Errorf("%s ran %d times", op.ID, n.(*atomic.Int32).Load())
		}
	}
	t.Logf("shares: %d and %d", at[0].Load(), at[1].Load())
}

// A stopped runner leaves its operation, and another one takes it at once.
func TestStoppedRunnerHandsOver(t *testing.T) {
	s := open(t, t.TempDir())
	began := make(chan string, 2)
	handler := func(name string, wait bool) operation.Handler {
		return func(ctx context.Context, _ *store.Operation, _ func(string)) error {
			began <- name
			if wait {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
	}
	stop := start(t, operation.Config{Store: s, Replica: "a", Handlers: map[string]operation.Handler{"k": handler("a", true)}})
	op := add(t, s, "k", nil)
	if got := <-began; got != "a" {
		t.Fatal(got)
	}
	start(t, operation.Config{Store: s, Replica: "b", Handlers: map[string]operation.Handler{"k": handler("b", false)}})
	stopped := time.Now()
	stop()
	if o := await(t, s, op, "end", done); o.Status != store.OperationSucceeded {
		t.Errorf("%+v", o)
	}
	if got := <-began; got != "b" {
		t.Fatal(got)
	}
	if took := time.Since(stopped); took > 3*time.Second {
		t.Errorf("handing over took %s, longer than the lease", took)
	}
}

// What was stored before any runner was there is run when one comes; kinds
// without a handler are left alone.
func TestStoredFirst(t *testing.T) {
	s := open(t, t.TempDir())
	op, other := add(t, s, "k", nil), add(t, s, "elsewhere", nil)
	stop := start(t, operation.Config{Store: s, Handlers: map[string]operation.Handler{
		"k": func(context.Context, *store.Operation, func(string)) error { return nil },
	}})
	await(t, s, op, "end", done)
	stop()
	if o := await(t, s, other, "it", func(store.Operation) bool { return true }); o.Done() {
		t.Errorf("%+v", o)
	}
}

// A store that was away does not fail the operation.
func TestStoreAwayIsTriedAgain(t *testing.T) {
	s := open(t, t.TempDir())
	var calls atomic.Int32
	start(t, operation.Config{Store: s, Handlers: map[string]operation.Handler{
		"k": func(context.Context, *store.Operation, func(string)) error {
			if calls.Add(1) == 1 {
				return fmt.Errorf("list bindings: %w", store.ErrUnavailable)
			}
			return nil
		},
	}})
	if o := await(t, s, add(t, s, "k", nil), "end", done); o.Status != store.OperationSucceeded || calls.Load() != 2 {
		t.Errorf("%+v after %d calls", o, calls.Load())
	}
}

// Somebody else ends an operation: its handler's context ends, and what they
// stored stays.
func TestCanceledElsewhere(t *testing.T) {
	s := open(t, t.TempDir())
	began, ended := make(chan struct{}), make(chan struct{})
	start(t, operation.Config{Store: s, Handlers: map[string]operation.Handler{
		"k": func(ctx context.Context, _ *store.Operation, _ func(string)) error {
			close(began)
			<-ctx.Done()
			close(ended)
			return nil
		},
	}})
	op := add(t, s, "k", nil)
	<-began
	op.Status = store.OperationCanceled
	if _, err := s.Commit(t.Context(), store.Put(op)); err != nil {
		t.Fatal(err)
	}
	<-ended
	deadline := time.Now().Add(10 * time.Second)
	for {
		runs, _, err := store.List[store.Run](t.Context(), s, store.RunnerPrefix)
		if err == nil && len(runs) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the claim stays", runs, err)
		}
		<-time.After(5 * time.Millisecond)
	}
	if o := await(t, s, op, "it", done); o.Status != store.OperationCanceled {
		t.Errorf("%+v", o)
	}
}

func TestFence(t *testing.T) {
	s := open(t, t.TempDir())
	if _, err := s.Commit(t.Context(), operation.Fence(t.Context()), store.Put(store.Mandate{Cluster: "c"})); err != nil {
		t.Errorf("outside a handler: %v", err)
	}
	result := make(chan [2]error, 1)
	start(t, operation.Config{Store: s, Handlers: map[string]operation.Handler{
		"k": func(ctx context.Context, op *store.Operation, _ func(string)) error {
			var errs [2]error
			_, errs[0] = s.Commit(ctx, operation.Fence(ctx), store.Put(store.Mandate{Cluster: "c"}))
			// The claim is lost: as if the lease had ended and another took it.
			if _, err := s.Commit(ctx, store.Delete(store.RunnerPrefix+op.ID, 0)); err != nil {
				return err
			}
			_, errs[1] = s.Commit(ctx, operation.Fence(ctx), store.Put(store.Mandate{Cluster: "c"}))
			select {
			case result <- errs:
			default:
			}
			return nil
		},
	}})
	add(t, s, "k", nil)
	errs := <-result
	if errs[0] != nil || !errors.Is(errs[1], store.ErrConflict) {
		t.Errorf("with the claim: %v; without: %v", errs[0], errs[1])
	}
}

func TestOldOperationsAreRemoved(t *testing.T) {
	s := open(t, t.TempDir())
	now := time.Now()
	ended := func(ago time.Duration) store.Operation {
		op, err := operation.NewRecord("k", "", "", "", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		op.Status, op.Ended = store.OperationSucceeded, now.Add(-ago)
		if _, err := s.Commit(t.Context(), store.Create(op)); err != nil {
			t.Fatal(err)
		}
		return op
	}
	old, young := ended(24*time.Hour+time.Minute), ended(24*time.Hour-time.Minute)
	open := add(t, s, "nobody's", nil)
	start(t, operation.Config{Store: s, Now: func() time.Time { return now }})
	deadline := time.Now().Add(10 * time.Second)
	for {
		all, _, err := store.List[store.Operation](t.Context(), s, store.OperationPrefix)
		if err == nil && len(all) == 2 {
			for _, o := range all {
				if o.Value.ID != young.ID && o.Value.ID != open.ID {
					t.Errorf("left: %+v", o.Value)
				}
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is still there: %v, %v", old.ID, all, err)
		}
		<-time.After(5 * time.Millisecond)
	}
}
