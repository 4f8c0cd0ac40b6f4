package store_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/sallyport/sallyport/store"
)

// What a prefix means and the range that etcd is asked for agree: every key
// that is meant lies in the range.
func FuzzPrefix(f *testing.F) {
	for _, s := range [][2]string{{"/a", "/a"}, {"/a", "/a/b"}, {"/a", "/ab"}, {"/a", "/a-b"}, {"/a/", "/a"}, {"/a/", "/a/b"}, {"/", "/a"}, {"/a/", "/a0"}, {"/a", "/a/\xff"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, prefix, key string) {
		if prefix == "" {
			return
		}
		from, end := store.Span(prefix)
		inRange := from <= key && key < end
		want := strings.HasPrefix(key, prefix) && (strings.HasSuffix(prefix, "/") || key == prefix || key[len(prefix)] == '/')
		if got := store.Within(prefix, key); got != want || got && !inRange {
			t.Errorf("%q below %q: %v, want %v, in range %v", key, prefix, got, want, inRange)
		}
	})
}

// No key is of two kinds, and none that comes from outside makes one panic.
func FuzzKinds(f *testing.F) {
	for _, s := range []string{
		"/arm/subscriptions/1", "/arm/subscriptions/1/resourcegroups/g", "/arm/providers/microsoft.authorization/roleassignments/1",
		"/arm/subscriptions/1/resourcegroups/g/providers/microsoft.containerservice/managedclusters/c/trustedaccessrolebindings/b",
		"/arm/subscriptions/1/resourcegroups/g/providers/a.b/c/d", "/arm/subscriptions/1/registrations", "/arm//providers/", "/arm/providers/a/b",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		var kinds []string
		for name, owns := range map[string]bool{
			"subscription": store.Subscription{}.Owns(key), "group": store.Group{}.Owns(key), "cluster": store.Cluster{}.Owns(key),
			"binding": store.Binding{}.Owns(key), "assignment": store.RoleAssignment{}.Owns(key), "source": store.Source{}.Owns(key),
			"registrations": store.Registrations{}.Owns(key),
		} {
			if owns {
				kinds = append(kinds, name)
			}
		}
		if len(kinds) > 1 {
			t.Errorf("%q is %v", key, kinds)
		}
	})
}

func TestSizeMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	s := openStore(t, store.Config{Dir: t.TempDir(), Registerer: registry})
	if _, err := store.Open(t.Context(), store.Config{Dir: t.TempDir(), Registerer: registry, Log: quiet}); err == nil {
		t.Error("two stores on one registry")
	}
	value := func(name string) float64 {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == name {
				return f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		return -1
	}
	eventually(t, clusterLease, "the sampled size", func() bool {
		return value("sallyport_store_size_bytes") > 0 && value("sallyport_store_quota_bytes") == 8<<30
	})
	const quota = 8 << 30
	for _, c := range []struct {
		size int64
		want float64
	}{{quota / 10 * 7, 0}, {quota/10*8 + 1, 1}, {0, 0}} {
		if full := s.Sized(c.size, quota); full != (c.want == 1) || value("sallyport_store_nearly_full") != c.want {
			t.Errorf("%d bytes: %v", c.size, full)
		}
	}
	if s.Sized(1<<40, 0) {
		t.Error("full of an unknown quota")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := registry.Gather(); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// etcd's log arrives in ours, one level down, and what would exit the process
// ends only the goroutine.
func TestEtcdLog(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn}))
	fatal := make(chan error, 1)
	z := store.EtcdLogger(log, func(err error) { fatal <- err }).With(zap.String("member", "m"))
	z.Info("detail")
	z.Warn("slow", zap.Int("ms", 7))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		z.Fatal("failed to save", zap.Error(errors.New("disk")))
		t.Error("the goroutine goes on")
	}()
	<-ended
	if err := <-fatal; err.Error() != "failed to save: disk" {
		t.Error(err)
	}
	var got []map[string]any
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		delete(m, "time")
		got = append(got, m)
	}
	want := []map[string]any{
		{"level": "WARN", "msg": "etcd", "event": "slow", "member": "m", "ms": 7.0},
		{"level": "ERROR", "msg": "etcd", "event": "failed to save", "member": "m", "error": "disk"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
