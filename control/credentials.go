package control

import (
	"fmt"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

type credentials struct {
	Kubeconfigs []credential `json:"kubeconfigs"`
}

type credential struct {
	Name  string `json:"name"`
	Value []byte `json:"value"` // base64 on the wire
}

// userCredential is a kubeconfig that goes through the gateway. It holds no
// secret: the CLI's exec plugin gets tokens.
func (k *call) userCredential() (*answer, error) {
	value, err := k.kubeconfig(&k.cluster.Value)
	if err != nil {
		return nil, err
	}
	return ok(credentials{[]credential{{"clusterUser", value}}}), nil
}

// adminCredential is always refused: Sallyport holds no administrator's
// credential of any cluster.
func (k *call) adminCredential() (*answer, error) {
	if k.cluster.Value.DisableLocalAccounts {
		return nil, arm.Errorf(trust.Invalid, arm.BadRequest, "Getting static credential is not allowed because this cluster is set to disable local accounts.")
	}
	e := arm.Errorf(trust.Invalid, arm.BadRequest, "Getting static credential is not allowed because Sallyport holds no administrator's credential of any cluster.")
	e.Hint = "use listClusterUserCredential, or the cluster owner's own kubeconfig"
	return nil, e
}

// GatewayURL is where a cluster is reached: the server of its kubeconfigs.
func (c *Control) GatewayURL(uid trust.ClusterUID) string {
	return c.GatewayBase + "/clusters/" + string(uid)
}

func (c *Control) kubeconfig(r *store.Cluster) ([]byte, error) {
	id, err := arm.ParseID(r.ID)
	if err != nil {
		return nil, fmt.Errorf("write kubeconfig: %w", err)
	}
	name := id.Name()
	user := "clusterUser_" + id.Group + "_" + name
	cluster := map[string]any{"server": c.GatewayURL(r.UID)}
	if len(c.ServerCA) > 0 {
		cluster["certificate-authority-data"] = c.ServerCA // encoded as base64
	}
	config := map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": name,
		"clusters": []any{map[string]any{"name": name, "cluster": cluster}},
		"contexts": []any{map[string]any{"name": name, "context": map[string]any{"cluster": name, "user": user}}},
		"users": []any{map[string]any{"name": user, "user": map[string]any{"exec": map[string]any{
			"apiVersion":         "client.authentication.k8s.io/v1",
			"command":            "sallyport",
			"args":               []string{"kubeconfig", "credential", "--server", c.BaseURL, "--cluster-uid", string(r.UID)},
			"interactiveMode":    "IfAvailable",
			"provideClusterInfo": false,
			"installHint":        "The sallyport command gets the tokens for this cluster; it must be on the PATH.",
		}}}},
	}
	out, err := yaml.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("write kubeconfig: %w", err)
	}
	return out, nil
}
