package ml

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
)

// Three routers on three nodes, reached through a load balancer: what dies is
// missed as little as is promised, and comes back by itself.
func TestRoutersOnThreeNodes(t *testing.T) {
	if !long() {
		t.Skip("SALLYPORT_E2E_LONG=1 plays it on three nodes")
	}
	m := start(t)
	m.threeNodes()
	m.image(scoreImage, m.build("../../examples/score")) // on those that were lost, too
	s := m.balanced("wide")
	m.countsAreTrue(s)
	m.routerDies(s)
	m.scoresWithoutAPIServer(s)
	m.nodeComesBack(s)
	m.cli(m.in("trainer", "ml", "online-endpoint", "delete", "-n", "wide", "--yes")...)
}

// threeNodes has those run again that an earlier test lost.
func (m *ml) threeNodes() {
	m.t.Helper()
	for i := range nodes() {
		if name := fmt.Sprintf("node-%d", i); m.Cluster.PID(name) == 0 {
			m.must(m.Cluster.StartNode(m.t.Context(), name))
		}
	}
}

// asItWas gives the extension its settings back when the test has ended.
func (m *ml) asItWas() {
	m.t.Helper()
	m.afterwards("the extension's settings", func(ctx context.Context) error {
		if _, err := m.CLI(ctx, m.createExtension()...); err != nil {
			return err
		}
		return m.route(ctx)
	})
}

// balanced has the extension bring three routers behind a load balancer, whose
// address is the endpoint's.
func (m *ml) balanced(endpoint string) *scorer {
	m.t.Helper()
	m.balances()
	m.asItWas()
	m.cli(m.updateExtension("enableInference=True", "inferenceRouterServiceType=loadBalancer", "allowInsecureConnections=True", "inferenceRouterHA=True")...)
	m.kubectl("annotate", "service", "-n", wire.Namespace, mlext.RouterService, mlext.ScoringURL+"-")
	m.cli(m.in("trainer", "ml", "online-endpoint", "create", "-f", m.file(endpoint+".yaml", "name: "+endpoint+"\ncompute: azureml:k8s\nauth_mode: key\n"), "-o", "none")...)
	m.cli(m.in("trainer", "ml", "online-deployment", "create", "-f", m.deploymentOf(endpoint, "blue", "one", "instance_count: 3\n"), "--all-traffic", "-o", "none")...)
	s := m.scorerOf(endpoint)
	s.http.Transport = dialing("")
	if want := "http://" + m.Cluster.Nodes()[0].Address().String() + "/api/v1/endpoint/" + endpoint + "/score"; s.url != want {
		m.t.Errorf("scoring URL %s, want the load balancer's %s", s.url, want)
	}
	if seen := s.counts(m, 10); seen["one"] != 10 {
		m.t.Errorf("versions %v", seen)
	}
	return s
}

// routerPod is one of them.
type routerPod struct{ name, node, address string }

// readyRouters are those that are ready.
func (m *ml) readyRouters(ctx context.Context) (all []routerPod, err error) {
	out, err := m.Cluster.Kubectl(ctx, "get", "pods", "-n", wire.Namespace, "-l", "app.kubernetes.io/name="+mlext.RouterAccount, "-o",
		`jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.status.podIP} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}`)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 4 && f[3] == "True" {
			all = append(all, routerPod{f[0], f[1], f[2]})
		}
	}
	return all, err
}

// threeRouters waits until one is ready on each of three nodes.
func (m *ml) threeRouters() (all []routerPod) {
	m.t.Helper()
	eventually(m.t, "a router is ready on each of three nodes", func(ctx context.Context) (err error) {
		all, err = m.readyRouters(ctx)
		nodes := map[string]bool{}
		for _, r := range all {
			nodes[r.node] = true
		}
		if err == nil && (len(all) != 3 || len(nodes) != 3) {
			err = fmt.Errorf("there are %v", all)
		}
		return err
	})
	return all
}

// lead is the router that hands out slots.
func (m *ml) lead() string {
	m.t.Helper()
	return strings.TrimSpace(m.kubectl("get", "lease", "-n", wire.Namespace, mlext.RouterLease, "-o", "jsonpath={.spec.holderIdentity}"))
}

// at is the caller of one router itself.
func (s *scorer) at(r routerPod) *scorer {
	direct := *s
	direct.http = &http.Client{Timeout: s.http.Timeout, Transport: dialing(net.JoinHostPort(r.address, "8080"))}
	return &direct
}

