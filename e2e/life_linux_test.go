package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/e2e/installation"
)

// kill -9 of any process loses nothing that was acknowledged: the binding works
// again as soon as the process is back, and one that was deleted stays so.
func TestKillNine(t *testing.T) {
	w := start(t)
	_, token, _ := w.service(t, deployer)
	gone, goneToken, goneID := w.service(t, deployer)
	hc := w.HTTP(1)
	defer hc.CloseIdleConnections()
	restart := map[string]func() error{
		"sallyportd":            func() error { return w.StartServer(t.Context()) },
		installation.Proxy:      func() error { return w.StartAgent(t.Context(), installation.Proxy, installation.Agents{}) },
		installation.Reconciler: func() error { return w.StartAgent(t.Context(), installation.Reconciler, installation.Agents{}) },
	}
	for _, name := range []string{installation.Proxy, installation.Reconciler, "sallyportd"} {
		if name == "sallyportd" {
			// Acknowledged, and killed before the operation can end.
			if _, err := w.Do(t.Context(), http.MethodDelete, goneID, client.ContainerServiceVersion, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Process(name).Kill(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := restart[name](); err != nil {
			t.Fatal(err)
		}
		eventually(t, "requests pass after kill -9 of "+name, time.Minute, func(ctx context.Context) error {
			code, body, err := w.get(ctx, hc, token, probed)
			if err == nil && code != http.StatusOK {
				err = fmt.Errorf("%d %s", code, body)
			}
			return err
		})
		t.Logf("%s: requests pass %s after it was killed", name, time.Since(began).Round(time.Millisecond))
		if err := w.AgentsConnected(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if code, body, err := w.get(t.Context(), hc, goneToken, probed); code != http.StatusForbidden || err != nil {
		t.Errorf("the deleted binding of %s: %d %s %v", gone.ID, code, body, err)
	}
	eventually(t, "what the deleted binding left in the cluster is gone", time.Minute, func(ctx context.Context) error {
		if _, err := w.bindingUID(ctx, goneID); err == nil {
			return fmt.Errorf("its ServiceAccount is there")
		}
		return nil
	})
}

// SIGTERM of an agent that another can stand in for fails no request: the one
// that goes says so before.
func TestAgentDrains(t *testing.T) {
	w := start(t)
	_, token, _ := w.service(t, deployer)
	old := w.Process(installation.Proxy)
	before := tunnels(t, old.Log)
	if err := w.StartAgent(t.Context(), installation.Proxy, installation.Agents{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second agent holds its tunnels", time.Minute, func(context.Context) error {
		if n := tunnels(t, old.Log); n < before+2 {
			return fmt.Errorf("%d of %d", n-before, 2)
		}
		return nil
	})
	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	var mu sync.Mutex
	total, failed := 0, []string{}
	for range 4 {
		callers.Go(func() {
			hc := w.HTTP(2)
			defer hc.CloseIdleConnections()
			for ctx.Err() == nil {
				code, body, err := w.get(context.WithoutCancel(ctx), hc, token, probed)
				mu.Lock()
				total++
				if err != nil || code != http.StatusOK {
					failed = append(failed, fmt.Sprintf("%d %.200s %v", code, body, err))
				}
				mu.Unlock()
			}
		})
	}
	if err := old.Stop(time.Minute); err != nil {
		t.Error(err)
	}
	stop()
	callers.Wait()
	if len(failed) > 0 {
		t.Errorf("%d of %d requests failed, the first: %s", len(failed), total, failed[0])
	}
	t.Logf("%d requests while an agent drained", total)
}

// tunnels counts those that agents have made, in their log.
func tunnels(t *testing.T, log string) int {
	t.Helper()
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(data, []byte(`"tunnel live"`))
}

// Every stream has two audit lines, every other request one; the API server's
// own log has the same ids; and no log holds a token or a secret (I6).
func TestAuditAndSecrets(t *testing.T) {
	w := start(t)
	s, token, binding := w.service(t, deployer)
	uid, err := w.bindingUID(t.Context(), binding)
	if err != nil {
		t.Fatal(err)
	}
	streams := w.openAll(t, token, w.available())
	hc := w.HTTP(2)
	defer hc.CloseIdleConnections()
	if code, body, err := w.get(t.Context(), hc, token, probed); code != http.StatusOK || err != nil {
		t.Fatal(code, body, err)
	}
	if _, err := w.Wait(t.Context(), http.MethodDelete, binding, client.ContainerServiceVersion, nil); err != nil {
		t.Fatal(err)
	}
	for _, st := range streams {
		if _, err := st.ended(5 * time.Second); err != nil {
			t.Error(err)
		}
	}
	type lines struct{ started, complete, reason int }
	var seen map[string]*lines
	eventually(t, "every request is complete in the gateway's log", time.Minute, func(context.Context) error {
		data, err := os.ReadFile(w.AuditFile())
		if err != nil {
			return err
		}
		seen = map[string]*lines{}
		for line := range strings.Lines(string(data)) {
			var e struct {
				AuditID, Stage string
				User           struct{ Username string }
				Annotations    map[string]string
				ResponseStatus struct{ Code int }
			}
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				return err
			}
			if !strings.EqualFold(e.User.Username, s.ID) {
				continue
			}
			l := seen[e.AuditID]
			if l == nil {
				l = &lines{}
				seen[e.AuditID] = l
			}
			switch e.Stage {
			case "ResponseStarted":
				l.started++
			case "ResponseComplete":
				l.complete++
				if strings.Contains(line, "binding was deleted") || strings.Contains(line, "removed") || strings.Contains(line, "taken away") {
					l.reason++
				}
			}
		}
		pairs := 0
		for id, l := range seen {
			if l.complete != 1 || l.started > 1 {
				return fmt.Errorf("%s has %d and %d lines", id, l.started, l.complete)
			}
			pairs += l.started
		}
		if pairs != len(streams) {
			return fmt.Errorf("%d pairs of lines for %d streams", pairs, len(streams))
		}
		return nil
	})
	ended, err := w.streamsEnded(uid)
	if err != nil {
		t.Fatal(err)
	}
	for id := range ended {
		if seen[id] == nil {
			t.Errorf("the API server saw a request %s that the gateway's log does not have", id)
		}
	}
	if len(ended) < len(streams) {
		t.Errorf("the API server saw the end of %d of %d streams", len(ended), len(streams))
	}
	w.noSecrets(t, token, s.Secret)
}

var jwtLike = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}`)

// noSecrets greps everything that was logged.
func (w *world) noSecrets(t *testing.T, known ...string) {
	t.Helper()
	admin, err := os.ReadFile(w.AdminFile())
	if err != nil {
		t.Fatal(err)
	}
	var a client.AdminFile
	if err := json.Unmarshal(admin, &a); err != nil {
		t.Fatal(err)
	}
	known = append(known, a.ClientSecret)
	logs, err := filepath.Glob(w.Path("logs", "*.log"))
	if err != nil || len(logs) < 3 {
		t.Fatal(logs, err)
	}
	size := 0
	for _, file := range append(logs, w.AuditFile()) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		size += len(data)
		for _, secret := range known {
			if bytes.Contains(data, []byte(secret)) {
				t.Errorf("%s holds a secret", filepath.Base(file))
			}
		}
		if m := jwtLike.Find(data); m != nil {
			t.Errorf("%s holds a token: %.30s…", filepath.Base(file), m)
		}
		for _, word := range []string{"PRIVATE KEY", "Bearer ey", "sps_"} {
			for line := range strings.Lines(string(data)) {
				if strings.Contains(line, word) && !strings.Contains(line, `"hint"`) {
					t.Errorf("%s holds %q: %.200s", filepath.Base(file), word, line)
					break
				}
			}
		}
	}
	t.Logf("%d bytes of logs", size)
}
