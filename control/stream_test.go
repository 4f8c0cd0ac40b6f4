package control

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"testing"

	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/trust"
)

func keyPEM(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// listen opens the state stream and gives each state to take, until ctx ends or
// the stream does.
func (a *fakeAgent) listen(ctx context.Context, take func(mandate.State)) error {
	req, err := http.NewRequestWithContext(ctx, "GET", a.w.server.URL+fmt.Sprintf("/agents/v1/state?epoch=%d&revision=%d", a.held.Epoch, a.held.Revision), nil)
	if err != nil {
		return err
	}
	res, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != 200 {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, mandate.MaxSize)
	for lines.Scan() {
		var line struct{ State []byte }
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return err
		}
		if len(line.State) == 0 {
			continue
		}
		s, err := mandate.Open(a.w.signer.Public().(ed25519.PublicKey), a.uid, a.held.Floor(), line.State)
		if err != nil {
			return err
		}
		a.held = s
		take(s)
	}
	return lines.Err()
}

// accepts makes reports as a reconciler does whose owner accepted these roles.
func accepts(names ...string) []mandate.Accepted {
	var out []mandate.Accepted
	for _, r := range trust.Published() {
		for _, n := range names {
			if r.FullName() == trust.RoleName(n) {
				out = append(out, mandate.Accepted{Role: trust.RoleName(trust.Fold(n)), Revision: r.Revision(), Rules: r.Rules})
			}
		}
	}
	return out
}

// reportOn is the report of a reconciler that applied what is accepted.
func reportOn(s mandate.State, accepted []mandate.Accepted) mandate.Report {
	r := mandate.Report{Epoch: s.Epoch, Revision: s.Revision, KubernetesVersion: "v1.36.3", Nodes: 3, Accepted: accepted}
	for _, b := range s.Bindings {
		found := mandate.BindingReport{UID: b.UID, Applied: true}
		if kept := stillAccepted(b.Grants, accepted); !sameGrants(kept, b.Grants) {
			found = mandate.BindingReport{UID: b.UID, Problem: &mandate.Problem{Code: mandate.RoleNotAccepted, Message: "The cluster's owner has not accepted a role.",
				Uncovered: b.Grants[0].Rules[:1], Command: "sallyport cluster accept-roles"}}
		}
		r.Bindings = append(r.Bindings, found)
	}
	return r
}

// agents runs both agents of a cluster until the test ends or stop is called.
type agents struct {
	proxy, reconciler *fakeAgent
	accepted          []mandate.Accepted
	stop              func()
}

func (w *world) runAgents(path string, accepted []mandate.Accepted) *agents {
	w.t.Helper()
	k := w.connect(path)
	uid := w.cluster(path).UID
	a := &agents{proxy: w.enrolled(k, uid, proxy), reconciler: w.enrolled(k, uid, reconciler), accepted: accepted}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() {
		defer func() { done <- struct{}{} }()
		_ = a.proxy.listen(ctx, func(mandate.State) { a.proxy.tell("nonce") })
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		_ = a.reconciler.listen(ctx, func(s mandate.State) {
			a.reconciler.tell("nonce")
			a.reconciler.send(reportOn(s, a.accepted))
		})
	}()
	stopped := false
	a.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			<-done
			<-done
		}
	}
	w.t.Cleanup(a.stop)
	w.eventually("both agents have spoken", func() bool {
		c := w.must(200, "GET", path+"/providers/Sallyport.Access/connections/default", nil)
		return c.text("properties.state") == "Connected" && c.text("properties.kubernetesVersion") != ""
	})
	return a
}

// tell and send speak from a goroutine: they report failures without ending it.
func (a *fakeAgent) tell(string) {
	r, err := a.w.send(a.client, "", "POST", "/agents/v1/nonce", map[string]any{"nonce": mandate.NewNonce(), "epoch": a.held.Epoch, "revision": a.held.Revision, "instance": a.process, "version": "test"})
	if err == nil && r.status != 200 && r.status != 403 {
		a.w.t.Errorf("nonce: %d %s", r.status, r.raw)
	}
}

func (a *fakeAgent) send(r mandate.Report) {
	got, err := a.w.send(a.client, "", "POST", "/agents/v1/report", r)
	if err == nil && got.status != 204 && got.status != 403 {
		a.w.t.Errorf("report: %d %s", got.status, got.raw)
	}
}
