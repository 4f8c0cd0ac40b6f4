package gateway

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
)

// volume is a collector's folder with logs of an earlier process, by name.
func volume(t *testing.T, logs map[string]about) *collector {
	t.Helper()
	dir := t.TempDir()
	for name, a := range logs {
		path := filepath.Join(dir, jobUID, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.WriteFile(path, []byte("a line\n"), 0o600), writeAbout(path, a)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := newCollector(LogConfig{Dir: dir}, nil, nil, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c.keepPause = time.Millisecond
	return c
}

func (c *collector) mustKnow(t *testing.T, name string) about {
	t.Helper()
	a, err := readAbout(filepath.Join(c.Dir, jobUID, name))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// runs has the collector run until it has nothing to keep.
func (c *collector) runs(t *testing.T, until func() bool) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.run(ctx); err != nil {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(2 * time.Minute); !until(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error("nothing was kept")
			break
		}
	}
	stop()
	wg.Wait()
}

// What an earlier process left is kept once, whatever became of its pod, and
// tried again until it is there or never will be.
func TestLogsOfAnEarlierProcessAreKept(t *testing.T) {
	logs := map[string]about{"node-0/attempt-0": {Pod: "kept", Done: true, Kept: true}, "node-0/attempt-1": {Pod: "whole", Done: true},
		"node-1/attempt-0": {Pod: "gone"}, "node-2/attempt-0": {Pod: "refused", Done: true}}
	c := volume(t, logs)
	var mu sync.Mutex
	tried := map[logFile]int{}
	c.keep = func(_ context.Context, l logFile) error {
		mu.Lock()
		defer mu.Unlock()
		l.path = ""
		tried[l]++
		switch {
		case l.pod == "refused":
			return &keptNowhere{"no"}
		case tried[l] < 3:
			return errors.New("away")
		}
		return nil
	}
	c.runs(t, func() bool {
		for name := range logs {
			if !c.mustKnow(t, name).Kept {
				return false
			}
		}
		return true
	})
	want := map[logFile]int{{job: jobUID, name: "node-0/attempt-1", pod: "whole"}: 3, {job: jobUID, node: 1, name: "node-1/attempt-0", pod: "gone"}: 3,
		{job: jobUID, node: 2, name: "node-2/attempt-0", pod: "refused"}: 1}
	if diff := cmp.Diff(want, tried, cmp.AllowUnexported(logFile{})); diff != "" {
		t.Error(diff)
	}
	if !c.mustKnow(t, "node-1/attempt-0").Done {
		t.Error("the log of a pod that is gone is not whole")
	}
	again, err := newCollector(c.LogConfig, nil, nil, time.Now, c.log)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.takeUp(t.Context(), true); err != nil || len(again.following) != 0 {
		t.Errorf("kept again: %v, %v", again.following, err)
	}
}

// A pod whose log is whole is not read again, which there is no API server for
// here.
func TestAWholeLogIsNotCopiedAgain(t *testing.T) {
	c := volume(t, map[string]about{"node-0/attempt-0": {Pod: podUID, Done: true}})
	c.keep = func(context.Context, logFile) error { return nil }
	c.see(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(podUID), Labels: map[string]string{mlext.JobLabel: jobUID}},
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: mlext.Container, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}}})
	if c.following[podUID] != nil {
		t.Error("followed again")
	}
	if err := c.takeUp(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	c.workers.Wait()
	if !c.mustKnow(t, "node-0/attempt-0").Kept {
		t.Error("not kept")
	}
}

func TestALogIsPutWhereTheServiceSays(t *testing.T) {
	g, _ := newCluster(t)
	got := make(chan string, 1)
	store := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- r.Method + " " + r.Header.Get("X-Signed") + " " + string(body)
	}))
	t.Cleanup(store.Close)
	c := volume(t, map[string]about{"node-3/attempt-0": {Pod: podUID, Done: true}})
	l, err := c.logFileAt(filepath.Join(c.Dir, jobUID, "node-3", "attempt-0"), podUID)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for _, ask := range g.asks.next(t.Context(), owner, time.Minute) {
			answer := &wire.Answer{Trust: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: store.Certificate().Raw})),
				Files: []wire.SignedFile{{URL: store.URL, Header: map[string]string{"X-Signed": ask.Resource + " " + ask.Pod + " " + ask.Files[0].Path}}}}
			_ = g.asks.answer(owner, ask.ID, answer)
		}
	}()
	if err := g.keepLog(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if put := <-got; put != "PUT jobs/fit "+podUID+" node-3/attempt-0 a line\n" {
		t.Errorf("put %q", put)
	}
	l.job = "1" + jobUID[1:]
	var never *keptNowhere
	if err := g.keepLog(t.Context(), l); !errors.As(err, &never) {
		t.Errorf("of a job that is gone: %v", err)
	}
}
