package gateway

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

// putRegistries keeps the credentials of a compute's registries, as the Secret
// that its pods pull images with. An empty list takes them away. The gateway can
// write such Secrets and read none.
func (g *Gateway) putRegistries(ctx context.Context, owner mlext.Owner, uid string, all []wire.Registry) error {
	c, err := g.compute(ctx, owner, uid)
	if err != nil {
		return err
	}
	if err := g.admits(c.Spec.Namespace); err != nil {
		return err
	}
	// While there may be a Secret the compute says so: detaching takes it along.
	if len(all) > 0 {
		if err := g.pullSecret(ctx, c, true); err != nil {
			return err
		}
		return g.keepRegistries(ctx, c, all)
	}
	if !c.Spec.PullSecret {
		return nil
	}
	if err := g.keepRegistries(ctx, c, nil); err != nil {
		return err
	}
	return g.pullSecret(ctx, c, false)
}

func (g *Gateway) pullSecret(ctx context.Context, c *mlext.Compute, there bool) error {
	if c.Spec.PullSecret == there {
		return nil
	}
	c.Spec.PullSecret = there
	u, err := mlext.ToObject(c)
	if err != nil {
		return err
	}
	_, err = g.Dynamic.Resource(mlext.Computes).Namespace(wire.Namespace).Update(ctx, u, metav1.UpdateOptions{})
	return err
}

func (g *Gateway) keepRegistries(ctx context.Context, c *mlext.Compute, all []wire.Registry) error {
	kube, name := g.Kube.CoreV1().Secrets(c.Spec.Namespace), mlext.PullSecretName(c.Spec.UID)
	if len(all) == 0 {
		if err := kube.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("remove registry credentials: %w", err)
		}
		return nil
	}
	type login struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Auth     string `json:"auth"`
	}
	logins := map[string]login{}
	for _, r := range all {
		if r.Server == "" || r.Username == "" || r.Password == "" {
			return trust.Errorf(trust.Invalid, "a registry needs server, username and password")
		}
		logins[r.Server] = login{r.Username, r.Password, base64.StdEncoding.EncodeToString([]byte(r.Username + ":" + r.Password))}
	}
	data, err := json.Marshal(map[string]any{"auths": logins})
	if err != nil {
		return err
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.Spec.Namespace, Name: name, Labels: map[string]string{"app.kubernetes.io/managed-by": "sallyport-ml"}},
		Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: data}}
	_, err = kube.Create(ctx, secret, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = kube.Update(ctx, secret, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("keep registry credentials: %w", err)
	}
	return nil
}
