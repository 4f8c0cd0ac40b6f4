package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"
)

// A kubeconfig comes from a server and lands where kubectl acts on it: nothing
// that a server may not say stays in it.
func TestTheServersKubeconfigIsReducedToWhatItMaySay(t *testing.T) {
	const uid, other = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa", "https://other.example.com"
	got, err := clientcmd.Load([]byte(`
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://here.example.com/clusters/` + uid + `", certificate-authority-data: eA==, proxy-url: "http://evil", certificate-authority: /etc/passwd}}]
users:
- name: u
  user:
    tokenFile: /etc/passwd
    client-key: /etc/passwd
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: rm
      env: [{name: SALLYPORT_CONFIG, value: x}]
      interactiveMode: Always
      args: [kubeconfig, credential, --server, ` + other + `, --cluster-uid, ` + uid + `, --client-id, x, --client-secret-file, /etc/passwd]
`))
	if err != nil {
		t.Fatal(err)
	}
	if err := ownPlugin(got, "https://here.example.com/"); err != nil {
		t.Fatal(err)
	}
	user := got.AuthInfos["u"]
	if diff := cmp.Diff([]string{"kubeconfig", "credential", "--server", "https://here.example.com", "--cluster-uid", uid}, user.Exec.Args); diff != "" {
		t.Error(diff)
	}
	if user.Exec.Command == "rm" {
		t.Error("the server's command is run")
	}
	text, err := clientcmd.Write(*got)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"passwd", "evil", other, "SALLYPORT_CONFIG"} {
		if strings.Contains(string(text), bad) {
			t.Errorf("%s stays:\n%s", bad, text)
		}
	}
	got.AuthInfos["u"].Exec.Args[5] = "$(x)"
	if err := ownPlugin(got, "https://here.example.com"); err == nil {
		t.Error("a uid that is none was taken")
	}
}
