package ml

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/e2e/installation"
	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
)

// whole puts back what an earlier test left otherwise. If that does not work,
// this test and every later one fail at once, with the reason.
func (m *ml) whole() {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	for _, part := range []struct {
		what   string
		wrong  func(context.Context) error
		mended func(context.Context) error
	}{
		{"the cluster", m.clusterWrong, m.mendCluster},
		{"the server", m.serverWrong, m.StartServer},
		{"the agents", m.agentsWrong, m.restartAgents},
		{"the namespace", m.namespaceWrong, m.mendNamespace},
		{"the binding", m.bindingWrong, m.rebind},
		{"the extension", m.extensionWrong, m.mendExtension},
		{"the compute", m.computeWrong, m.reattach},
	} {
		wrong := part.wrong(ctx)
		if wrong == nil {
			continue
		}
		m.t.Logf("an earlier test left %s otherwise: %v", part.what, wrong)
		err := part.mended(ctx)
		if err == nil {
			err = installation.Eventually(ctx, part.what+" is as it was", patience, part.wrong)
		}
		if err != nil {
			shared.failed = fmt.Errorf("%s is not to be had since an earlier test: %w", part.what, err)
			m.t.Fatal(shared.failed)
		}
	}
}

// afterwards puts something back when the test has ended, however it did.
func (m *ml) afterwards(what string, back func(context.Context) error) {
	m.t.Helper()
	t := m.t
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		if err := back(ctx); err != nil {
			t.Errorf("put back %s: %v", what, err)
		}
	})
}

// part is a test of its own inside a test: it starts in a whole world, too, and
// its failure does not end the others.
func (m *ml) part(name string, f func(*ml)) {
	m.t.Run(name, func(t *testing.T) { f(start(t)) })
}

// look reads an object or a list of the cluster. It is not kubectl, which takes
// its time, since every test starts with it.
func (m *ml) look(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.Cluster.URL()+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+m.Cluster.AdminToken())
	hc := m.Cluster.Client()
	defer hc.CloseIdleConnections()
	res, err := hc.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, res.Status)
	}
	return json.NewDecoder(res.Body).Decode(into)
}

// looked is what is looked at of an object.
type looked struct {
	Metadata struct{ Name string }
	Spec     struct {
		Replicas int
		Taints   []struct{ Key string }
	}
	Status struct {
		Phase                   string
		Replicas, ReadyReplicas int
	}
}

func (m *ml) clusterWrong(ctx context.Context) error {
	if m.Cluster.PID("kube-apiserver") == 0 {
		return errors.New("its API server was killed")
	}
	if err := m.Cluster.Failure(); err != nil {
		return err
	}
	lost, tainted, err := m.nodesWrong(ctx)
	if err == nil && len(lost)+len(tainted) > 0 {
		err = fmt.Errorf("nodes %v do not run, taints %v", lost, tainted)
	}
	return err
}

// nodesWrong are nodes that do not run, and the taints of others.
func (m *ml) nodesWrong(ctx context.Context) (lost []string, tainted map[string][]string, err error) {
	running := map[string]bool{}
	tainted = map[string][]string{}
	for _, n := range m.Cluster.Nodes() {
		running[n.Name()] = true
	}
	var nodes struct{ Items []looked }
	err = m.look(ctx, "/api/v1/nodes", &nodes)
	for _, n := range nodes.Items {
		name := n.Metadata.Name
		if !running[name] {
			lost = append(lost, name)
			continue
		}
		for _, t := range n.Spec.Taints {
			tainted[name] = append(tainted[name], t.Key+"-")
		}
	}
	return lost, tainted, err
}

func (m *ml) mendCluster(ctx context.Context) error {
	if m.Cluster.PID("kube-apiserver") == 0 {
		if err := m.Cluster.StartAPIServer(ctx); err != nil {
			return err
		}
	}
	if err := m.Cluster.Failure(); err != nil {
		return err
	}
	lost, tainted, err := m.nodesWrong(ctx)
	if len(lost) > 0 {
		_, gone := m.Cluster.Kubectl(ctx, append([]string{"delete", "node"}, lost...)...)
		err = errors.Join(err, gone)
	}
	for node, taints := range tainted {
		_, gone := m.Cluster.Kubectl(ctx, append([]string{"taint", "node", node}, taints...)...)
		err = errors.Join(err, gone)
	}
	return err
}

func (m *ml) serverWrong(context.Context) error { return m.Process("sallyportd").Failed() }

func (m *ml) agentsWrong(ctx context.Context) error {
	for _, name := range []string{installation.Reconciler, installation.Proxy} {
		if err := m.Process(name).Failed(); err != nil {
			return err
		}
	}
	return m.Heard(ctx)
}

// restartAgents starts those that have ended, and waits for both.
func (m *ml) restartAgents(ctx context.Context) error {
	for _, name := range []string{installation.Reconciler, installation.Proxy} {
		if m.Process(name).Failed() != nil {
			if err := m.StartAgent(ctx, name, installation.Agents{}); err != nil {
				return err
			}
		}
	}
	return m.AgentsConnected(ctx)
}

