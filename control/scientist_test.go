package control

import "testing"

// A data scientist runs jobs, and cannot become the workspace, attach or bind.
func TestWhatADataScientistMayDo(t *testing.T) {
	d := builtInByID(dataScientistGUID)
	for action, want := range map[string]bool{
		"/read": true, "/jobs/write": true, "/jobs/read": true, "/jobs/cancel/action": true, "/jobs/getLogs/action": true, "/jobs/delete": true,
		"/environments/versions/write": true, "/computes/read": true,
		"/write": false, "/delete": false, "/computes/write": false, "/connections/write": false, "/connections/read": true, "/models/versions/write": true, "/codes/versions/startPendingUpload/action": true, "/computes/delete": false,
		"/federatedIdentityCredentials/write": false, "/federatedIdentityCredentials/delete": false, "/clientSecrets/write": false, "/clientCertificates/write": false,
	} {
		if d.allows(mlWorkspaces+action) != want {
			t.Errorf("%s: %v, want %v", action, !want, want)
		}
	}
	if d.allows(bindingType+"/write") || d.allows("Microsoft.Authorization/roleAssignments/write") || d.allows(clusterType+"/read") {
		t.Error("it reaches beyond workspaces")
	}
}
