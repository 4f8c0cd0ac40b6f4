package control

import (
	"slices"
	"testing"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/trust"
)

// Withdrawn acceptance takes the right away at the gateways at once; accepted
// again, it returns.
func TestWithdrawnAcceptance(t *testing.T) {
	w := newWorld(t).scene()
	a := w.runAgents(clusterPath, accepts(mlworkload, inference))
	w.finished(w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload, inference)))
	settled := func() mandate.State {
		s, err := w.control.currentState(t.Context(), a.reconciler.uid)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	a.reconciler.send(reportOn(settled(), accepts(mlworkload)))
	b := w.binding(bindingPath).Value
	if len(b.Grants) != 1 || b.Grants[0].Role != mlworkload || b.State != arm.Failed || b.Problem.Code != mandate.RoleNotAccepted || len(b.Desired) != 2 {
		t.Errorf("after inference-v1 was withdrawn: %+v", b)
	}
	a.reconciler.send(reportOn(settled(), nil))
	if b := w.binding(bindingPath).Value; len(b.Grants) != 0 {
		t.Errorf("after all was withdrawn: %v", b.Grants)
	}
	a.reconciler.send(reportOn(settled(), accepts(mlworkload, inference)))
	if b := w.binding(bindingPath).Value; len(b.Grants) != 2 || b.State != arm.Succeeded || b.Problem != nil {
		t.Errorf("after all was accepted again: %+v", b)
	}
	// A report that was overtaken changes nothing.
	old := settled()
	old.Revision--
	a.reconciler.send(reportOn(old, nil))
	if b := w.binding(bindingPath).Value; len(b.Grants) != 2 {
		t.Errorf("an old report took rights away: %v", b.Grants)
	}
	// The newest report there is, of a state that is not the newest: it takes
	// away what is not accepted, gives nothing, and says nothing of what the
	// state did not hold.
	a.stop()
	now := settled()
	w.must(201, "PUT", clusterPath+"/trustedAccessRoleBindings/b2", wants(sourcePath, mlworkload))
	a.reconciler.send(reportOn(now, accepts(mlworkload)))
	if b := w.binding(bindingPath).Value; len(b.Grants) != 1 || b.State != arm.Failed {
		t.Errorf("%+v", b)
	}
	a.reconciler.send(reportOn(now, accepts(mlworkload, inference)))
	if b := w.binding(bindingPath).Value; len(b.Grants) != 1 || b.State != arm.Failed {
		t.Errorf("a report of an old state gave a right: %+v", b)
	}
	a.reconciler.send(reportOn(settled(), accepts(mlworkload, inference)))
	if b := w.binding(bindingPath).Value; len(b.Grants) != 2 || b.State != arm.Succeeded {
		t.Errorf("%+v", b)
	}
}

// A reconciler that could not look at its cluster says nothing about what is
// accepted.
func TestAReportOfAnUnseenClusterTakesNothing(t *testing.T) {
	w := newWorld(t).scene()
	a := w.runAgents(clusterPath, accepts(mlworkload))
	w.finished(w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload)))
	a.stop()
	s, err := w.control.currentState(t.Context(), a.reconciler.uid)
	if err != nil {
		t.Fatal(err)
	}
	r := mandate.Report{Epoch: s.Epoch, Revision: s.Revision, Unseen: true, Bindings: []mandate.BindingReport{
		{UID: s.Bindings[0].UID, Problem: &mandate.Problem{Code: mandate.ApplyFailed, Message: "no route to host"}}}}
	a.reconciler.send(r)
	if b := w.binding(bindingPath).Value; len(b.Grants) != 1 || b.State != arm.Succeeded {
		t.Errorf("%+v", b)
	}
	if accepted, err := w.control.acceptedRoles(t.Context(), a.reconciler.uid); err != nil || len(accepted) != 1 {
		t.Errorf("accepted %v, %v", accepted, err)
	}
}

// A new revision of a role changes nothing until the cluster accepts it.
func TestRoleRevisions(t *testing.T) {
	w := newWorld(t).scene()
	role := subPath + "/providers/Sallyport.Access/trustedAccessRoles/Contoso.Scanner:scanners:reader"
	rule := func(verbs ...string) map[string]any {
		return props("rules", []any{map[string]any{"verbs": verbs, "apiGroups": []string{""}, "resources": []string{"pods"}}})
	}
	made := w.must(201, "PUT", role, rule("get"))
	source := groupPath + "/providers/Contoso.Scanner/scanners/s"
	w.must(200, "PUT", source, map[string]any{"identity": map[string]any{"type": "SystemAssigned"}})
	acceptance := func(verbs ...string) mandate.Accepted {
		rules := []trust.Rule{{Verbs: verbs, APIGroups: []string{""}, Resources: []string{"pods"}}}
		return mandate.Accepted{Role: "contoso.scanner/scanners/reader", Revision: trust.RevisionOf(rules), Rules: rules, Namespaces: []string{"blue"}}
	}
	a := w.runAgents(clusterPath, []mandate.Accepted{acceptance("get")})
	const name = "Contoso.Scanner/scanners/reader"
	w.finished(w.must(201, "PUT", bindingPath, wants(source, name)))
	first := w.binding(bindingPath).Value.Grants
	if len(first) != 1 || string(first[0].Revision) != made.text("properties.revision") || !slices.Equal(first[0].Namespaces, []string{"blue"}) {
		t.Fatalf("%+v", first)
	}
	w.must(200, "PUT", role, rule("get", "list"))
	if end := w.finished(w.must(201, "PUT", bindingPath, wants(source, name))); end.text("status") != "Succeeded" {
		t.Errorf("a PUT with the accepted older revision: %s", end.raw)
	}
	if b := w.binding(bindingPath).Value; !sameGrants(b.Grants, first) {
		t.Errorf("%+v", b.Grants)
	}
	// Accepted, it is taken up by itself, through the agents.
	a.accepted = []mandate.Accepted{acceptance("get"), acceptance("get", "list")}
	s, err := w.control.currentState(t.Context(), a.reconciler.uid)
	if err != nil {
		t.Fatal(err)
	}
	a.reconciler.send(reportOn(s, a.accepted))
	w.eventually("the new revision is in force", func() bool {
		b := w.binding(bindingPath).Value
		return b.State == arm.Succeeded && len(b.Grants) == 1 && b.Grants[0].Revision == acceptance("get", "list").Revision
	})
	// Unpublished, it stays what the cluster accepted, and cannot be asked for.
	w.must(200, "DELETE", role, nil)
	w.must(204, "DELETE", role, nil)
	w.refused(400, arm.InvalidParameter, "PUT", bindingPath, wants(source, name))
	if b := w.binding(bindingPath).Value; len(b.Grants) != 1 || b.State != arm.Succeeded {
		t.Errorf("%+v", b)
	}
}
