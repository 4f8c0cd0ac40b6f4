package ml

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/e2e/installation"
)

// scientist is somebody who signs in as themselves and holds one role, on the
// workspace and nowhere else.
type scientist struct {
	*ml
	person *installation.Person
}

// says is their command line; a command that fails is err.
func (s *scientist) says(args ...string) (string, error) {
	return s.person.CLI(s.t.Context(), append(args, "--subscription", s.Admin.SubscriptionID)...)
}

func (s *scientist) does(args ...string) string {
	s.t.Helper()
	out, err := s.says(args...)
	s.must(err)
	return out
}

// mayNot is a command that is refused for want of that action.
func (s *scientist) mayNot(action string, args ...string) {
	s.t.Helper()
	out, err := s.says(args...)
	if err == nil || !strings.Contains(err.Error(), "AuthorizationFailed") || !strings.Contains(err.Error(), "'"+action+"'") {
		s.t.Errorf("%s: want %s refused, got %v\n%s", strings.Join(args, " "), action, err, out)
	}
}

// A data scientist trains and serves with a role of their own, which takes them
// neither to the cluster nor to what the workspace may do.
func TestADataScientist(t *testing.T) {
	m := start(t)
	m.scoring()
	ada, err := m.NewPerson(t.Context(), "ada@example.com", "scientists")
	m.must(err)
	m.cli("role", "assignment", "create", "--assignee", ada.Name, "--role", "AzureML Data Scientist", "--scope", m.workspaceID("trainer"), "-o", "none")
	m.must(ada.SignIn(t.Context()))
	s := &scientist{m, ada}
	s.trains()
	s.serves()
	s.isHeldBack()

	m.cli("role", "assignment", "delete", "--assignee", ada.Name, "--role", "AzureML Data Scientist", "--scope", m.workspaceID("trainer"), "--yes")
	s.mayNot("Microsoft.MachineLearningServices/workspaces/jobs/read", m.in("trainer", "ml", "job", "show", "-n", "adas")...)
}

// trains: submits, reads the log, and takes away what the job wrote.
func (s *scientist) trains() {
	file := s.file("adas.yaml", `type: command
command: /train -steps 2000 -slope 3 -model ${{outputs.model}} -version 1
environment: `+trainImage+`
compute: azureml:k8s
outputs: {model: {type: uri_folder}}
`)
	s.does(s.in("trainer", "ml", "job", "create", "-f", file, "-n", "adas", "-o", "none")...)
	if log := s.does(s.in("trainer", "ml", "job", "stream", "-n", "adas")...); !strings.HasPrefix(log, "step 0 loss") || !strings.HasSuffix(log, "nodes=1") {
		s.t.Errorf("log %.300q", log)
	}
	s.until("adas", "Completed", "")
	dir := s.t.TempDir()
	s.does(s.in("trainer", "ml", "job", "download", "-n", "adas", "--all", "-p", dir, "-o", "none")...)
	if found, err := filepath.Glob(filepath.Join(dir, "adas", "named-outputs", "model", "*")); err != nil || len(found) == 0 {
		s.t.Errorf("the job's output is not there: %v", err)
	}
	file = s.file("adas-second.yaml", "type: command\ncommand: /train -steps 0 -pace 20ms\nenvironment: "+trainImage+"\ncompute: azureml:k8s\n")
	s.does(s.in("trainer", "ml", "job", "create", "-f", file, "-n", "adas-second", "-o", "none")...)
	s.until("adas-second", "Running", "")
	s.does(s.in("trainer", "ml", "job", "cancel", "-n", "adas-second")...)
	s.until("adas-second", "Canceled", "")
	s.does(s.in("trainer", "ml", "model", "create", "-n", "adas", "--version", "1", "--path", "azureml://jobs/adas/outputs/model", "-o", "none")...)
}

