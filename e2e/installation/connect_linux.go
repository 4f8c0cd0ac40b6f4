package installation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/trust"
)

// Login lets CLI act as the first administrator and makes the resource group.
func (i *Installation) Login(ctx context.Context, group string) error {
	if _, err := i.CLI(ctx, "login", "--admin-file", i.AdminFile(), "--name", "e2e", "-o", "none"); err != nil {
		return err
	}
	out, err := i.CLI(ctx, "group", "create", "-n", group, "-l", "local", "--query", "id", "-o", "tsv")
	i.Group = out
	return err
}

// GroupName is the last part of Group.
func (i *Installation) GroupName() string { return i.Group[strings.LastIndex(i.Group, "/")+1:] }

// ClusterID is the connected cluster's resource id.
func (i *Installation) ClusterID() string { return client.ClusterID(i.Group, i.Name) }

// Connect registers the cluster and applies the manifest as its owner.
func (i *Installation) Connect(ctx context.Context, name string, args ...string) error {
	i.Name = name
	all := append([]string{"cluster", "connect", "-g", i.GroupName(), "-n", name, "-l", "local", "--kubeconfig", i.owner(), "--kube-context", "dev",
		"--apply", "--yes", "--no-wait", "-o", "none"}, args...)
	if _, err := i.CLI(ctx, all...); err != nil {
		return err
	}
	return i.Connected(ctx)
}

func (i *Installation) owner() string {
	if i.Owner != "" {
		return i.Owner
	}
	return i.Cluster.Kubeconfig()
}

// ConnectByBundle connects the cluster where the machine that reaches the server
// does not reach the API server: a bundle is made outside, applied inside, and
// its answer handed over outside.
func (i *Installation) ConnectByBundle(ctx context.Context, name, netns string, args ...string) error {
	i.Name = name
	bundle := i.Path("bundle.yaml")
	base := []string{"cluster", "connect", "-g", i.GroupName(), "-n", name, "-l", "local", "-o", "none"}
	if _, err := i.CLI(ctx, append(append(base[:len(base):len(base)], "--bundle", bundle, "--yes"), args...)...); err != nil {
		return err
	}
	inside := []string{"--net=/run/netns/" + netns, "--", i.Program("sallyport"), "cluster", "connect", "--apply", bundle,
		"--kubeconfig", i.owner(), "--kube-context", "dev", "--yes", "-o", "none"}
	if _, err := i.Exec(ctx, []string{"SALLYPORT_CONFIG=" + i.Path("inside.yaml")}, "nsenter", inside...); err != nil {
		return err
	}
	if _, err := i.CLI(ctx, append(base[:len(base):len(base)], "--answer", bundle+".answer", "--no-wait")...); err != nil {
		return err
	}
	return i.Connected(ctx)
}

// Connected reads the registration of a cluster that was connected.
func (i *Installation) Connected(ctx context.Context) error {
	arm, err := i.ARM()
	if err != nil {
		return err
	}
	cluster, err := arm.Cluster(ctx, i.ClusterID())
	if err != nil {
		return err
	}
	i.UID = cluster.Properties.ResourceUID
	key, err := i.Cluster.Kubectl(ctx, "get", "configmap", "-n", "sallyport-system", "sallyport-agents", "-o", `jsonpath={.data.mandate-key\.pem}`)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(i.Path("server-ca.pem"), []byte(i.Admin.CA), 0o600), os.WriteFile(i.Path("mandate.pem"), []byte(key), 0o600))
}

// Agents says how agents outside the cluster run.
type Agents struct {
	Server   string // default: the installation's
	Gateways string // --gateways
	Env      []string
	NetNS    string
}

// The agents' processes.
const (
	Proxy      = "proxy"
	Reconciler = "reconciler"
)

// StartAgents starts both agents and waits until both have connected.
func (i *Installation) StartAgents(ctx context.Context, a Agents) error {
	for _, name := range []string{Reconciler, Proxy} {
		if err := i.StartAgent(ctx, name, a); err != nil {
			return err
		}
	}
	return i.AgentsConnected(ctx)
}

// StartAgent starts one agent.
func (i *Installation) StartAgent(ctx context.Context, name string, a Agents) error {
	kubeconfig, enrol, err := i.agentCredentials(ctx, "sallyport-"+name)
	if err != nil {
		return err
	}
	if a.Server == "" {
		a.Server = i.URL
	}
	command := map[string]string{Proxy: "proxy", Reconciler: "reconcile"}[name]
	args := []string{command, "--server", a.Server, "--server-ca", i.Path("server-ca.pem"), "--cluster", i.UID, "--mandate-key", i.Path("mandate.pem"),
		"--enrol-token", enrol, "--kubeconfig", kubeconfig, "--log-level", "debug"}
	if a.Gateways != "" && name == Proxy {
		args = append(args, "--gateways", a.Gateways)
	}
	_, err = i.Run(Command{Name: name, Path: i.Program("sallyport-agent"), Args: args, Env: a.Env, NetNS: a.NetNS})
	return err
}

// AgentsConnected waits until the server hears both agents.
func (i *Installation) AgentsConnected(ctx context.Context) error {
	return Eventually(ctx, "both agents have connected", 3*time.Minute, func(ctx context.Context) error {
		for _, name := range []string{Reconciler, Proxy} {
			if err := i.Process(name).Failed(); err != nil {
				return err
			}
		}
		return i.Heard(ctx)
	})
}