// metrics are a router's numbers, as Prometheus gets them, by name and labels.
func (m *ml) metrics(r routerPod) map[string]float64 {
	m.t.Helper()
	hc := &http.Client{Timeout: patience, Transport: dialing("")}
	defer hc.CloseIdleConnections()
	res, err := hc.Get("http://" + net.JoinHostPort(r.address, "8081") + "/metrics")
	m.must(err)
	defer res.Body.Close()
	all := map[string]float64{}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		name, value, ok := cutLast(lines.Text(), " ")
		if n, err := strconv.ParseFloat(value, 64); ok && err == nil && !strings.HasPrefix(name, "#") {
			all[name] = n
		}
	}
	m.must(lines.Err())
	return all
}

func cutLast(s, by string) (before, after string, ok bool) {
	i := strings.LastIndex(s, by)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(by):], true
}

// sum adds the series of a metric whose labels have all of these.
func sum(all map[string]float64, metric string, labels ...string) (n float64) {
	for name, v := range all {
		if base, in, _ := strings.Cut(name, "{"); base == metric && !slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(in, l) }) {
			n += v
		}
	}
	return n
}

// countsAreTrue: what routers count is what callers did.
func (m *ml) countsAreTrue(s *scorer) {
	const good, wrong, nobody = 120, 9, 6
	routers := m.threeRouters()
	var before []map[string]float64
	for _, r := range routers {
		before = append(before, m.metrics(r))
	}
	fresh := *s
	fresh.http = &http.Client{Timeout: s.http.Timeout, Transport: dialing("")}
	fresh.http.Transport.(*http.Transport).DisableKeepAlives = true // so that each request may come to another router
	ask := func(n, want int, key, deployment string) {
		m.t.Helper()
		for range n {
			if status, text, err := fresh.score(m.t.Context(), key, deployment); err != nil || status != want {
				m.t.Fatalf("%d %s %v, want %d", status, text, err, want)
			}
		}
	}
	ask(good, http.StatusOK, s.key, "")
	ask(wrong, http.StatusUnauthorized, "wrong", "")
	ask(nobody, http.StatusNotFound, s.key, "none")
	total := map[string]float64{}
	for i, r := range routers {
		after := m.metrics(r)
		grown := func(metric string, labels ...string) float64 {
			n := sum(after, metric, labels...) - sum(before[i], metric, labels...)
			total[metric+strings.Join(labels, "")] += n
			return n
		}
		if n := grown("sallyport_router_requests_total", `deployment="blue"`, `endpoint="wide"`, `code="200"`); n == 0 {
			m.t.Errorf("router %s on %s had no request", r.name, r.node)
		}
		grown("sallyport_router_requests_total")
		grown("sallyport_router_request_seconds_count", `deployment="blue"`)
		grown("sallyport_router_refused_total")
		grown("sallyport_router_retries_total")
		blue := func(metric string) float64 { return sum(after, metric, `deployment="blue"`) }
		if blue("sallyport_router_replicas") != 3 || blue("sallyport_router_busy") != 0 || blue("sallyport_router_queued") != 0 {
			m.t.Errorf("router %s: %v replicas, %v busy, %v queued, want 3, 0, 0", r.name, blue("sallyport_router_replicas"), blue("sallyport_router_busy"), blue("sallyport_router_queued"))
		}
		total["slots"] += blue("sallyport_router_slots")
	}
	for name, want := range map[string]float64{
		`sallyport_router_requests_totaldeployment="blue"endpoint="wide"code="200"`: good, "sallyport_router_requests_total": good,
		`sallyport_router_request_seconds_countdeployment="blue"`: good, "sallyport_router_refused_total": wrong + nobody, "sallyport_router_retries_total": 0,
	} {
		if total[name] != want {
			m.t.Errorf("routers count %v of %s, want %v", total[name], name, want)
		}
	}
	if total["slots"] < 1 || total["slots"] > 3*8 {
		m.t.Errorf("routers hold %v slots of three replicas that take eight requests each", total["slots"])
	}
}

// routerDies: the router that hands out slots is killed. What it carried is lost,
// and nothing else; it is one of them again when it is back.
func (m *ml) routerDies(s *scorer) {
	m.threeRouters()
	lead := m.lead()
	c := m.crowd(s)
	c.more(m, 200)
	m.killPod(lead)
	m.threeRouters()
	c.more(m, 200)
	lost := c.end()
	m.t.Logf("a router was killed: %d of %d requests lost: %q", len(lost), c.asked.Load(), lost)
	if len(lost) > callers {
		m.t.Errorf("%d requests were lost with a router that carried at most %d", len(lost), callers)
	}
	if seen := s.counts(m, 100); seen["one"] != 100 {
		m.t.Errorf("versions %v", seen)
	}
}

