package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/sallyport/sallyport/trust"
)

const uid = "0b0c5a6e-1f2d-4c3b-8a79-0123456789ab"

func event() *Event {
	at := time.Date(2026, 11, 22, 5, 0, 0, 123456000, time.UTC)
	return &Event{
		Stage: ResponseComplete, ID: uid, Received: at, At: at.Add(time.Millisecond),
		RequestURI: "/api/v1/namespaces/n/pods/p/exec?command=redacted", SourceIP: "192.0.2.1", UserAgent: "kubectl/v1.36 \"quoted\"\n\\\u2028\xff",
		Attributes: &trust.Attributes{Verb: "create", APIVersion: "v1", Namespace: "n", Resource: "pods", Subresource: "exec", Name: "p", ResourceRequest: true},
		Caller:     &trust.Caller{Principal: trust.Principal{Issuer: "https://i", Tenant: "t", Object: "o"}, ResourceID: "/subscriptions/s/x", TokenID: "tok"},
		Cluster:    uid, Binding: &trust.Binding{ID: "/subscriptions/s/b", UID: uid}, Role: "a/b/c",
		Allowed: true, Reason: "role a/b/c", Code: 101, Ended: "binding removed", Upgrade: "SPDY/3.1", In: 5, Out: 7,
	}
}

func TestEventIsKubernetesOwn(t *testing.T) {
	line := event().append(nil)
	if bytes.Count(line, []byte("\n")) != 1 || line[len(line)-1] != '\n' {
		t.Fatalf("not one line: %q", line)
	}
	var got auditv1.Event
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&got); err != nil {
		t.Fatalf("%v in %s", err, line)
	}
	if got.Kind != "Event" || got.APIVersion != "audit.k8s.io/v1" || got.Level != auditv1.LevelMetadata || got.Stage != auditv1.StageResponseComplete || string(got.AuditID) != uid {
		t.Errorf("head: %s", line)
	}
	if got.UserAgent != "kubectl/v1.36 \"quoted\"\n\\\u2028\ufffd" || got.User.Username != "/subscriptions/s/x" || got.User.UID != "o" || got.SourceIPs[0] != "192.0.2.1" {
		t.Errorf("who: %s", line)
	}
	if d := cmp.Diff(&auditv1.ObjectReference{Resource: "pods", Namespace: "n", Name: "p", APIVersion: "v1", Subresource: "exec"}, got.ObjectRef); d != "" {
		t.Error(d)
	}
	if got.ResponseStatus.Code != 101 || got.StageTimestamp.Sub(got.RequestReceivedTimestamp.Time) != time.Millisecond {
		t.Errorf("answer: %s", line)
	}
	want := map[string]string{
		"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": "role a/b/c",
		KeyCluster: uid, KeyBinding: "/subscriptions/s/b", KeyBindingID: uid, KeyRole: "a/b/c", KeySource: "/subscriptions/s/x",
		KeyIssuer: "https://i", KeyTenant: "t", KeyToken: "tok", KeyEnded: "binding removed", KeyUpgrade: "SPDY/3.1", KeyReceived: "5", KeySent: "7",
	}
	if d := cmp.Diff(want, got.Annotations); d != "" {
		t.Error(d)
	}
}

func TestRefusalOfNobody(t *testing.T) {
	e := &Event{Stage: ResponseComplete, ID: uid, Verb: "GET", RequestURI: "/", Code: 401, Message: "no token", Reason: "no token"}
	var got auditv1.Event
	if err := json.Unmarshal(e.append(nil), &got); err != nil {
		t.Fatal(err)
	}
	if got.Annotations["authorization.k8s.io/decision"] != "forbid" || got.ResponseStatus.Message != "no token" || got.ResponseStatus.Status != "Failure" || got.ObjectRef != nil || got.User.Username != "" {
		t.Errorf("%+v", got)
	}
}

func FuzzString(f *testing.F) {
	f.Add("plain")
	f.Add("\x00\x1f\x7f\"\\\u2028\u2029\u0085\xff\xc3")
	f.Fuzz(func(t *testing.T, s string) {
		b := appendString(nil, s)
		var got string
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		if want := strings.ToValidUTF8(s, "\ufffd"); strings.ReplaceAll(got, "\ufffd", "") != strings.ReplaceAll(want, "\ufffd", "") {
			t.Fatalf("%q became %q", s, got)
		}
		if bytes.ContainsAny(b, "\n\r\x00") {
			t.Fatalf("%q holds a raw control byte", b)
		}
	})
}

