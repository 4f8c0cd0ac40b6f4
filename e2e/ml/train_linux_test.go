package ml

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/mlext/wire"
)

// A workspace trains on a real node, through the gateway and the extension.
func TestAWorkspaceTrains(t *testing.T) {
	m := start(t)
	m.part("one job", func(m *ml) { m.fromStartToEnd(); m.archived() })
	m.part("jobs that fail", (*ml).failing)
	m.part("several nodes", (*ml).several)
	m.part("other workspaces", func(m *ml) { m.isolated(); m.withoutBinding() })
}

// submit writes a job's YAML and creates it.
func (m *ml) submit(name, command, more string) {
	m.t.Helper()
	file := m.Path(name + ".yaml")
	text := fmt.Sprintf("type: command\ncommand: %s\nenvironment: %s\ncompute: azureml:k8s\n%s", command, trainImage, more)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
	m.cli(m.in("trainer", "ml", "job", "create", "-f", file, "-n", name, "-o", "none")...)
}

type jobState struct {
	status, code, reason string
	more                 map[string]string
}

func (m *ml) job(ctx context.Context, name string) (jobState, error) {
	arm, err := m.ARM()
	if err != nil {
		return jobState{}, err
	}
	raw, err := arm.Get(ctx, m.workspaceID("trainer")+"/jobs/"+name, mlVersion)
	if err != nil {
		return jobState{}, err
	}
	var job struct {
		Properties struct {
			Status     string
			Properties map[string]string
		}
	}
	err = json.Unmarshal(raw, &job)
	p := job.Properties.Properties
	return jobState{job.Properties.Status, p["statusCode"], p["statusReason"], p}, err
}

// ended says whether a job stays as it is.
func ended(status string) bool {
	return slices.Contains([]string{"Completed", "Failed", "Canceled"}, status)
}

// until waits for a state of a job, and for a reason if one is given.
func (m *ml) until(name, status, reason string) jobState {
	m.t.Helper()
	var last jobState
	eventually(m.t, "job "+name+" is "+status, func(ctx context.Context) (err error) {
		if last, err = m.job(ctx, name); err == nil && (last.status != status || !strings.Contains(last.reason, reason)) {
			if err = fmt.Errorf("it is %+v", last); ended(last.status) && last.status != status {
				err = errors.Join(err, errOver)
			}
		}
		return err
	})
	return last
}

// log reads a job's log so far.
func (m *ml) log(ctx context.Context, name, file string) (string, error) {
	arm, err := m.ARM()
	if err != nil {
		return "", err
	}
	res, err := arm.Do(ctx, client.Request{Method: http.MethodPost, Path: m.workspaceID("trainer") + "/jobs/" + name + "/getLogs", Version: mlVersion,
		Body: map[string]any{"file": file}})
	if err != nil {
		return "", err
	}
	var part struct{ Content string }
	return part.Content, json.Unmarshal(res.Body, &part)
}

// fromStartToEnd: lines are readable while the job runs, it can be canceled, one that
// ends is Completed, and its log stays when its pod is gone.
func (m *ml) fromStartToEnd() {
	m.submit("long", "/train -steps 0 -pace 20ms", "")
	m.until("long", "Running", "")
	seen := 0
	for range 2 { // and more of it while it runs
		eventually(m.t, "new lines are there while the job runs", func(ctx context.Context) error {
			text, err := m.log(ctx, "long", "node-0/attempt-0")
			if n := strings.Count(text, "\n"); err == nil && n <= seen {
				err = fmt.Errorf("%d lines", n)
			} else if err == nil {
				seen = n
			}
			return err
		})
	}
	if s, err := m.job(m.t.Context(), "long"); err != nil || s.status != "Running" {
		m.t.Fatalf("it is %+v, %v", s, err)
	}
	m.cli(m.in("trainer", "ml", "job", "cancel", "-n", "long")...)
	m.until("long", "Canceled", "")

	m.submit("short", "/train -steps 2000", "")
	out := m.cli(m.in("trainer", "ml", "job", "stream", "-n", "short")...)
	if !strings.HasPrefix(out, "step 0 loss") || !strings.HasSuffix(out, "nodes=1") {
		m.t.Errorf("stream: %.300q", out)
	}
	s := m.until("short", "Completed", "")
	if s.more["node-0.exitCode"] != "0" || s.more["node-0.host"] == "" || s.more["EndTimeUtc"] == "" {
		m.t.Errorf("job %+v", s)
	}
	m.kubectl("delete", "pods", "-n", "training", "--all", "--wait")
	dir := m.t.TempDir()
	m.cli(m.in("trainer", "ml", "job", "download", "-n", "short", "--download-path", dir, "-o", "none")...)
	kept, err := os.ReadFile(filepath.Join(dir, "short", "logs", "node-0", "attempt-0.log"))
	if err != nil || strings.TrimSpace(string(kept)) != out {
		m.t.Errorf("kept %.300q, %v", kept, err)
	}
}

