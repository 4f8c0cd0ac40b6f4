package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Large transfers arrive whole, each way, by every road that they can take.
// SALLYPORT_E2E_LONG makes them 100 MB.
func TestLargeTransfers(t *testing.T) {
	w := start(t)
	size := 8 << 20
	if long() {
		size = 100 << 20
	}
	s, token, _ := w.service(t, deployer)
	t.Run("list", func(t *testing.T) { w.largeList(t, token, size) })
	if w.nodes == 0 {
		t.Skip("no real node: cp, exec and services/proxy are not tried")
	}
	config := w.Path("large.kubeconfig")
	if err := s.Kubeconfig(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, size)
	rand.Read(data)
	kubectl := func(t *testing.T, env string, stdin io.Reader, args ...string) []byte {
		t.Helper()
		var stderr bytes.Buffer
		cmd := exec.CommandContext(t.Context(), w.Cluster.Program("kubectl"), args...)
		cmd.Env, cmd.Stdin, cmd.Stderr = w.Env("KUBECONFIG="+config, env), stdin, &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("kubectl %s: %v %s", strings.Join(args, " "), err, &stderr)
		}
		return out
	}
	t.Run("cp", func(t *testing.T) {
		there, back := w.Path("there"), w.Path("back")
		if err := os.WriteFile(there, data, 0o600); err != nil {
			t.Fatal(err)
		}
		kubectl(t, "", nil, "cp", there, "default/"+quiet+":/tmp/copied")
		kubectl(t, "", nil, "cp", "default/"+quiet+":/tmp/copied", back)
		copied, err := os.ReadFile(back)
		if err != nil || sha256.Sum256(copied) != sha256.Sum256(data) {
			t.Errorf("%d of %d bytes came back, or others, %v", len(copied), len(data), err)
		}
	})
	for name, protocol := range map[string]string{"WebSocket": "true", "SPDY": "false"} {
		t.Run("exec over "+name, func(t *testing.T) {
			env := "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=" + protocol
			sum := sha256.Sum256(data)
			if out := kubectl(t, env, bytes.NewReader(data), "exec", "-i", quiet, "--", "sha256sum"); !bytes.HasPrefix(out, []byte(hex.EncodeToString(sum[:]))) {
				t.Errorf("of what was sent arrived what has the sum %.100s", out)
			}
			if out := kubectl(t, env, nil, "exec", quiet, "--", "fill", fmt.Sprint(size)); !filled(out, size) {
				t.Errorf("%d of %d bytes came, or others", len(out), size)
			}
		})
	}
	t.Run("services/proxy", func(t *testing.T) {
		for _, major := range []int{1, 2} {
			w.throughService(t, w.HTTP(major), token, data)
		}
	})
}

// filled says whether b is what fill writes.
func filled(b []byte, size int) bool {
	line := []byte("0123456789abcde\n")
	return len(b) == size && bytes.Equal(b, bytes.Repeat(line, size/len(line)+1)[:size])
}

// throughService posts data to a service in the cluster and gets as much.
func (w *world) throughService(t *testing.T, hc *http.Client, token string, data []byte) {
	t.Helper()
	defer hc.CloseIdleConnections()
	const service = "/api/v1/namespaces/default/services/" + quiet + ":80/proxy"
	ask := func(method, path string, body io.Reader) []byte {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, method, w.gatewayURL()+"/clusters/"+w.UID+service+path, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := hc.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s %s: %s %.300s %v", method, path, resp.Status, answer, err)
		}
		return answer
	}
	if answer := ask(http.MethodPost, "/", bytes.NewReader(data)); !bytes.HasPrefix(answer, fmt.Appendf(nil, "POST / %d bytes\n", len(data))) {
		t.Errorf("the service says %.100s", answer)
	}
	if answer := ask(http.MethodGet, fmt.Sprintf("/fill/%d", len(data)), nil); !filled(answer, len(data)) {
		t.Errorf("%d of %d bytes came, or others", len(answer), len(data))
	}
}

// largeList has the API server itself answer with as much.
func (w *world) largeList(t *testing.T, token string, size int) {
	const collection, each = "/api/v1/namespaces/default/configmaps", 900 << 10
	const mine = collection + "?labelSelector=e2e%3Dlarge"
	owner := w.Cluster.Client()
	defer owner.CloseIdleConnections()
	asOwner := func(ctx context.Context, method, path string, body io.Reader) error {
		req, err := http.NewRequestWithContext(ctx, method, w.Cluster.URL()+path, body)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+w.Cluster.AdminToken())
		req.Header.Set("Content-Type", "application/json")
		resp, err := owner.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if answer, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode > http.StatusCreated {
			return fmt.Errorf("%s %s: %s %.300s %w", method, path, resp.Status, answer, err)
		}
		return nil
	}
	want := map[string]string{}
	defer func() { // one by one: deleting a collection answers with all of it
		for name := range want {
			if err := asOwner(context.WithoutCancel(t.Context()), http.MethodDelete, collection+"/"+name, nil); err != nil {
				t.Error(err)
			}
		}
	}()
	for n := range size/each + 1 {
		random := make([]byte, each/2)
		rand.Read(random)
		name := fmt.Sprintf("large-%d", n)
		want[name] = hex.EncodeToString(random)
		if err := asOwner(t.Context(), http.MethodPost, collection, strings.NewReader(fmt.Sprintf(
			`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q,"labels":{"e2e":"large"}},"data":{"x":%q}}`, name, want[name]))); err != nil {
			t.Fatal(err)
		}
	}
	hc := w.HTTP(2)
	defer hc.CloseIdleConnections()
	code, body, err := w.getWithin(t.Context(), 3*time.Minute, hc, token, mine)
	if code != http.StatusOK || err != nil {
		t.Fatalf("%d %.300s %v", code, body, err)
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Data     map[string]string
		}
	}
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != len(want) {
		t.Errorf("%d of %d items came", len(list.Items), len(want))
	}
	for _, i := range list.Items {
		if i.Data["x"] != want[i.Metadata.Name] {
			t.Errorf("%s is another one", i.Metadata.Name)
		}
	}
	t.Logf("an answer of %d bytes", len(body))
}
