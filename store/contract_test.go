package store_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

func TestCompareAndSwapUnderConcurrency(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *store.Store) {
		commit(t, s, store.Create(note{"/n/counter", "0"}))
		const workers, each = 8, 15
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for done := 0; done < each; {
					item, err := store.Get[note](t.Context(), s, "/n/counter")
					if err != nil {
						t.Error(err)
						return
					}
					n, _ := strconv.Atoi(item.Value.Text)
					_, err = s.Commit(t.Context(), store.Update(note{"/n/counter", strconv.Itoa(n + 1)}, item.Revision))
					switch {
					case err == nil:
						done++
					case !errors.Is(err, store.ErrConflict):
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		item, err := store.Get[note](t.Context(), s, "/n/counter")
		if err != nil || item.Value.Text != strconv.Itoa(workers*each) {
			t.Errorf("%+v, %v", item, err)
		}
	})
}

// Each comparison, once held and once not. When it does not hold, the error
// says which one, and the put beside it has not happened.
func TestCommitIsAllOrNothing(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *store.Store) {
		old := commit(t, s, store.Create(note{"/n/a", "old"}))
		rev := commit(t, s, store.Update(note{"/n/a", "new"}, old))
		below := commit(t, s, store.Create(note{"/n/dir/x", ""}))
		cases := map[string]struct {
			op   store.Op
			want *store.ConflictError // nil: holds
		}{
			"create":               {store.Create(note{"/n/free", ""}), nil},
			"create existing":      {store.Create(note{"/n/a", ""}), &store.ConflictError{Op: 1, Key: "/n/a", Have: rev}},
			"update stale":         {store.Update(note{"/n/a", ""}, old), &store.ConflictError{Op: 1, Key: "/n/a", Want: old, Have: rev}},
			"update missing":       {store.Update(note{"/n/none", ""}, 7), &store.ConflictError{Op: 1, Key: "/n/none", Want: 7}},
			"guard":                {store.Guard("/n/a", rev), nil},
			"guard stale":          {store.Guard("/n/a", old), &store.ConflictError{Op: 1, Key: "/n/a", Want: old, Have: rev}},
			"absent":               {store.Absent("/n/none"), nil},
			"absent existing":      {store.Absent("/n/a"), &store.ConflictError{Op: 1, Key: "/n/a", Have: rev}},
			"delete stale":         {store.Delete("/n/a", old), &store.ConflictError{Op: 1, Key: "/n/a", Want: old, Have: rev}},
			"delete whatever":      {store.Delete("/n/none", 0), nil},
			"quiet":                {store.Quiet("/n/dir/", below), nil},
			"quiet but for a key":  {store.Quiet("/n/dir/", below-1), &store.ConflictError{Op: 1, Key: "/n/dir/x", Want: below - 1, Have: below}},
			"quiet without a key":  {store.Quiet("/n/nothing/", 1), nil},
			"put whatever":         {store.Put(note{"/n/put", ""}), nil},
			"nothing to compare":   {store.Op{}, nil},
			"delete what is there": {store.Delete("/n/dir/x", below), nil},
		}
		for _, name := range []string{
			"create", "create existing", "update stale", "update missing", "guard", "guard stale", "absent", "absent existing",
			"delete stale", "delete whatever", "quiet", "quiet but for a key", "quiet without a key", "put whatever",
			"nothing to compare", "delete what is there",
		} {
			c := cases[name]
			beside := "/n/beside/" + strings.ReplaceAll(name, " ", "-")
			_, err := s.Commit(t.Context(), store.Create(note{beside, ""}), c.op, store.Put(note{beside + "-too", ""}))
			var conflict *store.ConflictError
			errors.As(err, &conflict)
			if d := cmp.Diff(c.want, conflict); d != "" {
				t.Errorf("%s: %v %s", name, err, d)
			}
			if (err != nil) != (c.want != nil) || err != nil && trust.KindOf(err) != trust.Conflict {
				t.Errorf("%s: %v, kind %v", name, err, trust.KindOf(err))
			}
			left, _, lerr := store.List[note](t.Context(), s, beside)
			leftToo, _, _ := store.List[note](t.Context(), s, beside+"-too")
			if lerr != nil || len(left) != len(leftToo) || (len(left) == 1) != (err == nil) {
				t.Errorf("%s: stored %v and %v, %v", name, left, leftToo, lerr)
			}
		}
	})
}

