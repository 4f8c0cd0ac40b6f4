package up

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/devcluster"
)

func TestPlanStopsBeforeBuildingWhenSomethingIsMissing(t *testing.T) {
	p := &plan{Folder: "/somewhere", Build: true}
	p.check(resources{disk: 1 << 30, memory: 1 << 30})
	err := p.err()
	if err == nil || !strings.Contains(err.Error(), "disk: 1.0 GiB free at /somewhere, 4.6 GiB needed") || !strings.Contains(err.Error(), "memory: 1.0 GiB free, 3.0 GiB needed") {
		t.Errorf("got %v", err)
	}
	p = &plan{Folder: "/somewhere"}
	p.check(resources{disk: 1 << 30, memory: 1 << 30})
	p.check(resources{})
	if err := p.err(); err != nil {
		t.Errorf("enough, or unknown, must not stop: %v", err)
	}
}

// What would fail must fail before an earlier run is removed for it.
func TestPlanSaysWhatBecomesOfAnEarlierRun(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, marker), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	_, err := begin(t.Context(), Options{Dir: dir, Nodes: devcluster.MaxNodes + 1, Devcluster: dir, Out: &out}, false)
	if err == nil || !strings.Contains(err.Error(), "nodes: 4 were asked for, there may be 3") {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(out.String(), "what an earlier run left there is stopped and removed first") {
		t.Errorf("the plan says\n%s", &out)
	}
	if _, err := os.Stat(filepath.Join(dir, marker)); err != nil {
		t.Error("the earlier run was removed for nothing")
	}
}

func TestTellerShowsCommandResultAndTime(t *testing.T) {
	clock := time.Unix(0, 0)
	var out strings.Builder
	tell := &teller{out: &out, now: func() time.Time { clock = clock.Add(750 * time.Millisecond); return clock }}
	if err := tell.step("The service asks", "kubectl get pods", func() (verdict, error) { return verdict{false, "403\nno binding"}, nil }); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("no server")
	if err := tell.step("Again", "", func() (verdict, error) { return verdict{}, broken }); !errors.Is(err, broken) {
		t.Errorf("got %v, want the step's own error", err)
	}
	want := "\n 1. The service asks\n    $ kubectl get pods\n    refused 403\n    no binding (750 ms)\n\n 2. Again\n    failed: no server\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &out, want)
	}
}

// A step that takes long says so on a terminal, and nothing of that stays.
func TestTellerShowsThatAStepGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		tell := &teller{out: &out, now: time.Now, live: true}
		said := ""
		if err := tell.step("It builds", "", func() (verdict, error) {
			time.Sleep(2500 * time.Millisecond)
			said = out.String()
			tell.mu.Lock()
			tell.doing = "compiling"
			tell.mu.Unlock()
			time.Sleep(2 * time.Second)
			return verdict{true, ""}, nil
		}); err != nil {
			t.Fatal(err)
		}
		if said != "\n 1. It builds\n" {
			t.Errorf("after 2.5 s: %q", said)
		}
		if !strings.Contains(out.String(), "\r    … 4 s  compiling ") || !strings.HasSuffix(out.String(), "\r"+strings.Repeat(" ", 79)+"\r    ok (4.5 s)\n") {
			t.Errorf("%q", out.String())
		}
	})
}

func TestMachineFiguresAreReal(t *testing.T) {
	if memoryFree() == 0 && diskFree("/") == 0 {
		t.Skip("this system says neither")
	}
	if d := diskFree("/no/such/folder/at/all"); d != diskFree("/") && d == 0 {
		t.Errorf("disk of a folder that does not exist yet: %d", d)
	}
}
