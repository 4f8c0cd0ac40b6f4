package clusters

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/e2e/installation"
)

// pingBound is how long a tunnel may be silent before its gateway knows: it asks
// after 10 s and waits 10 s for the answer.
const pingBound = 20 * time.Second

// slack is for a machine that does other things too.
const slack = 15 * time.Second

// filter changes the packet filter inside the island.
func (i island) filter(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("iptables"); err != nil {
		t.Skip("no packet filter here: install the Debian package iptables")
	}
	if out, err := exec.Command("nsenter", append([]string{"--net=/run/netns/" + i.name, "--", "iptables"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("iptables %s: %v %s", strings.Join(args, " "), err, out)
	}
}

// halfOpen drops every packet between an agent and its gateway without a word to
// either: what is sent into its tunnels is answered by another agent once the
// gateway knows, or refused when there is none, and the agent comes back with
// the network.
func halfOpen(t *testing.T, in *installation.Installation, i island) {
	ctx := t.Context()
	s, err := in.NewService(ctx, workspaces, "patient")
	must(t, err)
	must(t, s.Bind(ctx, "patient", role))
	token, err := s.Token(ctx)
	must(t, err)
	server, err := url.Parse(in.URL)
	must(t, err)
	tunnels := func(event string) int {
		log, err := os.ReadFile(in.Process("sallyportd").Log)
		must(t, err)
		n := 0
		for line := range bytes.Lines(log) {
			if bytes.Contains(line, []byte(`"`+event+`"`)) && bytes.Contains(line, []byte(i.inside.String()+":")) {
				n++
			}
		}
		return n
	}
	// A second agent, which the filter in front of the API server lets in now.
	inside := in.Process(installation.Proxy)
	t.Cleanup(func() { must(t, inside.Stop(time.Minute)) })
	i.filter(t, "-I", "INPUT", "1", "-s", i.host.String()+"/32", "-j", "ACCEPT")
	must(t, in.StartAgent(ctx, installation.Proxy, installation.Agents{}))
	outside := in.Process(installation.Proxy)
	must(t, installation.Eventually(ctx, "the second agent has its tunnels", 3*time.Minute, func(context.Context) error {
		log, err := os.ReadFile(in.Process("sallyportd").Log)
		if n := bytes.Count(log, []byte(`"tunnel live"`)) - tunnels("tunnel live"); err == nil && n < 2 {
			err = fmt.Errorf("%d of 2", n)
		}
		return err
	}))
	before := tunnels("tunnel ended")

	drop := [][]string{{"OUTPUT", "-o", "out", "-p", "tcp", "--dport", server.Port(), "-j", "DROP"}, {"INPUT", "-i", "out", "-p", "tcp", "--sport", server.Port(), "-j", "DROP"}}
	for _, rule := range drop {
		i.filter(t, slices.Concat([]string{"-I", rule[0], "1"}, rule[1:])...)
	}
	began := time.Now()
	noticed := make(chan struct{})
	var callers sync.WaitGroup
	var mu sync.Mutex
	total, longest, failed := 0, time.Duration(0), []string{}
	for range 8 {
		callers.Go(func() {
			hc := in.HTTP(2)
			defer hc.CloseIdleConnections()
			for over := false; !over; { // and once more when it is noticed
				select {
				case <-noticed:
					over = true
				case <-time.After(20 * time.Millisecond):
				}
				sent := time.Now()
				code, answer, err := ask(ctx, hc, in, token)
				mu.Lock()
				total, longest = total+1, max(longest, time.Since(sent))
				if err != nil || code != http.StatusOK {
					failed = append(failed, fmt.Sprintf("after %s: %d %.200s %v", time.Since(began), code, answer, err))
				}
				mu.Unlock()
			}
		})
	}
	err = installation.Eventually(ctx, "the gateway gives up the silent tunnels", pingBound+slack, func(context.Context) error {
		if n := tunnels("tunnel ended") - before; n < 2 {
			return fmt.Errorf("%d of 2", n)
		}
		return nil
	})
	after := time.Since(began)
	close(noticed)
	callers.Wait()
	must(t, err)
	if len(failed) > 0 {
		t.Errorf("%d of %d requests failed though another agent was there, the first %s", len(failed), total, failed[0])
	}
	if longest > pingBound+slack {
		t.Errorf("a request took %s", longest)
	}
	t.Logf("noticed after %s; of %d requests meanwhile the longest took %s", after.Round(time.Millisecond), total, longest.Round(time.Millisecond))

	// Nobody else is there.
	must(t, outside.Stop(time.Minute))
	hc := in.HTTP(1)
	defer hc.CloseIdleConnections()
	if code, answer, err := ask(ctx, hc, in, token); code != http.StatusServiceUnavailable || err != nil || !strings.Contains(answer, "agent is not connected") {
		t.Errorf("without an agent: %d %s %v", code, answer, err)
	}
	for _, rule := range drop {
		i.filter(t, append([]string{"-D"}, rule...)...)
	}
	restored := time.Now()
	must(t, installation.Eventually(ctx, "the agent comes back", 3*time.Minute, func(ctx context.Context) error {
		code, answer, err := ask(ctx, hc, in, token)
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("%d %s", code, answer)
		}
		return err
	}))
	t.Logf("the agent was back %s after the network", time.Since(restored).Round(time.Millisecond))
}

// ask gets something small from the cluster.
func ask(ctx context.Context, hc *http.Client, in *installation.Installation, token string) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, pingBound+2*slack)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, in.URL+"/clusters/"+in.UID+"/api/v1/namespaces/default/services/kubernetes", nil)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := hc.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(answer), err
}
