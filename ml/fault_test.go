package ml

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/store"
)

// Whatever stands between a job and its cluster is named, with its cause and
// what to type next; and the job goes on when it is gone.
func TestWhatStandsInAJobsWayIsNamed(t *testing.T) {
	says := func(code int, body string) func(string) (int, string) {
		return func(path string) (int, string) {
			if !strings.HasPrefix(path, "/jobs") {
				return 0, ""
			}
			return code, body
		}
	}
	own := func(status int, code string) func(string) (int, string) {
		return says(status, fmt.Sprintf(`{"code":%q,"message":"it is so"}`, code))
	}
	for _, fault := range []struct {
		refuse              func(string) (int, string)
		state, code, cause  string
		next                string
		whileItRuns, passes bool
	}{
		{says(503, status("no agent holds a tunnel for the cluster", "")), notStarted, codeNotReachable, "no agent holds a tunnel", "sallyport cluster status", true, true},
		{says(502, "bad gateway"), notStarted, codeNotReachable, "something in between answered 502", "sallyport cluster status", true, true},
		{says(503, status("no endpoints available for service", "")), notStarted, codeNoService, "does not answer", "kubectl get pods -n azureml", true, true},
		{says(503, status("error trying to reach service: dial tcp: connect: no route to host", "")), notStarted, codeNoService, "does not answer", "kubectl get pods -n azureml", true, true},
		{says(403, status("services is forbidden", "")), notStarted, codeUnauthorized, "services is forbidden", "rolebinding list", true, true},
		{says(401, status("the token has expired", "")), notStarted, codeUnauthorized, "the token has expired", "rolebinding list", true, true},
		{says(404, status("services not found", "services")), wire.Failed, codeNoExtension, "is not installed", "ml extension manifest", true, false},
		{own(503, wire.OperatorSilent), notStarted, wire.OperatorSilent, "it is so", "kubectl get pods -n azureml", true, true},
		{own(409, wire.TrainingNotEnabled), wire.Failed, wire.TrainingNotEnabled, "it is so", "enableTraining=True", false, false},
		{own(409, wire.NamespaceNotFound), wire.Failed, wire.NamespaceNotFound, "it is so", "kubectl create namespace", false, false},
	} {
		t.Run(fault.code, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t).scene()
			w.ml.silence = 0
			expect := func(job, state string) {
				t.Helper()
				r := w.becomes(job, "properties.properties.statusCode", fault.code)
				reason, _ := r.at("properties.properties.statusReason").(string)
				next, _ := r.at("properties.properties.statusCommand").(string)
				if r.at("properties.status") != state || !strings.Contains(reason, fault.cause) || !strings.Contains(next, fault.next) {
					t.Errorf("%v: %q, next %q, want %s", r.at("properties.status"), reason, next, state)
				}
			}
			w.must(201, "PUT", workspace+"/jobs/runs", command())
			w.becomes(workspace+"/jobs/runs", "properties.status", wire.Queued)
			running := w.privateOf(workspace + "/jobs/runs").Job.UID
			w.tell(running, wire.Status{State: wire.Running})
			w.becomes(workspace+"/jobs/runs", "properties.status", wire.Running)
			w.away(fault.refuse)
			w.must(201, "PUT", workspace+"/jobs/new", command())
			expect(workspace+"/jobs/new", fault.state)
			if fault.whileItRuns {
				w.becomes(workspace+"/jobs/runs", "properties.status", notResponding)
				expect(workspace+"/jobs/runs", notResponding)
			}
			w.away(nil)
			if fault.passes {
				w.becomes(workspace+"/jobs/new", "properties.status", wire.Queued)
			}
			if fault.whileItRuns {
				r := w.becomes(workspace+"/jobs/runs", "properties.status", wire.Running)
				if r.at("properties.properties.statusCode") != nil {
					t.Errorf("it runs and has %v", r.body)
				}
			}
		})
	}
}

// A job's end that was asked for without access comes when there is access.
func TestACancelIsNotForgotten(t *testing.T) {
	for name, started := range map[string]bool{"one that runs": true, "one that was never submitted": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t).scene()
			job := workspace + "/jobs/j1"
			if !started {
				w.away(func(string) (int, string) { return 503, status("no agent", "") })
			}
			w.must(201, "PUT", job, command())
			if !started {
				w.becomes(job, "properties.properties.statusCode", codeNotReachable)
				w.must(202, "POST", job+"/cancel", nil)
				w.becomes(job, "properties.status", wire.Canceled)
				return
			}
			w.becomes(job, "properties.status", wire.Queued)
			uid := w.privateOf(job).Job.UID
			w.unbind()
			w.becomes(job, "properties.status", notResponding)
			op := w.end(w.must(202, "POST", job+"/cancel", nil))
			if op.Problem == nil || op.Problem.Code != codeNoBinding || !strings.Contains(op.Problem.Message, "canceled as soon as") || hint(op.Problem) == "" {
				t.Errorf("operation %+v", op)
			}
			if r := w.must(200, "GET", job, nil); r.at("properties.status") != notResponding {
				t.Errorf("job %v", r.body)
			}
			w.away(nil)
			w.bind()
			w.becomes(job, "properties.status", wire.Canceled)
			if !w.locked(func() bool { return w.canceled[uid] }) {
				t.Error("the extension was not told")
			}
		})
	}
}

