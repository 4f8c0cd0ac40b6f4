package control

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

func TestEnrolment(t *testing.T) {
	w := newWorld(t).scene()
	uid := w.cluster(clusterPath).UID
	k := newKube(t)
	csr, _, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	ask := func(change func(claims, body map[string]any)) *reply {
		claims := map[string]any{"aud": enrolAudience(uid), "sub": agentSubjects[proxy]}
		body := map[string]any{"cluster": string(uid), "agent": proxy, "csr": string(csr)}
		change(claims, body)
		if body["token"] == nil {
			body["token"] = k.token(claims)
		}
		return w.call("", "POST", "/agents/v1/enrol", body)
	}
	same := func(_, _ map[string]any) {}
	if r := ask(same); r.status != 403 {
		t.Errorf("before the cluster is connected: %d %s", r.status, r.raw)
	}
	w.must(201, "PUT", clusterPath+"/providers/Sallyport.Access/connections/default", props("serviceAccountIssuer", k.issuer, "serviceAccountKeys", k.jwks))
	r := ask(same)
	if r.status != 200 || r.text("ca") != string(w.ca.PEM()) {
		t.Fatalf("%d %s", r.status, r.raw)
	}
	block, _ := pem.Decode([]byte(r.text("certificate")))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if got, name, err := pki.ParseAgent(cert); err != nil || got != string(uid) || name != proxy || time.Until(cert.NotAfter) > time.Hour {
		t.Errorf("%s %s %v until %s", got, name, err, cert.NotAfter)
	}
	other := newKube(t)
	for name, tt := range map[string]struct {
		status int
		change func(claims, body map[string]any)
	}{
		"audience of another cluster": {401, func(c, _ map[string]any) { c["aud"] = "sallyport:enrol:" + newUID() }},
		"API server's own audience":   {401, func(c, _ map[string]any) { c["aud"] = "https://kubernetes.default.svc" }},
		"several audiences":           {401, func(c, _ map[string]any) { c["aud"] = []string{enrolAudience(uid), "x"} }},
		"another ServiceAccount":      {403, func(c, _ map[string]any) { c["sub"] = "system:serviceaccount:sallyport-bindings:binding-x" }},
		"same name, other namespace":  {403, func(c, _ map[string]any) { c["sub"] = "system:serviceaccount:default:sallyport-proxy" }},
		"the other agent's token":     {403, func(_, b map[string]any) { b["agent"] = reconciler }},
		"no such agent":               {400, func(_, b map[string]any) { b["agent"] = "admin" }},
		"another issuer":              {401, func(c, _ map[string]any) { c["iss"] = "https://elsewhere" }},
		"expired":                     {401, func(c, _ map[string]any) { c["exp"] = time.Now().Add(-time.Minute).Unix() }},
		"signed by another cluster":   {401, func(c, b map[string]any) { b["token"] = other.token(c) }},
		"no token":                    {401, func(_, b map[string]any) { b["token"] = "" }},
		"unknown cluster":             {403, func(_, b map[string]any) { b["cluster"] = newUID() }},
		"cluster id for a uid":        {403, func(_, b map[string]any) { b["cluster"] = clusterPath }},
		"no request":                  {400, func(_, b map[string]any) { b["csr"] = "x" }},
	} {
		if r := ask(tt.change); r.status != tt.status || r.text("error.code") == "" {
			t.Errorf("%s: %d %s, want %d", name, r.status, r.raw, tt.status)
		}
	}
	// Nothing but the key is taken from the request.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	evil, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"control.test"},
		URIs: []*url.URL{{Scheme: "sallyport", Host: "clusters", Path: "/" + newUID() + "/proxy"}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	r = ask(func(_, b map[string]any) {
		b["csr"] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: evil}))
	})
	block, _ = pem.Decode([]byte(r.text("certificate")))
	if cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	if got, _, err := pki.ParseAgent(cert); err != nil || got != string(uid) || len(cert.DNSNames) > 0 {
		t.Errorf("a request chose its own names: %v %v", cert.URIs, cert.DNSNames)
	}
}

