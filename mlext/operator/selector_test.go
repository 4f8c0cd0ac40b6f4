package operator

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/mlext/wire"
)

// What the extension was installed for holds for everything that it runs, and an
// instance type that contradicts it is refused by name.
func TestTheExtensionsNodesHoldForWorkloads(t *testing.T) {
	o := &operator{Config: Config{NodeSelector: map[string]string{"kubernetes.io/os": "linux", "pool": "ml"}}}
	own := map[string]wire.InstanceType{
		"plain":  {},
		"gpu":    {NodeSelector: map[string]string{"gpu": "yes", "pool": "ml"}},
		"others": {NodeSelector: map[string]string{"pool": "web"}},
	}
	for name, want := range map[string]map[string]string{
		"plain": {"kubernetes.io/os": "linux", "pool": "ml"}, "gpu": {"kubernetes.io/os": "linux", "pool": "ml", "gpu": "yes"},
	} {
		if kind, err := o.instanceType(t.Context(), name, own); err != nil || !cmp.Equal(kind.NodeSelector, want) {
			t.Errorf("%s: %v, %v", name, kind.NodeSelector, err)
		}
	}
	if _, err := o.instanceType(t.Context(), "others", own); err == nil || !strings.Contains(err.Error(), "pool=web") || !strings.Contains(err.Error(), "pool=ml") {
		t.Errorf("contradiction: %v", err)
	}
	if len(own["gpu"].NodeSelector) != 2 || len(o.NodeSelector) != 2 {
		t.Error("a selector was changed in its place")
	}
}
