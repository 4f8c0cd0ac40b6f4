package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	key = "a-key-of-the-endpoint-that-is-as-long-as-azure-makes-them"
	uid = "0b9f4b52-4a0c-4c0e-9a35-3c1f6a3f0001"
)

// runAPI stands in for an API server: one endpoint, one deployment and one pod,
// the model server; lists are answered, watches say nothing, the Lease is kept.
func runAPI(ctx context.Context, args []string, out io.Writer) error {
	host, port, err := net.SplitHostPort(args[0])
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	if err := writeConfig(args[1]); err != nil {
		return err
	}
	digest := sha256.Sum256([]byte(key))
	owner := map[string]any{"workspace": "/w", "object": "o"}
	meta := func(namespace, name string) map[string]any {
		return map[string]any{"namespace": namespace, "name": name, "uid": name, "resourceVersion": "1"}
	}
	object := func(kind, name string, spec map[string]any) map[string]any {
		spec["owner"], spec["namespace"] = owner, "serving"
		return map[string]any{"apiVersion": "ml.sallyport.dev/v1alpha1", "kind": kind, "metadata": meta("azureml", name), "spec": spec}
	}
	pod := map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": meta("serving", "pod"),
		"spec":   map[string]any{"containers": []any{map[string]any{"name": "server", "ports": []any{map[string]any{"containerPort": number}}}}},
		"status": map[string]any{"phase": "Running", "podIP": host, "conditions": []any{map[string]any{"type": "Ready", "status": "True"}}}}
	pod["metadata"].(map[string]any)["labels"] = map[string]any{"ml.sallyport.dev/deployment": "d"}
	lists := map[string][]any{
		"onlineendpoints": {object("OnlineEndpoint", "e-e", map[string]any{"endpoint": map[string]any{"uid": "e", "name": "iris",
			"keys": []string{hex.EncodeToString(digest[:])}, "traffic": map[string]int{"blue": 100}}})},
		"onlinedeployments": {object("OnlineDeployment", "d-d", map[string]any{"deployment": map[string]any{"uid": "d", "name": "blue", "endpoint": "e", "instances": 1,
			"scoring": map[string]any{"path": "/score", "port": number}, "request": map[string]any{"timeoutMs": 30_000, "maxConcurrentPerInstance": 1000, "maxQueueWaitMs": 1000}}})},
		"pods": {pod},
	}
	var mu sync.Mutex
	lease := map[string]any{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta("azureml", "sallyport-ml-router"), "spec": map[string]any{}}
	return serve(ctx, out, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		mu.Lock()
		defer mu.Unlock()
		if strings.HasSuffix(r.URL.Path, "/leases/sallyport-ml-router") {
			if r.Method == http.MethodPut {
				// There is one router, and nothing else that it could want to write.
				now := time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")
				lease["spec"] = map[string]any{"holderIdentity": "router", "leaseDurationSeconds": 6, "acquireTime": now, "renewTime": now, "leaseTransitions": 1}
			}
			_ = json.NewEncoder(w).Encode(lease)
			return
		}
		name := filepath.Base(r.URL.Path)
		switch items, known := lists[name]; {
		case !known || r.FormValue("sendInitialEvents") != "":
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422}`)
		case r.FormValue("watch") != "":
			_ = http.NewResponseController(w).Flush()
			mu.Unlock()
			<-r.Context().Done()
			mu.Lock()
		default:
			first := items[0].(map[string]any)
			_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": first["apiVersion"], "kind": first["kind"].(string) + "List",
				"metadata": map[string]any{"resourceVersion": "1"}, "items": items})
		}
	}))
}

// writeConfig writes the ML service's key, which signs nothing here.
func writeConfig(dir string) error {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "ml-key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600)
}

// router starts the router as it is built, with its access log in a file.
func (p *parts) router(ctx context.Context, binary, api string) (string, error) {
	conf := filepath.Join(p.dir, "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","clusters":[{"name":"c","cluster":{"server":"http://%s"}}],"users":[{"name":"u","user":{}}],`+
		`"contexts":[{"name":"x","context":{"cluster":"c","user":"u"}}],"current-context":"x"}`, api)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return "", err
	}
	access, err := os.Create(filepath.Join(p.dir, "access.log"))
	if err != nil {
		return "", err
	}
	var free [2]string
	for i := range free {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		free[i] = l.Addr().String()
		l.Close()
	}
	cmd := exec.CommandContext(ctx, binary, "router", "--kubeconfig="+conf, "--namespaces=serving", "--audience=https://sallyport.example/extensions/"+uid,
		"--ml-key="+filepath.Join(p.dir, "ml-key.pem"), "--listen="+free[0], "--probe-listen="+free[1], "--allow-insecure-connections", "--name=router")
	log, err := os.Create(filepath.Join(p.dir, "router.log"))
	if err != nil {
		return "", err
	}
	cmd.Stdout, cmd.Stderr = access, log
	if err := p.run("router", cmd); err != nil {
		return "", err
	}
	for range 300 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+free[1]+"/readyz", nil)
		if err != nil {
			return "", err
		}
		if res, err := http.DefaultClient.Do(req); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return free[0], nil
			}
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	data, _ := os.ReadFile(log.Name())
	return "", fmt.Errorf("the router does not become ready: %s", data)
}