// Every route of the agents' API without a certificate, with one of another CA,
// another purpose, an ended one, and of a cluster that is not there any more.
func TestAgentRoutesAskWhoCalls(t *testing.T) {
	w := newWorld(t).scene()
	k := w.connect(clusterPath)
	uid := w.cluster(clusterPath).UID
	good := w.enrolled(k, uid, reconciler)
	foreign, err := pki.NewCA(pki.Agents, w.now)
	if err != nil {
		t.Fatal(err)
	}
	servers, err := pki.NewCA(pki.ServerTLS, w.now)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(ca *pki.CA, l pki.Leaf) *fakeAgent {
		csr, key, err := pki.NewRequest()
		if err != nil {
			t.Fatal(err)
		}
		cert, err := ca.IssueCSR(csr, l)
		if err != nil {
			t.Fatal(err)
		}
		return w.agent(uid, reconciler, cert, key)
	}
	leaf := func(cluster, name string) pki.Leaf {
		l, err := pki.AgentLeaf(cluster, name)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	own := leaf(string(uid), reconciler)
	bad := map[string]*fakeAgent{
		"another CA":                                issue(foreign, own),
		"a server certificate":                      issue(servers, own),
		"an unknown cluster":                        issue(w.ca, leaf(newUID(), reconciler)),
		"a certificate of ours that names no agent": issue(w.ca, pki.Leaf{CommonName: "x", Life: time.Hour}),
	}
	report := mandate.Report{}
	tried := 0
	for _, rt := range w.control.agentRoutes() {
		if rt.open {
			continue
		}
		if r := w.call("admin", rt.method, rt.path, report); r.status != 401 {
			t.Errorf("no certificate: %s %s: %d", rt.method, rt.path, r.status)
		}
		for who, a := range bad {
			if r := a.call(rt.method, rt.path, report); r.status != 403 {
				t.Errorf("%s: %s %s: %d %s", who, rt.method, rt.path, r.status, r.raw)
			}
			tried++
		}
	}
	if tried != 4*(len(w.control.agentRoutes())-1) {
		t.Errorf("%d tried", tried)
	}
	for _, path := range []string{"/agents/v1/other", "/agents/v1//state", "/agents/v1/state/", "/agents/v1/../v1/state", "/agents/v1/"} {
		if r := w.call("", "GET", path, nil); r.status != 401 {
			t.Errorf("%s: %d", path, r.status)
		}
	}
	if r := good.call("GET", "/agents/v1/other", nil); r.status != 404 {
		t.Errorf("unknown route: %d", r.status)
	}
	if r := good.call("GET", "/agents/v1/nonce", nil); r.status != 405 {
		t.Errorf("wrong method: %d", r.status)
	}
	if r := good.call("POST", "/agents/v1/report", report); r.status != 204 {
		t.Errorf("a good report: %d %s", r.status, r.raw)
	}
	if r := w.enrolled(k, uid, proxy).call("POST", "/agents/v1/report", report); r.status != 403 {
		t.Errorf("the proxy agent's report: %d", r.status)
	}
	w.must(200, "DELETE", clusterPath+"/providers/Sallyport.Access/connections/default", nil)
	if r := good.call("POST", "/agents/v1/report", report); r.status != 403 {
		t.Errorf("after the cluster was disconnected: %d", r.status)
	}
	w.must(201, "PUT", clusterPath+"/providers/Sallyport.Access/connections/default", props("serviceAccountIssuer", k.issuer, "serviceAccountKeys", k.jwks))
	w.advance(2 * time.Hour)
	if r := good.call("POST", "/agents/v1/report", report); r.status != 403 {
		t.Errorf("with an ended certificate: %d", r.status)
	}
}

// Each agent hears of its own cluster and of no other, whatever it asks for.
func TestAgentsHearOfTheirOwnClusterOnly(t *testing.T) {
	w := newWorld(t).scene()
	green := groupPath + "/providers/Microsoft.ContainerService/managedClusters/green"
	w.must(201, "PUT", green, map[string]any{"location": "local"})
	w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload))
	a := w.enrolled(w.connect(green), w.cluster(green).UID, proxy)
	blue := w.cluster(clusterPath).UID
	req, err := http.NewRequestWithContext(t.Context(), "GET", w.server.URL+"/agents/v1/state?cluster="+string(blue)+"&epoch=0&revision=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(req.Context())
	var heard mandate.State
	_ = a.listen(ctx, func(s mandate.State) { heard = s; cancel() })
	if heard.Cluster != a.uid || len(heard.Bindings) != 0 {
		t.Errorf("%+v", heard)
	}
}

