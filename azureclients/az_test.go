package azureclients

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Azure's own az, as Debian 12 has it (2.45.0), set up as "client-setup az"
// says. It is large and slow, so it runs where it is asked for: SALLYPORT_TEST_AZ=1 make test-azure.
func TestAz(t *testing.T) {
	if os.Getenv("SALLYPORT_TEST_AZ") == "" {
		t.Skip("az runs where it is asked for: SALLYPORT_TEST_AZ=1 make test-azure")
	}
	if _, err := exec.LookPath("az"); err != nil {
		t.Fatalf("Debian's azure-cli is needed: %v", err)
	}
	t.Parallel()
	ctx := t.Context()
	if until, limited := t.Deadline(); limited { // time to say what was slow
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, until.Add(-time.Minute))
		defer cancel()
	}
	p := newPerson(ctx, t, "AZURE_CORE_COLLECT_TELEMETRY=false", "AZURE_CORE_NO_COLOR=true", "SUB="+the.admin.SubscriptionID)
	p.must(ctx, "sallyport client-setup az > setup.sh; source ./setup.sh")
	// What setup.sh exports is for this shell too.
	setup := `export REQUESTS_CA_BUNDLE="$PWD/sallyport-bundle.pem"; `
	const cluster = `/subscriptions/$SUB/resourceGroups/Az/providers/Microsoft.ContainerService/managedClusters/blue`
	const scanner = `/subscriptions/$SUB/resourceGroups/Az/providers/Contoso.Scanner/scanners/nightly`
	for _, tt := range []struct{ command, want string }{
		{`account show --query user.name -o tsv`, the.admin.ClientID},
		{`account list-locations --query [].name -o tsv`, "westeurope\neastus"},
		{`account get-access-token --query tokenType -o tsv`, "Bearer"},
		{`group create -l westeurope -n Az --query properties.provisioningState -o tsv`, "Succeeded"},
		{`group exists -n Az`, "true"},
		{`group list --query "[?name=='Az'].location" -o tsv`, "westeurope"},
		{`group list --tag none=here --query [].name -o tsv`, ""},
		{`lock create -n keep -t ReadOnly -g Az --notes why --query [level,notes] -o tsv`, "ReadOnly\nwhy"},
		{`lock list -g Az --query [].name -o tsv`, "keep"},
		{`lock delete -n keep -g Az`, ""},
		{`feature register --namespace Microsoft.ContainerService --name TrustedAccessPreview --query name -o tsv`, "Microsoft.ContainerService/TrustedAccessPreview"},
		{`feature show --namespace Microsoft.ContainerService --name TrustedAccessPreview --query name -o tsv`, "Microsoft.ContainerService/TrustedAccessPreview"},
		{`provider register --namespace Microsoft.ContainerService`, ""},
		{`provider show --namespace Microsoft.ContainerService --query registrationState -o tsv`, "Registered"},
		{`rest --method put --url "` + cluster + `?api-version=2025-02-01" --body '{"location":"westeurope"}' --query name -o tsv`, "blue"},
		{`aks list -g Az --query [].name -o tsv`, "blue"},
		{`aks show -g Az -n blue --query [powerState.code,provisioningState] -o tsv`, "Running\nSucceeded"},
		{`aks get-credentials -g Az -n blue -f kubeconfig; grep -c "` + the.admin.Server + `/clusters/" kubeconfig`, "1"},
		{`aks stop -g Az -n blue; az aks show -g Az -n blue --query powerState.code -o tsv`, "Stopped"},
		{`aks start -g Az -n blue; az aks show -g Az -n blue --query powerState.code -o tsv`, "Running"},
		{`resource list -g Az --query "[].[name,provisioningState]" -o tsv`, "blue\tSucceeded"},
		{`monitor activity-log list -g Az --offset 1h --status Succeeded --query "[?contains(operationName.value,'locks')].operationName.value | [0]" -o tsv`, "Microsoft.Authorization/locks/delete"},
		{`resource show -g Az -n blue --resource-type Microsoft.ContainerService/managedClusters --query type -o tsv`, "Microsoft.ContainerService/managedClusters"},
		// Debian's az has no trustedaccess commands; az rest has every resource.
		{`rest --method put --url "` + scanner + `?api-version=2024-01-01" --body '{"location":"westeurope","identity":{"type":"SystemAssigned"}}' --query identity.type -o tsv`, "SystemAssigned"},
		{`rest --url "` + cluster + `/trustedAccessRoleBindings?api-version=2025-02-01" --query value`, "[]"},
		{`rest --url "/subscriptions/$SUB/providers/Microsoft.ContainerService/locations/westeurope/trustedAccessRoles?api-version=2025-02-01" --query "value[?name=='mlworkload'].sourceResourceType" -o tsv`, "Microsoft.MachineLearningServices/workspaces"},
		// Debian's az role crashes in itself, on all but this.
		{`role assignment delete --ids "/subscriptions/$SUB/providers/Microsoft.Authorization/roleAssignments/aaaaaaaa-aaaa-4aaa-aaaa-aaaaaaaaaaaa"`, ""},
		{`aks delete -g Az -n blue -y`, ""},
		{`group delete -n Az -y; az group exists -n Az`, "false"},
	} {
		if got := p.must(ctx, setup+"az "+tt.command); got != tt.want {
			t.Errorf("az %s: %q, want %q", tt.command, got, tt.want)
		}
	}
	for command, want := range map[string]string{
		`aks show -g Az -n none`:        "ResourceGroupNotFound",
		`aks list --subscription other`: "Subscription 'other' not found",
		`login --service-principal --tenant $(sallyport account show --query tenantId -o tsv) -u ` + the.admin.ClientID + ` -p wrong`: "AADSTS7000215",
	} {
		if _, stderr, err := p.shell(ctx, setup+"az "+command); err == nil || !strings.Contains(stderr, want) {
			t.Errorf("az %s: %v, want %q\n%s", command, err, want, stderr)
		}
	}
}
