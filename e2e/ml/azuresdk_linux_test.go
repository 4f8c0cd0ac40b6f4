package ml

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/client"
)

// The same by Azure's Go SDK, which knows nothing of Sallyport but its address.
func TestAzuresSDKTrainsAndServes(t *testing.T) {
	m := start(t)
	m.scoring()
	program := m.Path("azureml")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./machinelearning")
	build.Dir, build.Env = "../../azureclients", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the program: %v\n%s", err, out)
	}
	admin, err := client.ReadAdminFile(m.AdminFile())
	m.must(err)
	ca := m.file("sdk-ca.pem", admin.CA)
	out, err := m.Exec(t.Context(), []string{"SERVER=" + admin.Server, "CA=" + ca, "TENANT=" + admin.TenantID, "CLIENT_ID=" + admin.ClientID, "CLIENT_SECRET=" + admin.ClientSecret,
		"SUBSCRIPTION=" + admin.SubscriptionID, "GROUP=" + m.GroupName(), "WORKSPACE=trainer", "CLUSTER=" + m.ClusterID(), "NAMESPACE=training",
		"TRAIN=" + trainImage, "SCORE=" + scoreImage}, program)
	if err != nil {
		t.Fatal(err)
	}
	var made struct{ URL, Key, Old, Log string }
	if err := json.Unmarshal([]byte(out[strings.LastIndexByte(out, '{'):]), &made); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := &scorer{url: made.URL, key: made.Key, http: &http.Client{Timeout: patience}}
	defer s.http.CloseIdleConnections()
	version, y, err := s.predict(t.Context(), 2)
	if err != nil || version != "sdk" || math.Abs(y-9) > 10*fitWithin { // 4·2 + 1; beyond the data, so less exact
		t.Errorf("version %q predicts %g, %v", version, y, err)
	}
	eventually(t, "the old key does not score", func(ctx context.Context) error {
		if status, _, err := s.score(ctx, made.Old, ""); err != nil || status != http.StatusUnauthorized {
			return fmt.Errorf("%d %w", status, err)
		}
		return nil
	})
	if !strings.Contains(made.Log, `serving version "sdk"`) {
		t.Errorf("log %q", made.Log)
	}
	m.cli(m.in("trainer", "ml", "online-endpoint", "delete", "-n", "sdk-endpoint", "--yes")...)
	m.cli(m.in("trainer", "ml", "compute", "detach", "-n", "sdk-compute", "--yes")...)
}