// Heard is nil if the server hears both agents and one of them holds a tunnel.
func (i *Installation) Heard(ctx context.Context) error {
	arm, err := i.ARM()
	if err != nil {
		return err
	}
	c, err := arm.Connection(ctx, i.ClusterID())
	if err != nil {
		return err
	}
	n := 0
	for _, a := range c.Properties.Agents {
		if a.Connected && a.UpToDate {
			n++
		}
	}
	if n < 2 || len(c.Properties.Tunnels) == 0 {
		return fmt.Errorf("agents %+v, tunnels %v", c.Properties.Agents, c.Properties.Tunnels)
	}
	return nil
}

func (i *Installation) agentCredentials(ctx context.Context, account string) (kubeconfig, enrol string, err error) {
	token, err := i.Cluster.Kubectl(ctx, "create", "token", account, "-n", "sallyport-system", "--duration", "2h")
	if err != nil {
		return "", "", err
	}
	proof, err := i.Cluster.Kubectl(ctx, "create", "token", account, "-n", "sallyport-system", "--duration", "2h", "--audience", client.EnrolAudience(trust.ClusterUID(i.UID)))
	if err != nil {
		return "", "", err
	}
	kubeconfig, enrol = i.Path("keys", account+".kubeconfig"), i.Path("keys", account+".token")
	data, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"clusters": []any{map[string]any{"name": "c", "cluster": map[string]any{"server": i.Cluster.URL(), "certificate-authority-data": i.Cluster.CA()}}},
		"users":    []any{map[string]any{"name": "u", "user": map[string]any{"token": strings.TrimSpace(token)}}},
		"contexts": []any{map[string]any{"name": "c", "context": map[string]any{"cluster": "c", "user": "u"}}},
	})
	if err != nil {
		return "", "", err
	}
	return kubeconfig, enrol, errors.Join(os.WriteFile(kubeconfig, data, 0o600), os.WriteFile(enrol, []byte(strings.TrimSpace(proof)), 0o600))
}

// Service is a source resource with an identity and a way to prove it.
type Service struct {
	ID, ClientID string
	SecretID     string // resource id of its client secret
	Secret       string
	Credential   *client.AuthorityCredential
	i            *Installation
}

// NewService makes a source of a type, with a client secret.
func (i *Installation) NewService(ctx context.Context, typ, name string) (*Service, error) {
	arm, err := i.ARM()
	if err != nil {
		return nil, err
	}
	s := &Service{ID: i.Group + "/providers/" + typ + "/" + name, i: i}
	source, err := arm.PutSource(ctx, s.ID, client.Source{Location: "local", Identity: &client.Identity{Type: "SystemAssigned"}})
	if err != nil {
		return nil, err
	}
	s.ClientID = source.Identity.ClientID
	res, err := arm.Do(ctx, client.Request{Method: http.MethodPost, Path: client.SecretsPath(s.ID), Version: client.SallyportVersion, Body: map[string]any{}})
	if err != nil {
		return nil, err
	}
	var made struct {
		ID         string
		Properties struct{ SecretText string }
	}
	if err := json.Unmarshal(res.Body, &made); err != nil {
		return nil, err
	}
	s.SecretID, s.Secret = made.ID, made.Properties.SecretText
	s.Credential = i.credential(s.ClientID, client.Secret{Text: s.Secret})
	return s, nil
}

func (i *Installation) credential(clientID string, secret client.Secret) *client.AuthorityCredential {
	authority := i.Admin.Authority
	if authority == "" {
		authority = i.URL
	}
	return &client.AuthorityCredential{Authority: authority, Trust: client.ServerTrust{CA: i.Admin.CA}, Tenant: i.Admin.TenantID, ClientID: clientID, Secret: secret}
}

// Federated is the service with the token in a file as its proof instead.
func (s *Service) Federated(file string) *Service {
	f := *s
	f.Credential = s.i.credential(s.ClientID, client.Secret{AssertionFile: file})
	return &f
}

// Token is one for the installation's gateways.
func (s *Service) Token(ctx context.Context) (string, error) {
	return s.Credential.Token(ctx, s.i.URL+"/gateways/local/.default", false)
}

// BindingID is the id of a binding on the installation's cluster.
func (i *Installation) BindingID(name string) string { return client.BindingID(i.ClusterID(), name) }

// Bind binds the service and waits until the binding is in force.
func (s *Service) Bind(ctx context.Context, name string, roles ...string) error {
	arm, err := s.i.ARM()
	if err != nil {
		return err
	}
	op, err := arm.PutBinding(ctx, s.i.BindingID(name), s.ID, roles)
	if err != nil {
		return err
	}
	_, err = op.Wait(ctx, nil)
	return err
}

// Kubeconfig writes one for kubectl as the service, with the exec plugin.
func (s *Service) Kubeconfig(ctx context.Context, file string) error {
	secret := file + ".secret"
	if err := os.WriteFile(secret, []byte(s.Secret), 0o600); err != nil {
		return err
	}
	_, err := s.i.CLI(ctx, "aks", "get-credentials", "-g", s.i.GroupName(), "-n", s.i.Name, "-f", file, "--overwrite-existing",
		"--client-id", s.ClientID, "--client-secret-file", secret)
	return err
}
