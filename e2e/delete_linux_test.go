package e2e

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/e2e/installation"
)

// Deleting a cluster takes as long as its agents take to say that they let nobody
// through and have cleaned it; and no longer when they were stopped and have said
// so.
func TestAClusterIsDeletedAsSoonAsItsAgentsConfirm(t *testing.T) {
	w := start(t)
	for name, stopped := range map[string]bool{"connected": false, "its agents were stopped": true} {
		t.Run(name, func(t *testing.T) {
			bound(t, w)
			if stopped {
				for _, agent := range []string{installation.Proxy, installation.Reconciler} {
					if err := w.Process(agent).Stop(time.Minute); err != nil {
						t.Fatal(err)
					}
				}
			}
			began := time.Now()
			if _, err := w.Wait(t.Context(), http.MethodDelete, w.ClusterID(), client.ContainerServiceVersion, nil); err != nil {
				t.Fatal(err)
			}
			took := time.Since(began)
			t.Cleanup(func() {
				if err := w.again(context.WithoutCancel(t.Context()), w.GroupName()); err != nil {
					t.Error(err)
				}
			})
			t.Logf("deleted after %s", took)
			if took > 15*time.Second { // the reconciler is given 20 s, a proxy that is lost 32 s
				t.Errorf("the deletion took %s: an agent's word was not heard", took)
			}
		})
	}
}