// archived: a job that is archived is out of the list, and comes back.
func (m *ml) archived() {
	m.t.Helper()
	list := func(more ...string) string {
		return " " + strings.Join(strings.Fields(m.cli(append(m.in("trainer", "ml", "job", "list", "--query", "[].name", "-o", "tsv"), more...)...)), " ") + " "
	}
	m.cli(m.in("trainer", "ml", "job", "archive", "-n", "short")...)
	if all := list(); strings.Contains(all, " short ") || !strings.Contains(all, " long ") {
		m.t.Errorf("without the archived job: %s", all)
	}
	if all := list("--archived-only"); all != " short " {
		m.t.Errorf("the archived job: %s", all)
	}
	if all := list("--include-archived"); !strings.Contains(all, " short ") || !strings.Contains(all, " long ") {
		m.t.Errorf("all jobs: %s", all)
	}
	m.cli(m.in("trainer", "ml", "job", "restore", "-n", "short")...)
	if all := list(); !strings.Contains(all, " short ") {
		m.t.Errorf("restored: %s", all)
	}
}

// failing: exit codes, retries and reasons to wait come through.
func (m *ml) failing() {
	m.submit("broken", "/train -steps 1 -exit 3", "retry_settings: {max_retries: 1}\n")
	s := m.until("broken", "Failed", "exit code 3")
	if s.code != "UserProgramFailed" || s.more["node-0.attempt"] != "1" {
		m.t.Errorf("job %+v", s)
	}
	if text, err := m.log(m.t.Context(), "broken", "node-0/attempt-1"); err != nil || !strings.Contains(text, "step 0") {
		m.t.Errorf("log of the second attempt: %q, %v", text, err)
	}
	if err := m.Cluster.Apply(m.t.Context(), `{apiVersion: amlarc.azureml.com/v1alpha1, kind: InstanceType, metadata: {name: huge},
		spec: {resources: {requests: {cpu: "500", memory: 1Gi}, limits: {cpu: "500", memory: 1Gi}}}}`); err != nil {
		m.t.Fatal(err)
	}
	m.submit("pends", "/train", "resources: {instance_type: huge}\n")
	if s := m.until("pends", "Queued", "Insufficient cpu"); s.code != "PodUnschedulable" {
		m.t.Errorf("job %+v", s)
	}
	m.cli(m.in("trainer", "ml", "job", "cancel", "-n", "pends")...)
	m.submit("slow", "/train -steps 0 -pace 20ms", "limits: {timeout: 2}\n")
	m.until("slow", "Failed", "limits.timeout")
	m.submit("unknown", "/train", "resources: {instance_type: none}\n")
	m.until("unknown", "Failed", "there is no instance type none: there are ")
}

// several nodes exchange data: each ends with the same model, of all their data.
// With PyTorch they meet at the first, with TensorFlow all know all.
func (m *ml) several() {
	for form, nodes := range map[string]int{"pytorch": 2, "tensorflow": 3} {
		m.submit(form, "/train -steps 4000", fmt.Sprintf("resources: {instance_count: %d}\ndistribution: {type: %s}\n", nodes, form))
		m.until(form, "Completed", "")
		var models []string
		for i := range nodes {
			node := fmt.Sprintf("node-%d", i)
			eventually(m.t, "the log of "+node+" is whole", func(ctx context.Context) error {
				text, err := m.log(ctx, form, node+"/attempt-0")
				lines := strings.Split(strings.TrimSpace(text), "\n")
				if last := lines[len(lines)-1]; err == nil && !strings.HasSuffix(last, fmt.Sprintf("nodes=%d", nodes)) {
					err = fmt.Errorf("its last line is %q", last)
				} else if err == nil {
					models = append(models, last)
				}
				return err
			})
		}
		for _, model := range models {
			if model != models[0] || !strings.Contains(model, "w=2.99") && !strings.Contains(model, "w=3.00") {
				m.t.Errorf("models %v", models)
				break
			}
		}
	}
}