// scoresWithoutAPIServer: nobody who scores notices that it is away, for longer
// than the routers' Lease lives; afterwards what was changed is served.
func (m *ml) scoresWithoutAPIServer(s *scorer) {
	ctx := m.t.Context()
	m.threeRouters()
	c := m.crowd(s)
	c.more(m, 100)
	m.must(m.Cluster.Kill(ctx, "kube-apiserver"))
	away := time.Now()
	const longerThanTheLease = 15 * time.Second
	eventually(m.t, "requests are answered without an API server", func(context.Context) error {
		if d := time.Since(away); d < longerThanTheLease {
			return fmt.Errorf("it is away for %v", d)
		}
		return nil
	})
	c.more(m, 300)
	during := c.asked.Load()
	m.must(m.Cluster.StartAPIServer(ctx))
	c.more(m, 300)
	m.threeRouters()
	if lost := c.end(); len(lost) > 0 {
		m.t.Errorf("%d of %d requests were lost while the API server was away, such as %s", len(lost), c.asked.Load(), lost[0])
	}
	m.t.Logf("the API server was away: %d requests until it came back, %d in all, none lost", during, c.asked.Load())
	eventually(m.t, "the server reaches the cluster again", func(ctx context.Context) error {
		_, err := m.CLI(ctx, m.in("trainer", "ml", "online-deployment", "update", "-e", "wide", "-n", "blue", "--set", "environment_variables.VERSION=two", "-o", "none")...)
		return err
	})
	eventually(m.t, "the new version answers", func(context.Context) error {
		if _, version, err := s.score(ctx, s.key, ""); err != nil || version != "two" {
			return errors.Join(err, fmt.Errorf("version %q", version))
		}
		return nil
	})
}

// nodeComesBack: a node loses its power, with its router and its replicas. Routers
// elsewhere answer every request, if only by saying that it failed; once the
// cluster has seen the loss all are scored; and when the node is back its router
// takes its part again, and nothing is lost by that.
func (m *ml) nodeComesBack(s *scorer) {
	ctx := m.t.Context()
	routers := m.threeRouters()
	lead, lost := m.lead(), m.lastNode()
	for _, r := range routers { // the one that hands out slots, if the load balancer is elsewhere
		if r.name == lead && r.node != m.Cluster.Nodes()[0].Name() {
			lost = r.node
		}
	}
	m.t.Logf("%s is lost, of the routers %v; %s hands out slots", lost, routers, lead)
	var direct []*scorer
	for _, r := range routers {
		if r.node != lost {
			direct = append(direct, s.at(r))
		}
	}
	c := m.crowd(direct...)
	c.more(m, 100)
	m.must(m.Cluster.Kill(ctx, lost))
	eventually(m.t, "the cluster has seen that the node is lost", func(ctx context.Context) error {
		left, err := m.readyRouters(ctx)
		if err == nil && len(left) != 2 {
			err = fmt.Errorf("routers %v are ready", left)
		}
		return err
	})
	m.replicasElsewhere(lost)
	failed := c.end()
	m.t.Logf("a node was lost: %d of %d requests failed before the cluster had seen it: %q", len(failed), c.asked.Load(), failed[:min(len(failed), 5)])
	seen := m.crowd(direct...)
	seen.more(m, 500)
	if failed := seen.end(); len(failed) > 0 {
		m.t.Errorf("%d requests failed after the cluster had seen that a node is lost, such as %s", len(failed), failed[0])
	}
	for _, f := range failed {
		if !strings.HasPrefix(f, "50") {
			m.t.Errorf("a request had no answer that says why: %s", f)
		}
	}
	if seen := s.counts(m, 100); seen["two"] != 100 { // through the load balancer
		m.t.Errorf("versions %v", seen)
	}
	back := m.crowd(append(direct, s)...)
	m.must(m.Cluster.StartNode(ctx, lost))
	now := m.threeRouters()
	back.more(m, 500)
	if failed := back.end(); len(failed) > 0 {
		m.t.Errorf("%d of %d requests were lost while the node came back, such as %s", len(failed), back.asked.Load(), failed[0])
	}
	for _, r := range now {
		if seen := s.at(r).counts(m, 50); seen["two"] != 50 {
			m.t.Errorf("the router on %s: versions %v", r.node, seen)
		}
	}
}

// lastNode is the name of one that the load balancer does not name first.
func (m *ml) lastNode() string {
	nodes := m.Cluster.Nodes()
	return nodes[len(nodes)-1].Name()
}

// replicasElsewhere waits until no model server on the node counts as ready.
func (m *ml) replicasElsewhere(node string) {
	m.t.Helper()
	eventually(m.t, "no replica of the lost node counts as ready", func(ctx context.Context) error {
		out, err := m.Cluster.Kubectl(ctx, "get", "pods", "-n", "training", "-l", "ml.sallyport.dev/deployment", "--field-selector=spec.nodeName="+node, "-o",
			`jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`)
		if err == nil && strings.Contains(out, "True") {
			err = fmt.Errorf("they are %s", out)
		}
		return err
	})
}