func TestWhatCommitRefuses(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *store.Store) {
		many := make([]store.Op, 5000)
		for i := range many {
			many[i] = store.Put(note{fmt.Sprintf("/n/%d", i), ""})
		}
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		cases := map[string]struct {
			ctx  context.Context
			ops  []store.Op
			kind trust.Kind
		}{
			"nothing":          {t.Context(), nil, trust.Internal},
			"a key twice":      {t.Context(), []store.Op{store.Put(note{"/n/a", ""}), store.Delete("/n/a", 0)}, trust.Internal},
			"no key":           {t.Context(), []store.Op{store.Put(note{"n", ""})}, trust.Internal},
			"a folder as key":  {t.Context(), []store.Op{store.Put(note{"/n/", ""})}, trust.Internal},
			"update without":   {t.Context(), []store.Op{store.Update(note{"/n/a", ""}, 0)}, trust.Internal},
			"a large record":   {t.Context(), []store.Op{store.Put(note{"/n/a", strings.Repeat("x", 3<<20)})}, trust.TooLarge},
			"many operations":  {t.Context(), many, trust.TooLarge},
			"canceled context": {canceled, []store.Op{store.Put(note{"/n/a", ""})}, trust.Internal},
		}
		for name, c := range cases {
			_, err := s.Commit(c.ctx, c.ops...)
			if err == nil || trust.KindOf(err) != c.kind {
				t.Errorf("%s: %v, kind %v", name, err, trust.KindOf(err))
			}
			if c.ctx == canceled && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if all, _, err := store.List[note](t.Context(), s, "/n/"); err != nil || len(all) != 0 {
			t.Errorf("stored: %v, %v", all, err)
		}
		if _, err := store.Get[note](t.Context(), s, "/n/a"); trust.KindOf(err) != trust.NotFound {
			t.Errorf("get: %v", err)
		}
	})
}

func keys(items []store.Item[note]) []string {
	var out []string
	for _, i := range items {
		out = append(out, i.Value.Path)
	}
	return out
}

func TestListPages(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *store.Store) {
		const n = 1203 // more than two round trips
		var want []string
		var ops []store.Op
		for i := range n {
			want = append(want, fmt.Sprintf("/n/%05d", i))
			ops = append(ops, store.Put(note{want[i], ""}))
		}
		rev := commit(t, s, ops...)
		all, at, err := store.List[note](t.Context(), s, "/n/")
		if err != nil || at != rev {
			t.Fatalf("at %d, not %d: %v", at, rev, err)
		}
		if d := cmp.Diff(want, keys(all)); d != "" {
			t.Error(d)
		}
		even := func(key string) bool { return (key[len(key)-1]-'0')%2 == 0 }
		var got []string
		for after := ""; ; {
			part, _, err := store.List[note](t.Context(), s, "/n/", store.Limit(100), store.After(after), store.Match(even))
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, keys(part)...)
			if len(part) < 100 {
				break
			}
			after = part[99].Value.Path
		}
		if len(got) != (n+1)/2 || got[0] != want[0] || got[len(got)-1] != want[n-1] {
			t.Errorf("%d records, %v … %v", len(got), got[0], got[len(got)-1])
		}
		for _, after := range []string{"/n/99999", "/o", "/z/z"} {
			if part, at, err := store.List[note](t.Context(), s, "/n/", store.After(after)); err != nil || len(part) != 0 || at != rev {
				t.Errorf("after %s: %v at %d, %v", after, part, at, err)
			}
		}
		if part, _, err := store.List[note](t.Context(), s, "/n/", store.After("/a")); err != nil || len(part) != n {
			t.Errorf("after a key before the prefix: %d, %v", len(part), err)
		}
	})
}