// namespaceWrong: nothing keeps jobs from running there. A namespace that is gone
// is not made anew: its computes would not know it.
func (m *ml) namespaceWrong(ctx context.Context) error {
	var ns looked
	err := m.look(ctx, "/api/v1/namespaces/training", &ns)
	if err == nil && ns.Status.Phase != "Active" {
		err = fmt.Errorf("it is %s", ns.Status.Phase)
	}
	var quotas struct{ Items []looked }
	err = errors.Join(err, m.look(ctx, "/api/v1/namespaces/training/resourcequotas", &quotas))
	if err == nil && len(quotas.Items) > 0 {
		err = fmt.Errorf("it has the quota %s", quotas.Items[0].Metadata.Name)
	}
	return err
}

func (m *ml) mendNamespace(ctx context.Context) error {
	_, err := m.Cluster.Kubectl(ctx, "delete", "quota", "-n", "training", "--all")
	return err
}

func (m *ml) bindingWrong(ctx context.Context) error {
	return m.stateWrong(ctx, m.BindingID("ml-trainer"), client.ContainerServiceVersion)
}

func (m *ml) rebind(ctx context.Context) error {
	_, err := m.CLI(ctx, m.binding("trainer")...)
	return err
}

func (m *ml) computeWrong(ctx context.Context) error {
	return m.stateWrong(ctx, m.workspaceID("trainer")+"/computes/k8s", mlVersion)
}

func (m *ml) reattach(ctx context.Context) error {
	_, err := m.CLI(ctx, m.attachment("k8s", "training")...)
	return err
}

// stateWrong: a resource is there and has succeeded.
func (m *ml) stateWrong(ctx context.Context, id, version string) error {
	arm, err := m.ARM()
	if err != nil {
		return err
	}
	raw, err := arm.Get(ctx, id, version)
	if err != nil {
		return err
	}
	var r struct {
		Properties struct{ ProvisioningState string }
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return err
	}
	if state := r.Properties.ProvisioningState; state != "Succeeded" {
		return fmt.Errorf("it is %s", state)
	}
	return nil
}

// scaled are the extension's Deployments.
func (m *ml) scaled(ctx context.Context) (map[string]looked, error) {
	var all struct{ Items []looked }
	err := m.look(ctx, "/apis/apps/v1/namespaces/"+wire.Namespace+"/deployments", &all)
	found := map[string]looked{}
	for _, d := range all.Items {
		found[d.Metadata.Name] = d
	}
	return found, err
}

// extensionWrong: each of its Deployments is there and ready, and none is at work
// on a change.
func (m *ml) extensionWrong(ctx context.Context) error {
	found, err := m.scaled(ctx)
	for _, part := range extensionParts {
		d, there := found[part]
		if s := d.Status; err == nil && (!there || d.Spec.Replicas == 0 || s.Replicas != d.Spec.Replicas || s.ReadyReplicas != d.Spec.Replicas) {
			err = fmt.Errorf("of %s there should be %d replicas, there are %d, %d of them ready", part, d.Spec.Replicas, s.Replicas, s.ReadyReplicas)
		}
	}
	return err
}

var extensionParts = []string{"sallyport-ml-gateway", "sallyport-ml-operator", mlext.RouterAccount}

// mendExtension scales what is there, and installs what is not.
func (m *ml) mendExtension(ctx context.Context) error {
	found, err := m.scaled(ctx)
	if err != nil {
		return err
	}
	missing := false
	for _, part := range extensionParts {
		d, there := found[part]
		missing = missing || !there
		if there && (d.Spec.Replicas == 0 || d.Spec.Replicas > len(m.Cluster.Nodes())) { // each has a node of its own
			if _, err := m.Cluster.Kubectl(ctx, "scale", "deployment", "-n", wire.Namespace, part, "--replicas=1"); err != nil {
				return err
			}
		}
	}
	if !missing {
		return nil
	}
	if _, err := m.CLI(ctx, m.updateExtension(settings...)...); err != nil {
		if _, err := m.CLI(ctx, m.createExtension()...); err != nil {
			return err
		}
	}
	return m.route(ctx)
}

// sweep ends what a failed test left running: it would take room and requests
// from the others.
func (m *ml) sweep(ctx context.Context) error {
	arm, err := m.ARM()
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	end := func(method, path string) {
		wg.Go(func() {
			if _, err := arm.Begin(ctx, client.Request{Method: method, Path: path, Version: mlVersion}); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	jobs, err := arm.List(ctx, m.workspaceID("trainer")+"/jobs", mlVersion)
	errs = append(errs, err)
	for _, raw := range jobs {
		var j struct {
			ID         string
			Properties struct{ Status string }
		}
		if err := json.Unmarshal(raw, &j); err != nil {
			return err
		}
		if !ended(j.Properties.Status) {
			end(http.MethodPost, j.ID+"/cancel")
		}
	}
	endpoints, err := arm.List(ctx, m.workspaceID("trainer")+"/onlineEndpoints", mlVersion)
	mu.Lock()
	errs = append(errs, err)
	mu.Unlock()
	for _, raw := range endpoints {
		var e struct{ ID string }
		if err := json.Unmarshal(raw, &e); err != nil {
			return err
		}
		end(http.MethodDelete, e.ID)
	}
	wg.Wait()
	return errors.Join(errs...)
}