// disk is a sink that can be full, and that takes n bytes only.
type disk struct {
	mu      sync.Mutex
	full    bool
	atMost  int
	written bytes.Buffer
}

func (d *disk) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full {
		return 0, errors.New("no space left on device")
	}
	if d.atMost > 0 && len(p) > d.atMost {
		n, _ := d.written.Write(p[:d.atMost])
		return n, io.ErrShortWrite
	}
	return d.written.Write(p)
}

func (d *disk) set(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
}

func (d *disk) lines() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Count(d.written.String(), "\n")
}

func TestFullDiskLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{full: true, atMost: 300}
		l := New(Config{Sink: d, Queue: 2})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = l.Run(ctx) })
		const n = 8
		for range n {
			if err := l.Record(ctx, event()); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		if err := l.Admit(false); err != nil {
			t.Errorf("refused before a second has passed: %v", err)
		}
		time.Sleep(1100 * time.Millisecond)
		if err := l.Admit(false); trust.KindOf(err) != trust.Unavailable {
			t.Errorf("queue full for a second: Admit says %v", err)
		}
		if err := l.Admit(true); trust.KindOf(err) != trust.Unavailable {
			t.Errorf("reads are let through without being told to: %v", err)
		}
		d.set(false)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got := d.lines(); got != n {
			t.Errorf("%d lines, want %d", got, n)
		}
		if err := l.Admit(false); err != nil {
			t.Errorf("still refused: %v", err)
		}
		for line := range strings.Lines(d.written.String()) {
			var e auditv1.Event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%v in %q", err, line)
			}
		}
		cancel()
		running.Wait()
		if err := l.Record(context.Background(), event()); !errors.Is(err, ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestOverflowIsCounted(t *testing.T) {
	r := prometheus.NewRegistry()
	l := New(Config{Sink: &disk{full: true}, Queue: 2, Registerer: r})
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		err = l.Record(t.Context(), event())
	}
	if n != 33 || err == nil {
		t.Errorf("%d records: %v", n, err)
	}
	all, _ := r.Gather()
	for _, m := range all {
		if m.GetName() == "sallyport_audit_lost_total" && m.Metric[0].GetCounter().GetValue() != 1 {
			t.Errorf("lost: %v", m)
		}
	}
}

func TestReadsMayBeLetThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{full: true}
		l := New(Config{Sink: d, Queue: 1, LetReads: true})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = l.Run(ctx) })
		for range 3 {
			_ = l.Record(ctx, event())
		}
		synctest.Wait()
		time.Sleep(1100 * time.Millisecond)
		if err := l.Admit(true); err != nil {
			t.Error(err)
		}
		if err := l.Admit(false); err == nil {
			t.Error("a write was admitted")
		}
		read := event()
		read.Attributes = &trust.Attributes{Verb: "list"}
		if err := l.Record(ctx, read); err == nil {
			t.Error("a record that was dropped was said to be kept")
		}
		cancel()
		running.Wait()
	})
}

func TestFileFollowsItsPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	now := time.Now()
	f.now = func() time.Time { return now }
	write := func(s string) {
		t.Helper()
		if _, err := f.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	write("one\n")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write("two\nthr") // not yet looked for: still the old file
	now = now.Add(2 * time.Second)
	write("ee\n") // the rest of a line stays with its beginning
	write("four\n")
	for name, want := range map[string]string{path + ".1": "one\ntwo\nthree\n", path: "four\n"} {
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestEncodingDoesNotAllocate(t *testing.T) {
	e := event()
	b := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(1000, func() { b = e.append(b[:0]) }); n > 0 {
		t.Errorf("%v allocations a record", n)
	}
}

func BenchmarkRecord(b *testing.B) {
	l := New(Config{Sink: io.Discard})
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(b.Context())
	running.Go(func() { _ = l.Run(ctx) })
	e := event()
	b.ReportAllocs()
	for b.Loop() {
		_ = l.Record(ctx, e)
	}
	cancel()
	running.Wait()
}