func TestPrefixesDoNotMix(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *store.Store) {
		rev, err := s.Revision(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var ops []store.Op
		for _, k := range []string{"/n/a", "/n/a-b", "/n/a-b/x", "/n/a.b", "/n/a/x", "/n/a/x/y", "/n/a0", "/n/ab", "/n/ab/x", "/n/A/x"} {
			ops = append(ops, store.Put(note{k, ""}))
		}
		commit(t, s, ops...)
		for prefix, want := range map[string][]string{
			"/n/a":   {"/n/a", "/n/a/x", "/n/a/x/y"},
			"/n/a/":  {"/n/a/x", "/n/a/x/y"},
			"/n/ab":  {"/n/ab", "/n/ab/x"},
			"/n/a/x": {"/n/a/x", "/n/a/x/y"},
			"/n/c":   nil,
		} {
			all, _, err := store.List[note](t.Context(), s, prefix)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, keys(all)); d != "" {
				t.Errorf("list %s: %s", prefix, d)
			}
			ctx, cancel := context.WithCancel(t.Context())
			w := s.Watch(ctx, prefix, rev)
			var got []string
			for b := range w.Batches() {
				for _, e := range b.Events {
					got = append(got, e.Key)
				}
				if b.Revision > rev {
					break
				}
			}
			cancel()
			for range w.Batches() {
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("watch %s: %s", prefix, d)
			}
		}
	})
}

func TestKindsDoNotMix(t *testing.T) {
	s := openDir(t, t.TempDir())
	const sub = "/subscriptions/0000-1"
	const group = sub + "/resourceGroups/RG"
	const cluster = group + "/providers/Microsoft.ContainerService/managedClusters/C1"
	commit(t, s,
		store.Create(store.Subscription{ID: sub}),
		store.Create(store.Group{ID: group}),
		store.Create(store.Cluster{ID: cluster}),
		store.Create(store.Binding{ID: cluster + "/trustedAccessRoleBindings/B1"}),
		store.Create(store.Binding{ID: cluster + "/trustedAccessRoleBindings/B2"}),
		store.Create(store.Source{ID: group + "/providers/Microsoft.MachineLearningServices/workspaces/W"}),
		store.Create(store.Source{ID: sub + "/providers/Microsoft.Security/pricings/P"}),
		store.Create(store.RoleAssignment{ID: "/providers/Microsoft.Authorization/roleAssignments/1"}),
		store.Create(store.RoleAssignment{ID: cluster + "/providers/Microsoft.Authorization/roleAssignments/2"}),
		store.Create(store.RoleAssignment{ID: group + "/providers/Microsoft.Authorization/roleAssignments/3"}),
	)
	got := map[string]int{
		"subscriptions": count[store.Subscription](t, s), "groups": count[store.Group](t, s),
		"clusters": count[store.Cluster](t, s), "bindings": count[store.Binding](t, s),
		"sources": count[store.Source](t, s), "assignments": count[store.RoleAssignment](t, s),
	}
	want := map[string]int{"subscriptions": 1, "groups": 1, "clusters": 1, "bindings": 2, "sources": 2, "assignments": 3}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func count[T store.Record](t *testing.T, s *store.Store) int {
	t.Helper()
	all, _, err := store.List[T](t.Context(), s, "/arm/")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestCloseEndsEverything(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *store.Store) {
		w := s.Watch(t.Context(), "/n/", 0)
		lease, err := s.Lease(t.Context(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Err(); err != nil {
			t.Error(err)
		}
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		for range w.Batches() {
		}
		if err := w.Err(); trust.KindOf(err) != trust.Unavailable {
			t.Errorf("watch: %v", err)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
		<-lease.Lost()
		<-s.Done()
		_, err = s.Commit(t.Context(), store.Put(note{"/n/a", ""}))
		if trust.KindOf(err) != trust.Unavailable || trust.KindOf(s.Err()) != trust.Unavailable {
			t.Errorf("commit: %v; store: %v", err, s.Err())
		}
		if _, err := store.Get[note](t.Context(), s, "/n/a"); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("get: %v", err)
		}
		if err := lease.Close(); err != nil {
			t.Error(err)
		}
	})
}
