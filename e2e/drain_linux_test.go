package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/e2e/installation"
)

// deletedInDrain deletes the binding when the gateway was told to stop, refuses
// new requests, and lets open streams go on.
func (a *apart) deletedInDrain() way {
	const gateway = "gateway"
	return way{
		name: "deleted while the gateway drains", bound: inTouch, code: http.StatusServiceUnavailable,
		take: func(ctx context.Context, w *world, v *victim) error {
			if err := a.drains(ctx, gateway, v); err != nil {
				return err
			}
			return ways()[0].take(ctx, w, v)
		},
		back: func(ctx context.Context, w *world) error {
			// Nothing runs any more: it does not wait for its time to be over.
			if err := a.Process(gateway).Stop(time.Minute); err != nil {
				return err
			}
			if err := a.StartConfigured(ctx, gateway, a.configs[gateway], a.gateway); err != nil {
				return err
			}
			return w.AgentsConnected(ctx)
		},
	}
}

// drains sends SIGTERM to a server and waits until its gateway refuses new
// requests; the victim's streams go on.
func (w *world) drains(ctx context.Context, server string, v *victim) error {
	if err := w.Process(server).Signal(syscall.SIGTERM); err != nil {
		return err
	}
	hc := w.HTTP(1)
	defer hc.CloseIdleConnections()
	if err := installation.Eventually(ctx, server+" refuses new requests", time.Minute, func(ctx context.Context) error {
		code, body, err := w.get(ctx, hc, v.token, probed)
		if err == nil && (code != http.StatusServiceUnavailable || !strings.Contains(body, "shutting down")) {
			err = fmt.Errorf("%d %s", code, body)
		}
		return err
	}); err != nil {
		return err
	}
	for _, st := range v.streams {
		if !st.alive() {
			return fmt.Errorf("%s ended with the signal", st.kind)
		}
	}
	return nil
}

// SIGTERM under load: every request that was sent is answered, with what it asks
// for or with a refusal that says to try again; streams have drainTimeout.
func TestServerDrains(t *testing.T) {
	w := start(t)
	_, token, _ := w.service(t, deployer)
	streams := w.openAll(t, token, w.available())
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	defer stop()
	var load sync.WaitGroup
	callers := make([]*caller, 8)
	for n := range callers {
		callers[n] = &caller{w: w, hc: w.HTTP(1 + n%2), token: token, writes: n >= 4, codes: map[int]int{}}
		load.Go(func() { callers[n].run(ctx) })
	}
	eventually(t, "every caller is answered", time.Minute, func(context.Context) error {
		for _, c := range callers {
			if c.answered(http.StatusOK)+c.answered(http.StatusCreated) < 5 {
				return errors.New("not every one")
			}
		}
		return nil
	})
	began := time.Now()
	if err := w.drains(t.Context(), "sallyportd", &victim{token: token, streams: streams}); err != nil {
		t.Error(err)
	}
	for _, st := range streams {
		at, err := st.ended(serverDrain + 5*time.Second)
		if err != nil {
			t.Error(err)
		} else if took := at.Sub(began); took < serverDrain {
			t.Errorf("%s ended %s after the signal; it has %s", st.kind, took, serverDrain)
		}
	}
	if err := w.Process("sallyportd").Stop(time.Minute); err != nil {
		t.Error(err)
	}
	stop()
	load.Wait()
	total := map[int]int{}
	for _, c := range callers {
		for code, n := range c.codes {
			total[code] += n
		}
		if len(c.lost) > 0 {
			t.Errorf("%d requests were lost, the first: %s", len(c.lost), c.lost[0])
		}
	}
	t.Logf("answers, by code, 0 for those that found nobody to send to: %v", total)
	if err := w.StartServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.AgentsConnected(t.Context()); err != nil {
		t.Fatal(err)
	}
	hc := w.HTTP(1)
	defer hc.CloseIdleConnections()
	if code, body, err := w.get(t.Context(), hc, token, probed); code != http.StatusOK || err != nil {
		t.Errorf("after the restart: %d %s %v", code, body, err)
	}
}

// caller sends requests one after the other, like a client that keeps its
// connections.
type caller struct {
	w      *world
	hc     *http.Client
	token  string
	writes bool // POST, which no client may repeat by itself

	mu    sync.Mutex
	codes map[int]int
	lost  []string
}

func (c *caller) answered(code int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.codes[code]
}

func (c *caller) run(ctx context.Context) {
	defer c.hc.CloseIdleConnections()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for ; ctx.Err() == nil; <-tick.C {
		code, lost := c.ask(context.WithoutCancel(ctx))
		c.mu.Lock()
		c.codes[code]++
		if lost != "" {
			c.lost = append(c.lost, lost)
		}
		c.mu.Unlock()
	}
}

// ask sends one request. A code of 0 without a loss says that it was never sent.
func (c *caller) ask(ctx context.Context) (code int, lost string) {
	var sent atomic.Bool
	ctx, cancel := context.WithTimeout(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn:      func(string) { sent.Store(false) }, // the transport tries again by itself where it may
		WroteHeaders: func() { sent.Store(true) },
	}), 20*time.Second)
	defer cancel()
	method, path, body := http.MethodGet, probed, ""
	if c.writes {
		method, path = http.MethodPost, "/api/v1/namespaces/default/configmaps?dryRun=All"
		body = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"e2e-"}}`
	}
	req, err := http.NewRequestWithContext(ctx, method, c.w.gatewayURL()+"/clusters/"+c.w.UID+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return 0, err.Error()
	}
	req.GetBody = nil // nor may the transport
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.hc.Do(req)
	if err != nil {
		if sent.Load() {
			return 0, fmt.Sprintf("%s %s: %v", method, path, err)
		}
		return 0, ""
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return resp.StatusCode, fmt.Sprintf("%s %s: %s broke off: %v", method, path, resp.Status, err)
	case resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "":
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated:
		return resp.StatusCode, fmt.Sprintf("%s %s: %s %.300s", method, path, resp.Status, answer)
	}
	return resp.StatusCode, ""
}
