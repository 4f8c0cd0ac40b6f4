package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/trust"
)

const (
	raceGroup     = "/subscriptions/0b1f6471-1bf0-4dda-aec3-111122223333/resourceGroups/g"
	raceWorkspace = raceGroup + "/providers/Microsoft.MachineLearningServices/workspaces/w"
)

// contested keeps resources as the server does, conditions included; between a
// reading of one and the next request somebody else writes it, so many times.
type contested struct {
	mu      sync.Mutex
	kept    map[string]json.RawMessage // by folded path
	tags    map[string]int64
	rival   string // the path that somebody else writes
	theirs  json.RawMessage
	rivalry int // times
}

func (c *contested) keep(path string, body json.RawMessage) {
	c.kept[trust.Fold(path)] = body
	c.tags[trust.Fold(path)]++
}

func (c *contested) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := trust.Fold(r.URL.Path)
	tag := ""
	if n := c.tags[key]; n > 0 {
		tag = arm.ETag(n)
	}
	if r.Method == http.MethodGet {
		if c.kept[key] == nil {
			http.Error(w, `{"error":{"code":"ResourceNotFound","message":"none"}}`, http.StatusNotFound)
		} else {
			w.Header().Set("ETag", tag)
			w.Write(c.kept[key])
		}
		if key == trust.Fold(c.rival) && c.rivalry > 0 {
			c.rivalry--
			c.keep(c.rival, c.theirs)
		}
		return
	}
	if err := arm.ParseConditions(r.Header).Check(tag); err != nil {
		http.Error(w, `{"error":{"code":"PreconditionFailed","message":"not met"}}`, http.StatusPreconditionFailed)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	c.keep(r.URL.Path, body)
	w.Write(body)
}

type noToken struct{}

func (noToken) Token(context.Context, string, bool) (string, error) { return "t", nil }

// connect gives a command a server to talk to.
func serve(t *testing.T, a *app, h http.Handler) {
	t.Helper()
	server := httptest.NewTLSServer(h)
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	c, err := client.New(client.Config{Server: server.URL, Trust: client.ServerTrust{CA: string(ca)}, Credential: noToken{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	a.arm = c
}

// against runs a command against a server.
func against(t *testing.T, h http.Handler, args ...string) (said string, code int) {
	t.Helper()
	var out bytes.Buffer
	a := &app{streams: streams{in: strings.NewReader(""), out: &out, err: &out}}
	serve(t, a, h)
	a.root = a.tree()
	a.root.SetArgs(append(args, "--subscription", "0b1f6471-1bf0-4dda-aec3-111122223333", "--only-show-errors"))
	err := a.root.ExecuteContext(t.Context())
	a.busy.stop()
	code = a.fail(t.Context(), err)
	return out.String(), code
}

// What somebody else makes between a command's look and its write is not
// overwritten.
func TestCreateOverwritesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		at := filepath.Join(dir, name)
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return at
	}
	job := file("job.yml", "command: /train\nenvironment: azureml:e:1\ncompute: azureml:k8s\n")
	endpoint := file("endpoint.yml", "name: fraud\ncompute: azureml:k8s\n")
	deployment := file("deployment.yml", "name: blue\nendpoint_name: fraud\nenvironment: azureml:e:1\ninstance_count: 1\n")
	for name, tt := range map[string]struct {
		at, args, want string
	}{
		"job":        {raceWorkspace + "/jobs/j", "ml job create -g g -w w -n j -f " + job, "the job j exists; give another --name"},
		"endpoint":   {raceWorkspace + "/onlineEndpoints/fraud", "ml online-endpoint create -g g -w w -f " + endpoint, "the endpoint fraud exists; change it with update"},
		"deployment": {raceWorkspace + "/onlineEndpoints/fraud/deployments/blue", "ml online-deployment create -g g -w w -f " + deployment, "the deployment blue exists; change it with update"},
		"binding": {client.BindingID(client.ClusterID(raceGroup, "c"), "b"), "aks trustedaccess rolebinding create -g g --cluster-name c -n b --source-resource-id " + raceWorkspace + " --roles Microsoft.MachineLearningServices/workspaces/mlworkload",
			"RoleBinding b already existed"},
		"user": {userPath("anna"), "ad user create --user-principal-name anna", "The user 'anna' exists already.\nNext: sallyport ad user update --id anna"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &contested{kept: map[string]json.RawMessage{}, tags: map[string]int64{}, rival: tt.at, theirs: json.RawMessage(`{"properties":{"whose":"theirs"}}`), rivalry: 1}
			said, code := against(t, c, strings.Fields(tt.args)...)
			if code != exitError || !strings.Contains(said, tt.want) {
				t.Errorf("%d: %s", code, said)
			}
			if got := c.kept[trust.Fold(tt.at)]; string(got) != string(c.theirs) {
				t.Errorf("%s is now %s", tt.at, got)
			}
		})
	}
}

// A command that changes a part of a resource changes nothing else, even if
// somebody else changes another part meanwhile.
func TestChangesKeepWhatOthersChanged(t *testing.T) {
	t.Parallel()
	lock := client.Extend(raceGroup, "Microsoft.Authorization/locks") + "/keep"
	job, service := raceWorkspace+"/jobs/j", raceGroup+"/providers/Contoso.Scanner/scanners/s"
	for name, tt := range map[string]struct {
		at, args, before, theirs, want string
	}{
		"lock": {lock, "lock update -n keep -g g --notes mine", `{"properties":{"level":"ReadOnly","notes":"before"}}`, `{"properties":{"level":"CanNotDelete","notes":"before"}}`,
			`{"properties":{"level":"CanNotDelete","notes":"mine"}}`},
		"archived": {job, "ml job archive -g g -w w -n j", `{"properties":{"displayName":"before"}}`, `{"properties":{"displayName":"theirs"}}`,
			`{"properties":{"displayName":"theirs","isArchived":true}}`},
		"identity": {service, "identity create -g g --type Contoso.Scanner/scanners -n s -l westeurope", ``, `{"properties":{"whose":"theirs"},"tags":{"a":"b"}}`,
			`{"location":"westeurope","tags":{"a":"b"},"identity":{"type":"SystemAssigned"},"properties":{"whose":"theirs"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &contested{kept: map[string]json.RawMessage{}, tags: map[string]int64{}, rival: tt.at, theirs: json.RawMessage(tt.theirs), rivalry: 2}
			if tt.before != "" {
				c.keep(tt.at, json.RawMessage(tt.before))
			}
			said, code := against(t, c, strings.Fields(tt.args)...)
			if got := c.kept[trust.Fold(tt.at)]; code != exitOK || string(got) != tt.want {
				t.Errorf("%d: %s\n%s, want\n%s", code, said, got, tt.want)
			}
			c.rivalry = 1000
			if said, code = against(t, c, strings.Fields(tt.args)...); code != exitError || !strings.Contains(said, "Next: type the same command again") {
				t.Errorf("%d: %s", code, said)
			}
		})
	}
}
