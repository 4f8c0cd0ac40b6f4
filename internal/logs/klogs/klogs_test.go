package klogs

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"k8s.io/klog/v2"
)

func TestKubernetesLibrariesLogHere(t *testing.T) {
	var out bytes.Buffer
	Install(slog.New(slog.NewJSONHandler(&out, nil)))
	t.Cleanup(klog.ClearLogger)
	klog.InfoS("reflector started", "kind", "pods")
	klog.V(4).InfoS("detail")
	klog.ErrorS(nil, "watch failed", "kind", "pods")
	got := out.String()
	if !strings.Contains(got, `"msg":"reflector started"`) || !strings.Contains(got, `"kind":"pods"`) || !strings.Contains(got, `"level":"ERROR"`) || !strings.Contains(got, `"from":"kubernetes"`) {
		t.Errorf("got %s", got)
	}
	if strings.Contains(got, "detail") {
		t.Errorf("verbose lines come through at level Info: %s", got)
	}
}
