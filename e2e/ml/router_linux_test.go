package ml

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
)

// routers: three routers share the replicas of a deployment that is replaced again
// and again while the router that hands out slots ends. Of all requests none is
// lost. SALLYPORT_TEST_REQUESTS is how many there are.
func (m *ml) routers(s *scorer) {
	total := int64(1_000)
	if n, err := strconv.ParseInt(os.Getenv("SALLYPORT_TEST_REQUESTS"), 10, 64); err == nil && n > 0 {
		total = n
	}
	router := []string{"deployment/" + mlext.RouterAccount, "-n", wire.Namespace}
	m.kubectl(append([]string{"scale", "--replicas=3"}, router...)...)
	m.kubectl(append([]string{"rollout", "status", "--timeout=" + patience.String()}, router...)...)
	var asked atomic.Int64
	var mu sync.Mutex
	var lost []string
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for asked.Add(1) <= total {
				if status, version, err := s.score(m.t.Context(), s.key, "green"); err != nil || status != http.StatusOK {
					mu.Lock()
					lost = append(lost, fmt.Sprintf("%d %s %v", status, version, err))
					mu.Unlock()
				}
			}
		})
	}
	lead := m.kubectl("get", "lease", "-n", wire.Namespace, mlext.RouterLease, "-o", "jsonpath={.spec.holderIdentity}")
	m.kubectl("delete", "pod", "-n", wire.Namespace, lead, "--wait=false")
	rolls := 0
	for rolls == 0 || asked.Load() < total {
		rolls++
		m.cli(m.served("update", "green", "--set", fmt.Sprintf("environment_variables.ROLL=%d", rolls), "-o", "none")...)
	}
	eventually(m.t, "another router hands out slots", func(ctx context.Context) error {
		now, err := m.Cluster.Kubectl(ctx, "get", "lease", "-n", wire.Namespace, mlext.RouterLease, "-o", "jsonpath={.spec.holderIdentity}")
		if now = strings.TrimSpace(now); err == nil && (now == lead || now == "") {
			err = fmt.Errorf("it is %q", now)
		}
		return err
	})
	wg.Wait()
	if len(lost) > 0 {
		m.t.Errorf("%d of %d requests were lost in %d rolls, such as %s", len(lost), total, rolls, lost[0])
	}
	m.t.Logf("%d requests, %d rolls", total, rolls)
	m.kubectl(append([]string{"scale", "--replicas=1"}, router...)...)
	eventually(m.t, "one router is left", func(ctx context.Context) error {
		out, err := m.Cluster.Kubectl(ctx, "get", "pods", "-n", wire.Namespace, "-l", "app.kubernetes.io/name="+mlext.RouterAccount, "-o", "name")
		if err == nil && len(strings.Fields(out)) != 1 {
			err = fmt.Errorf("there are %s", out)
		}
		return err
	})
	s.http.CloseIdleConnections()
}