// serves: an endpoint of their own, invoked, read and removed.
func (s *scientist) serves() {
	s.does(s.in("trainer", "ml", "online-endpoint", "create", "-f", s.file("adas-endpoint.yaml", "name: adas\ncompute: azureml:k8s\n"), "-o", "none")...)
	s.does(s.in("trainer", "ml", "online-deployment", "create", "-f", s.servingFile("adas", "blue", "azureml:adas:1"), "--all-traffic", "-o", "none")...)
	if out := s.does(s.in("trainer", "ml", "online-endpoint", "invoke", "-n", "adas", "--request-file", s.file("adas.json", `{"data":[[1]]}`))...); !strings.Contains(out, `"version":"1"`) {
		s.t.Errorf("invoke: %s", out)
	}
	if log := s.does(s.in("trainer", "ml", "online-deployment", "get-logs", "-e", "adas", "-n", "blue")...); !strings.Contains(log, `serving version "1"`) {
		s.t.Errorf("log %q", log)
	}
	s.does(s.in("trainer", "ml", "online-endpoint", "delete", "-n", "adas", "--yes")...)
}

// isHeldBack: they see where their work goes, and change neither that nor who may
// send it there, nor do they become the workspace.
func (s *scientist) isHeldBack() {
	const workspace = workspaces
	if out := s.does(s.in("trainer", "ml", "compute", "list", "--query", "[].name", "-o", "tsv")...); !strings.Contains(out, "k8s") {
		s.t.Errorf("computes %q", out)
	}
	attach := s.attachment("mine", "training")
	s.mayNot(workspace+"/computes/write", attach...)
	s.mayNot(workspace+"/computes/delete", s.in("trainer", "ml", "compute", "detach", "-n", "k8s", "--yes")...)
	s.mayNot(workspace+"/delete", "ml", "workspace", "delete", "-g", s.GroupName(), "-n", "trainer", "--yes")
	s.mayNot(workspace+"/write", "ml", "workspace", "update", "-g", s.GroupName(), "-n", "trainer", "--description", "mine")
	s.mayNot(workspace+"/connections/write", s.in("trainer", "ml", "connection", "create", "-f", s.file("adas-registry.yaml",
		"name: adas\ntype: container_registry\ntarget: registry.example.com\ncredentials: {type: username_password, username: ada, password: hush}\n"))...)
	s.mayNot("Microsoft.ContainerService/managedClusters/trustedAccessRoleBindings/write", "rest", "-m", "put",
		"-u", s.BindingID("ml-trainer")+"?api-version="+client.ContainerServiceVersion, "-b", `{"properties":{"sourceResourceId":"`+s.workspaceID("trainer")+`","roles":["`+mlworkload+`"]}}`)
	s.mayNot("Microsoft.ContainerService/managedClusters/trustedAccessRoleBindings/delete",
		"aks", "trustedaccess", "rolebinding", "delete", "-g", s.GroupName(), "--cluster-name", s.Name, "-n", "ml-trainer", "--yes")
	s.mayNot("Microsoft.KubernetesConfiguration/extensions/delete", s.on("k8s-extension", "delete", "-n", "azureml", "--yes")...)
	s.mayNot("Microsoft.ContainerService/managedClusters/listClusterUserCredential/action", "aks", "get-credentials", "-g", s.GroupName(), "-n", s.Name, "-f", s.Path("adas.kubeconfig"))
	s.mayNot("Microsoft.Authorization/roleAssignments/write", "rest", "-m", "put",
		"-u", s.workspaceID("trainer")+"/providers/Microsoft.Authorization/roleAssignments/00000000-0000-4000-8000-000000000001?api-version="+client.AuthorizationVersion,
		"-b", `{"properties":{"roleDefinitionId":"/providers/Microsoft.Authorization/roleDefinitions/8e3af657-a8ff-443c-a75c-2fe8c4bcb635","principalId":"00000000-0000-4000-8000-000000000002"}}`)
	s.mayNot(workspace+"/jobs/read", s.in("stranger", "ml", "job", "list")...)
}