// What is removed while the cluster is away is gone at once, what is left is
// said, and the cluster is told when it is back.
func TestARemovalIsNotForgotten(t *testing.T) {
	for name, leave := range map[string]func(*world){
		"unbound": func(w *world) { w.unbind() },
		"away":    func(w *world) { w.away(func(string) (int, string) { return 503, status("no agent", "") }) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t).scene()
			job, compute := workspace+"/jobs/j1", workspace+"/computes/k8s"
			w.must(201, "PUT", job, command())
			w.becomes(job, "properties.status", wire.Queued)
			w.tell(w.privateOf(job).Job.UID, wire.Status{State: wire.Completed})
			w.becomes(job, "properties.status", wire.Completed)
			leave(w)
			for _, call := range []string{job, compute + "?underlyingResourceAction=Detach"} {
				op := w.end(w.must(202, "DELETE", call, nil))
				if op.Status != store.OperationSucceeded || !strings.Contains(op.Reason, "stays until") || !strings.Contains(op.Reason, "cluster 'c'") {
					t.Errorf("%s: operation %+v", call, op)
				}
			}
			gone(t, w, job)
			gone(t, w, compute)
			if !w.locked(func() bool { return len(w.jobs) == 1 && len(w.computes) == 1 }) {
				t.Error("the extension was told")
			}
			w.away(nil)
			if name == "unbound" {
				w.bind()
			}
			w.until("the extension is told", func() bool { return w.locked(func() bool { return len(w.jobs) == 0 && len(w.computes) == 0 }) })
			w.until("nothing is kept of it", func() bool {
				left, _, err := store.List[store.Provided](t.Context(), w.st, store.ProvidedKey(workspace)+"/"+removals+"/")
				return err == nil && len(left) == 0
			})
		})
	}
}

// What is removed while its PUT is on its way to the cluster is not left there,
// whichever of the two comes first.
func TestALatePutIsForgotten(t *testing.T) {
	job := workspace + "/jobs/j1"
	for kind, c := range map[string]struct {
		put    func(w *world)
		remove string
		left   func(w *world) int
	}{
		"computes": {func(w *world) { w.must(201, "PUT", workspace+"/computes/other", kubernetes("default")) },
			workspace + "/computes/other?underlyingResourceAction=Detach", func(w *world) int { return len(w.computes) - 1 }},
		"jobs":        {func(w *world) { w.must(201, "PUT", job, command()) }, job, func(w *world) int { return len(w.jobs) }},
		"endpoints":   {func(w *world) { w.must(201, "PUT", fraud, kubernetesEndpoint()) }, fraud, func(w *world) int { return len(w.endpoints) }},
		"deployments": {func(w *world) { w.must(201, "PUT", blue, kubernetesDeployment()) }, blue, func(w *world) int { return len(w.servers) }},
		"deployments of an endpoint": {func(w *world) { w.must(201, "PUT", blue, kubernetesDeployment()) }, fraud,
			func(w *world) int { return len(w.servers) + len(w.endpoints) }},
	} {
		for _, away := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s away=%v", kind, away), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t).scene()
				at, _, _ := strings.Cut(kind, " ")
				if at == "deployments" {
					w.must(201, "PUT", fraud, kubernetesEndpoint())
					w.becomes(fraud, "properties.provisioningState", arm.Succeeded)
				}
				sent, comes := make(chan struct{}), make(chan struct{})
				arrive := sync.OnceFunc(func() { close(comes) })
				t.Cleanup(arrive)
				w.late.Store(&latePut{is: func(path string) bool { return strings.HasPrefix(path, "/"+at+"/") && strings.Count(path, "/") == 2 }, sent: sync.OnceFunc(func() { close(sent) }), comes: comes})
				c.put(w)
				<-sent
				w.end(w.must(202, "DELETE", c.remove, nil))
				if away {
					w.away(func(path string) (int, string) {
						if strings.HasPrefix(path, "/"+at) {
							return 503, status("no agent", "")
						}
						return 0, ""
					})
				}
				arrive()
				if away {
					w.until("the removal is kept", func() bool { return removalsOf(w) == 1 })
					w.away(nil)
				}
				w.until("nothing works on it", func() bool {
					all, _, err := store.List[store.Operation](t.Context(), w.st, store.OperationPrefix)
					if err != nil {
						t.Fatal(err)
					}
					return !slices.ContainsFunc(all, func(o store.Item[store.Operation]) bool { return !o.Value.Done() })
				})
				w.locked(func() bool {
					if n := c.left(w); n != 0 {
						t.Errorf("%d are left in the cluster", n)
					}
					return true
				})
				if n := removalsOf(w); n != 0 {
					t.Errorf("%d removals are left", n)
				}
			})
		}
	}
}

func removalsOf(w *world) int {
	w.t.Helper()
	left, _, err := store.List[store.Provided](w.t.Context(), w.st, store.ProvidedKey(workspace)+"/"+removals+"/")
	if err != nil {
		w.t.Fatal(err)
	}
	return len(left)
}