func TestStateStreamAndNonces(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	k := w.connect(clusterPath)
	uid := w.cluster(clusterPath).UID
	a := w.enrolled(k, uid, proxy)
	states := make(chan mandate.State, 10)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.listen(ctx, func(s mandate.State) { states <- s }) }()
	next := func(what string) mandate.State {
		t.Helper()
		select {
		case s := <-states:
			return s
		case err := <-ended:
			t.Fatalf("%s: the stream ended: %v", what, err)
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: nothing heard", what)
		}
		return mandate.State{}
	}
	if s := next("at connect"); s.Epoch != 1 || len(s.Bindings) != 0 || s.Stopped {
		t.Errorf("%+v", s)
	}
	w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload))
	s := next("after the PUT")
	if len(s.Bindings) != 1 || s.Bindings[0].UID != w.binding(bindingPath).Value.UID || len(s.Bindings[0].Grants) != 1 || s.Revision != w.binding(bindingPath).Created {
		t.Errorf("%+v", s)
	}
	w.must(202, "POST", clusterPath+"/stop", nil)
	if s := next("after the stop"); !s.Stopped || len(s.Bindings) != 1 {
		t.Errorf("%+v", s)
	}
	w.must(202, "DELETE", bindingPath, nil)
	last := next("after the DELETE")
	if len(last.Bindings) != 0 {
		t.Errorf("%+v", last)
	}
	cancel()
	<-ended
	if answer := a.ask(); answer.Floor() != last.Floor() {
		t.Errorf("the answer speaks of %+v, the newest is %+v", answer, last.Floor())
	}
	w.must(202, "POST", clusterPath+"/start", nil)
	if answer := a.ask(); !last.Floor().Before(answer.Floor()) {
		t.Errorf("the answer speaks of %+v, which is not newer than %+v", answer, last.Floor())
	}
	for name, body := range map[string]any{
		"no nonce": map[string]any{"instance": "x"}, "a text to sign": map[string]any{"nonce": "sallyport mandate state v1", "instance": "x"},
		"no instance": map[string]any{"nonce": mandate.NewNonce()},
	} {
		if r := a.call("POST", "/agents/v1/nonce", body); r.status != 400 {
			t.Errorf("%s: %d %s", name, r.status, r.raw)
		}
	}
	// An agent that comes back with the newest state needs no copy.
	a.held = last
	a.held.Revision = a.ask().Revision
	short, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	_ = a.listen(short, func(s mandate.State) { t.Errorf("sent again: %+v", s) })
}

// Two processes of one proxy agent: what the slower one may still let through
// counts.
func TestEachProcessOfAnAgentCounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.AgentBound = time.Hour }).scene()
	a := w.runAgents(clusterPath, accepts(mlworkload))
	w.finished(w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload)))
	old := *a.proxy
	old.process = "proxy-old"
	old.tell("nonce")
	del := w.must(202, "DELETE", bindingPath, nil)
	if op := w.must(200, "GET", del.header.Get("Azure-AsyncOperation"), nil); op.text("status") != "InProgress" {
		t.Errorf("%s", op.raw)
	}
	old.held.Revision = w.mandate(a.proxy.uid)
	old.tell("nonce")
	w.finished(del)
}

func (w *world) mandate(uid trust.ClusterUID) int64 {
	w.t.Helper()
	m, err := store.Get[store.Mandate](w.t.Context(), w.store, store.Mandate{Cluster: uid}.Key())
	if err != nil {
		w.t.Fatal(err)
	}
	return m.Revision
}
