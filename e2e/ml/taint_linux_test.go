package ml

import (
	"strings"
	"testing"

	"github.com/sallyport/sallyport/mlext"
)

// A node that is kept for a workspace takes its jobs; one that is kept for another
// does not, and the job says so.
func TestJobsTolerateTheirNodes(t *testing.T) {
	m := start(t)
	m.afterwards("the nodes", m.mendCluster)
	taint := func(key, value string) {
		m.kubectl("taint", "nodes", "--all", "--overwrite", key+"="+value+":NoSchedule")
	}
	taint(mlext.TaintAll, mlext.TaintValue)
	taint(mlext.TaintWorkload, mlext.TaintValue)
	taint(mlext.TaintGroup, strings.ToLower(m.GroupName()))
	taint(mlext.TaintWorkspace, "trainer")
	taint(mlext.TaintCompute, "k8s")
	m.submit("at-home", "/train -steps 100", "")
	m.until("at-home", "Completed", "")

	taint(mlext.TaintWorkspace, "another")
	m.submit("elsewhere-kept", "/train -steps 100", "")
	if s := m.until("elsewhere-kept", "Queued", "untolerated taint"); s.code != "PodUnschedulable" {
		t.Errorf("job %+v", s)
	}
	taint(mlext.TaintWorkspace, "trainer")
	m.until("elsewhere-kept", "Completed", "")
}
