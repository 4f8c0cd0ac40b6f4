package declared

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const sub = "11111111-2222-3333-4444-555555555555"

const every = `kind: ResourceGroup
name: prod
location: westeurope
tags:
  team: access
---
kind: TrustedAccessRole
name: Contoso.Scanner/scanners/reader
rules:
  - apiGroups: [""]
    resources: [pods]
    verbs: [get, list]
  - nonResourceURLs: [/healthz]
    verbs: [get]
---
kind: SourceResource
id: /subscriptions/{subscriptionId}/resourceGroups/prod/providers/Contoso.Scanner/scanners/nightly
federatedCredentials:
  - name: nightly-ci
    issuer: https://ci.example.com
    subject: scans
    audiences: ['api://AzureADTokenExchange']
---
kind: ManagedCluster
resourceGroup: prod
name: blue
disableLocalAccounts: false
authorizedIPRanges:
  - 198.51.100.0/24
---
kind: TrustedAccessRoleBinding
resourceGroup: prod
clusterName: blue
name: scan
sourceResourceId: /subscriptions/{subscriptionId}/resourceGroups/prod/providers/Contoso.Scanner/scanners/nightly
roles:
  - Contoso.Scanner/scanners/reader
`

func read(t *testing.T, text string) []Object {
	t.Helper()
	objects, err := Read([]string{"-"}, strings.NewReader(text), sub)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// What is read and written again is the same text, whatever order it was in.
func TestFilesRoundTrip(t *testing.T) {
	docs := strings.Split(every, "---\n")
	objects := read(t, docs[4]+"---\n"+docs[3]+"---\n"+docs[2]+"---\n"+docs[1]+"---\n"+docs[0])
	var kinds []Kind
	var specs []any
	for _, o := range objects {
		kinds = append(kinds, o.Kind)
		switch s := o.Spec.(type) {
		case *Federated:
			continue
		case *Source:
			s.ID = Portable(s.ID, sub)
		case *Binding:
			s.SourceResourceID = Portable(s.SourceResourceID, sub)
		}
		specs = append(specs, o.Spec)
	}
	if d := cmp.Diff(order, kinds); d != "" {
		t.Errorf("order (-want +got):\n%s", d)
	}
	text, err := File(specs)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(every, string(text)); d != "" {
		t.Errorf("written (-want +got):\n%s", d)
	}
}

func TestTextsComparesWhatTheFileSpeaksOf(t *testing.T) {
	const group = `{"id":"/subscriptions/` + sub + `/resourceGroups/PROD","name":"PROD","location":"westeurope","tags":{"team":"access","sallyportSet":"a"}}`
	const cluster = `{"id":"/subscriptions/` + sub + `/resourceGroups/prod/providers/Microsoft.ContainerService/managedClusters/blue","name":"blue","location":"westeurope","properties":{"disableLocalAccounts":true,"apiServerAccessProfile":{"authorizedIPRanges":["192.0.2.1"]}}}`
	tests := []struct {
		name, file, live string
		kind             Kind
		same             bool
	}{
		{"the same", "kind: ResourceGroup\nname: prod\nlocation: West Europe\ntags: {team: access}", group, KindGroup, true},
		{"tags unsaid", "kind: ResourceGroup\nname: prod\nlocation: westeurope", group, KindGroup, true},
		{"no tags", "kind: ResourceGroup\nname: prod\nlocation: westeurope\ntags: {}", group, KindGroup, false},
		{"all unsaid", "kind: ManagedCluster\nresourceGroup: prod\nname: blue", cluster, KindCluster, true},
		{"local accounts", "kind: ManagedCluster\nresourceGroup: prod\nname: blue\ndisableLocalAccounts: false", cluster, KindCluster, false},
		{"no ranges", "kind: ManagedCluster\nresourceGroup: prod\nname: blue\nauthorizedIPRanges: []", cluster, KindCluster, false},
		{"the ranges", "kind: ManagedCluster\nresourceGroup: prod\nname: blue\nauthorizedIPRanges: [192.0.2.1]", cluster, KindCluster, true},
		{"rules in another order", "kind: TrustedAccessRole\nname: A.B/c/r\nrules: [{verbs: [list, get], apiGroups: [''], resources: [pods]}]",
			`{"id":"/subscriptions/` + sub + `/providers/Sallyport.Access/trustedAccessRoles/A.B:c:r","properties":{"roleName":"A.B/c/r","rules":[{"verbs":["get","list"],"apiGroups":[""],"resources":["pods"]}]}}`, KindRole, true},
		{"a source without an identity", "kind: SourceResource\nid: /subscriptions/{subscriptionId}/resourceGroups/g/providers/A.B/c/d",
			`{"id":"/subscriptions/` + sub + `/resourceGroups/g/providers/A.B/c/d","identity":{"type":"None"}}`, KindSource, false},
		{"roles in another order", "kind: TrustedAccessRoleBinding\nresourceGroup: g\nclusterName: c\nname: b\nsourceResourceId: /subscriptions/{subscriptionId}/resourcegroups/g/providers/A.B/c/d\nroles: [A.B/c/r, A.B/c/s]",
			`{"id":"/subscriptions/` + sub + `/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/c/trustedAccessRoleBindings/b","name":"b","properties":{"sourceResourceId":"/subscriptions/` + sub + `/resourceGroups/g/providers/A.B/c/d","roles":["A.B/c/s","A.B/c/r"]}}`, KindBinding, false},
	}
	for _, tt := range tests {
		live, err := FromServer(tt.kind, []byte(tt.live))
		if err != nil {
			t.Fatal(err)
		}
		before, after, err := Texts(live, read(t, tt.file)[0].Spec)
		if err != nil {
			t.Fatal(err)
		}
		if (string(before) == string(after)) != tt.same {
			t.Errorf("%s: the same is %v\n%s", tt.name, !tt.same, cmp.Diff(string(before), string(after)))
		}
	}
}

// A key set is compared by what it verifies with; the server keeps no more.
func TestKeysAreComparedByThumbprint(t *testing.T) {
	const x, y = `"x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"`, `"y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"`
	source := func(keys string) string {
		return "kind: SourceResource\nid: /subscriptions/{subscriptionId}/resourceGroups/g/providers/A.B/c/d\nfederatedCredentials:\n- {name: abc, issuer: 'https://i', subject: s, keys: " + keys + "}\n"
	}
	want := read(t, source(`{"keys":[{"kty":"EC","crv":"P-256",`+x+`,`+y+`,"kid":"1"}]}`))[1]
	live, err := FromServer(KindFederated, []byte(`{"id":"/subscriptions/`+sub+`/resourceGroups/g/providers/A.B/c/d/federatedIdentityCredentials/abc","name":"abc","properties":{"issuer":"https://i","subject":"s","audiences":["api://AzureADTokenExchange"],"keys":{"keys":[{"use":"sig","alg":"ES256","kty":"EC","kid":"1","crv":"P-256",`+x+`,`+y+`}]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	before, after, err := Texts(live, want.Spec)
	if err != nil || string(before) != string(after) {
		t.Errorf("%v\n%s", err, cmp.Diff(string(before), string(after)))
	}
	live.Spec.(*Federated).Keys.(map[string]any)["keys"].([]any)[0].(map[string]any)["kid"] = "2"
	if before, after, _ = Texts(live, want.Spec); string(before) == string(after) {
		t.Error("another key id makes no difference")
	}
	for _, bad := range []string{`{"keys":[]}`, `[1]`, `{"keys":[{"kty":"EC","crv":"P-256",` + x + `,` + y + `,"d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}]}`} {
		if _, err := Read([]string{"-"}, strings.NewReader(source(bad)), sub); err == nil || !strings.Contains(err.Error(), `<stdin>:4: federated credential abc: "keys"`) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestReadTakesFoldersAndSaysWhatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	if _, err := Read([]string{dir}, nil, sub); err == nil || !strings.Contains(err.Error(), "there is no resource in") {
		t.Errorf("an empty folder: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "big.yaml"), make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read([]string{dir}, nil, sub); err == nil || !strings.Contains(err.Error(), "big.yaml:1: it is larger than 4 MiB") {
		t.Errorf("a large file: %v", err)
	}
	if _, err := Read([]string{filepath.Join(dir, "none")}, nil, sub); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("no file: %v", err)
	}
}

// Whatever bytes are read, there are objects or a reason with its place; and
// what was read can be written and read again.
func FuzzRead(f *testing.F) {
	f.Add(every)
	for _, s := range []string{"", "---", "- a", "kind: ResourceGroup\n<<: &a {name: g}\n", "a: &a [*a]", "kind: SourceResource\nid: &i x\nfederatedCredentials: *i", "kind: SourceResource\nfederatedCredentials: &c [{name: *c}]", "{", "kind: {a: b}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		objects, err := Read([]string{"-"}, strings.NewReader(text), sub)
		if err != nil {
			if !strings.Contains(err.Error(), "<stdin>:") && !strings.Contains(err.Error(), "there is no resource") {
				t.Fatalf("no place: %v", err)
			}
			return
		}
		var specs []any
		for _, o := range objects {
			if o.Kind != KindFederated {
				specs = append(specs, o.Spec)
			}
		}
		again, err := File(specs)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Read([]string{"-"}, strings.NewReader(string(again)), sub)
		if err != nil || len(got) != len(objects) {
			t.Fatalf("%d objects became %d: %v\n%s", len(objects), len(got), err, again)
		}
	})
}