// A compute is not detached below what is put on it at the same moment.
func TestNothingIsPutOnAComputeThatGoes(t *testing.T) {
	w := newWorld(t).scene()
	compute := workspace + "/computes/k8s"
	begun := func() *call {
		id, err := arm.ParseID(compute)
		if err != nil {
			t.Fatal(err)
		}
		source, err := store.Get[store.Source](t.Context(), w.st, store.ResourceKey(workspace))
		if err != nil {
			t.Fatal(err)
		}
		return &call{ML: w.ml, Call: &arm.Call{ID: id}, ctx: t.Context(), workspace: source}
	}
	// Detaching has looked, and then something is put on it.
	detach := begun()
	item, err := detach.find()
	if err != nil {
		t.Fatal(err)
	}
	_, noJobs, err := detach.jobsOn(&item.Value)
	if err != nil {
		t.Fatal(err)
	}
	_, noEndpoints, err := detach.servedOn(&item.Value)
	if err != nil {
		t.Fatal(err)
	}
	w.must(201, "PUT", workspace+"/jobs/j", command())
	if err := detach.commit(noJobs); !errors.Is(err, store.ErrConflict) {
		t.Errorf("detached below a job: %v", err)
	}
	w.must(201, "PUT", fraud, kubernetesEndpoint())
	if err := detach.commit(noEndpoints); !errors.Is(err, store.ErrConflict) {
		t.Errorf("detached below an endpoint: %v", err)
	}
	// Something to put on it has looked, and then it is detached.
	put := begun()
	if _, err := put.workspaceCompute("x", compute); err != nil {
		t.Fatal(err)
	}
	going := item.Value
	going.State = arm.Deleting
	w.put(going)
	if err := put.commit(); !errors.Is(err, store.ErrConflict) {
		t.Errorf("put on a compute that goes: %v", err)
	}
}

func signingKey(id string) store.SigningKey {
	return store.SigningKey{KeyID: id, Public: json.RawMessage(`{"kid":"` + id + `"}`), GoneFrom: time.Now().Add(time.Hour)}
}

// A key that was revoked is not believed by extensions any longer, as soon as
// they can be told.
func TestARevokedKeyIsHandedOverAtOnce(t *testing.T) {
	w := newWorld(t)
	first, second := signingKey("first"), signingKey("second")
	w.put(first)
	w.put(second)
	w.scene()
	has := func(kids ...string) func() bool {
		return func() bool {
			return w.locked(func() bool {
				if len(w.keys) == 0 {
					return false
				}
				var set struct{ Keys []struct{ Kid string } }
				if json.Unmarshal(w.keys[len(w.keys)-1].Keys, &set) != nil || len(set.Keys) != len(kids) {
					return false
				}
				for i, k := range set.Keys {
					if k.Kid != kids[i] {
						return false
					}
				}
				return true
			})
		}
	}
	w.until("both keys are there", has("first", "second"))
	first.Revoked = true
	w.put(first)
	w.until("the revoked key is gone", has("second"))

	w.away(func(string) (int, string) { return 503, status("no agent", "") })
	second.Revoked = true
	third := signingKey("third")
	w.put(third)
	w.put(second)
	w.away(nil)
	w.until("a cluster that was away has them too", has("third"))
	if !w.locked(func() bool {
		for i := 1; i < len(w.keys); i++ {
			if w.keys[i].Number <= w.keys[i-1].Number {
				return false
			}
		}
		return true
	}) {
		t.Errorf("numbers do not grow: %+v", w.keys)
	}
}

// An extension that was installed anew by an older manifest gets the keys that it
// had at the next attachment.
func TestAnExtensionThatFellBehindGetsTheKeysAgain(t *testing.T) {
	w := newWorld(t)
	w.put(signingKey("first"))
	w.scene()
	w.until("the keys are there", func() bool { return w.locked(func() bool { return len(w.keys) > 0 }) })
	w.mu.Lock()
	w.keys = nil
	w.mu.Unlock()
	w.must(200, "PUT", workspace+"/computes/k8s", kubernetes("default"))
	w.becomes(workspace+"/computes/k8s", "properties.provisioningState", arm.Succeeded)
	if !w.locked(func() bool { return len(w.keys) == 1 }) {
		t.Errorf("keys %+v", w.keys)
	}
}

// A token whose key was revoked before its time is replaced, not sent again.
func TestATokenThatIsNotTakenIsReplaced(t *testing.T) {
	w := newWorld(t).scene()
	w.must(201, "PUT", workspace+"/jobs/j1", command())
	w.becomes(workspace+"/jobs/j1", "properties.status", wire.Queued)
	w.mu.Lock()
	w.tokens++
	w.wake()
	w.mu.Unlock()
	w.must(201, "PUT", workspace+"/jobs/j2", command())
	w.becomes(workspace+"/jobs/j2", "properties.status", wire.Queued)
	w.must(200, "PUT", workspace+"/computes/k8s", kubernetes("default"))
	w.becomes(workspace+"/computes/k8s", "properties.provisioningState", arm.Succeeded)
}
