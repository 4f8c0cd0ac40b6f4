package e2e

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"
)

// long says that what takes minutes is wanted too.
func long() bool { return os.Getenv("SALLYPORT_E2E_LONG") != "" }

// silentStreams are streams on which nobody says anything: what keeps time on the way
// must not end them.
type silentStreams struct {
	w           *world
	began       time.Time
	watch, exec *stream // exec is nil without a node
}

const silent = "silent" // a ConfigMap that is not there

// keepSilent opens them.
func (w *world) keepSilent(t *testing.T, token string) *silentStreams {
	t.Helper()
	shapes := []shape{{kind: "silent watch", method: "GET", path: "/api/v1/namespaces/default/configmaps?watch=true&fieldSelector=metadata.name%3D" + silent, code: 200}}
	if w.nodes > 0 {
		shapes = append(shapes, shape{kind: "silent exec", method: "GET", path: pod(quiet, execPath+"&stdin=true&command=cat"), header: websocket("v5.channel.k8s.io"), code: 101})
	}
	open := w.openAll(t, token, shapes)
	s := &silentStreams{w: w, began: time.Now(), watch: open[0]}
	if len(open) > 1 {
		s.exec = open[1]
	}
	return s
}

// end waits until nothing was said for a while, and then says something on each:
// 15 s are more than a ping of the tunnel waits, 70 s more than the minute after
// which much on the way to a cluster forgets a connection.
func (s *silentStreams) end(t *testing.T) {
	t.Helper()
	least := 15 * time.Second
	if long() {
		least = 70 * time.Second
	}
	select {
	case <-time.After(least - time.Since(s.began)):
	case <-t.Context().Done():
	}
	began := time.Now()
	heard := func(st *stream) {
		t.Helper()
		eventually(t, "something is heard on the "+st.kind, time.Minute, func(context.Context) error {
			if !st.alive() {
				return errors.New("it has ended")
			}
			if st.last.Load() < began.UnixNano() {
				return errors.New("nothing")
			}
			return nil
		})
	}
	if _, err := s.w.Cluster.Kubectl(t.Context(), "create", "configmap", silent); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = s.w.Cluster.Kubectl(context.WithoutCancel(t.Context()), "delete", "configmap", silent) }()
	heard(s.watch)
	if s.exec != nil {
		// One masked binary frame (RFC 6455, 5.2) of channel 0, stdin; cat says it again.
		if _, err := s.exec.tls.Write(append([]byte{0x82, 0x80 | 3, 0, 0, 0, 0}, 0, 'a', '\n')); err != nil {
			t.Fatal(err)
		}
		heard(s.exec)
	}
	t.Logf("silent for %s, and live", began.Sub(s.began).Round(time.Second))
}