// isolated: another bound workspace, a source that holds services/proxy, and
// whoever has no token at all reach nothing of the first workspace.
func (m *ml) isolated() {
	ctx := m.t.Context()
	m.submit("private", "/train -steps 0 -pace 20ms", "")
	m.until("private", "Running", "")
	uid := m.kubectl("get", "trainingjobs", "-n", wire.Namespace, "-o", `jsonpath={.items[?(@.spec.job.name=="private")].spec.job.uid}`)
	compute := m.kubectl("get", "computes", "-n", wire.Namespace, "-o", `jsonpath={.items[0].spec.uid}`)
	other, err := m.NewService(ctx, workspaces, "other")
	if err != nil {
		m.t.Fatal(err)
	}
	m.bind("other")
	third, err := m.NewService(ctx, "Contoso.Prober/probers", "third")
	m.must(err)
	m.must(third.Bind(ctx, "third", prober))
	ask, extension := m.ask, m.extensionToken
	gateway, err := other.Token(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	if status, code := ask(other, extension(other), "GET", "/health", ""); status != 200 {
		m.t.Fatalf("the other workspace itself: %d %s", status, code)
	}
	calls := []struct{ method, path, body string }{
		{"GET", "/jobs/" + uid, ""}, {"DELETE", "/jobs/" + uid, ""}, {"POST", "/jobs/" + uid + "/cancel", ""},
		{"GET", "/jobs/" + uid + "/logs", ""}, {"GET", "/jobs/" + uid + "/logs/node-0/attempt-0", ""}, {"DELETE", "/computes/" + compute, ""},
		{"PUT", "/computes/" + compute, `{"name":"k8s","namespace":"training"}`},
		{"PUT", "/jobs/00000000-0000-4000-8000-000000000000", `{"name":"x","compute":"` + compute + `","image":"i","command":"c","nodes":1}`},
	}
	for _, c := range calls {
		if status, code := ask(other, extension(other), c.method, c.path, c.body); status != 404 && status != 409 {
			m.t.Errorf("another workspace: %s %s: %d %s", c.method, c.path, status, code)
		}
		for who, own := range map[string]string{"without a token": "", "with a token for the gateway": gateway} {
			if status, code := ask(third, own, c.method, c.path, c.body); status != 401 && (status != 403 || code != "Status") {
				m.t.Errorf("a source with services/proxy %s: %s %s: %d %s", who, c.method, c.path, status, code)
			}
		}
		if status, code := ask(third, extension(third), c.method, c.path, c.body); status != 403 {
			m.t.Errorf("a source that is no workspace: %s %s: %d %s", c.method, c.path, status, code)
		}
	}
	if s, err := m.job(ctx, "private"); err != nil || s.status != "Running" {
		m.t.Errorf("the job is %+v, %v", s, err)
	}
}

// withoutBinding: the operation stops and says why, what runs goes on, and with
// a binding the job is followed again.
func (m *ml) withoutBinding() {
	m.unbind()
	m.until("private", "NotResponding", "no trusted access role binding")
	m.refused("TrustedAccessRoleBindingNotFound", m.in("trainer", "ml", "job", "cancel", "-n", "private")...)
	if phase := m.kubectl("get", "pods", "-n", "training", "-l", "ml.sallyport.dev/job", "--field-selector=status.phase=Running", "-o", "name"); phase == "" {
		m.t.Error("what ran in the cluster has ended")
	}
	m.bind("trainer")
	eventually(m.t, "the job is followed again", func(ctx context.Context) error {
		s, err := m.job(ctx, "private")
		if err == nil && s.status == "NotResponding" {
			err = fmt.Errorf("it is %+v", s)
		}
		return err
	})
	m.cli(m.in("trainer", "ml", "job", "cancel", "-n", "private")...)
	m.until("private", "Canceled", "")
}

// Detaching and deleting leave nothing in the cluster.
func TestNothingIsLeft(t *testing.T) {
	m := start(t)
	const name = "passing"
	m.cli("ml", "workspace", "create", "-g", m.GroupName(), "-n", name, "-o", "none")
	m.bind(name)
	before := m.kubectl("get", "computes", "-n", wire.Namespace, "-o", "name")
	m.cli(m.in(name, "ml", "compute", "attach", "--type", "Kubernetes", "-n", "k8s", "--resource-id", m.ClusterID(), "--namespace", "training", "-o", "none")...)
	if during := m.kubectl("get", "computes", "-n", wire.Namespace, "-o", "name"); during == before {
		t.Error("the compute is not in the cluster")
	}
	m.cli(m.in(name, "ml", "compute", "detach", "-n", "k8s", "--yes")...)
	if left := m.kubectl("get", "computes", "-n", wire.Namespace, "-o", "name"); left != before {
		t.Errorf("left in the cluster: %s, before %s", left, before)
	}
	m.cli("ml", "workspace", "delete", "-g", m.GroupName(), "-n", name, "--yes")
}
