package operation_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
)

// childDir, when set, makes the test binary a server that starts an operation
// and never finishes it.
const childDir = "SALLYPORT_TEST_OPERATION_DIR"

func child() {
	fail := func(err error) { fmt.Println("error", err); os.Exit(1) }
	if endpoint := os.Getenv(childEndpoint); endpoint != "" {
		fail(externalChild(endpoint))
	}
	dir := os.Getenv(childDir)
	if dir == "" {
		return
	}
	ctx := context.Background()
	s, err := store.Open(ctx, store.Config{Dir: dir, Log: quiet})
	if err != nil {
		fail(err)
	}
	op, err := operation.NewRecord("k", "", "", "", "", "from the child")
	if err != nil {
		fail(err)
	}
	if _, err := s.Commit(ctx, store.Create(op)); err != nil {
		fail(err)
	}
	fail(operation.New(operation.Config{Store: s, Handlers: map[string]operation.Handler{
		"k": func(_ context.Context, op *store.Operation, progress func(string)) error {
			progress("half done")
			fmt.Println("running", op.ID)
			select {}
		},
	}}).Run(ctx))
}

// A server is killed in the middle of an operation; after its restart the
// operation is finished, without waiting for the dead server's lease.
func TestFinishedAfterKill(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	id, running := strings.CutPrefix(strings.TrimSpace(line), "running ")
	if kerr := cmd.Process.Kill(); kerr != nil {
		t.Error(kerr)
	}
	_ = cmd.Wait() // killed
	if !running {
		t.Fatalf("child said %q, %v", line, err)
	}

	s := open(t, dir)
	before := await(t, s, store.Operation{ID: id}, "it", func(store.Operation) bool { return true })
	if before.Status != store.OperationInProgress || before.Reason != "half done" {
		t.Errorf("after the kill: %+v", before)
	}
	restarted := time.Now()
	start(t, operation.Config{Store: s, Handlers: map[string]operation.Handler{
		"k": func(_ context.Context, op *store.Operation, _ func(string)) error {
			if string(op.Input) != `"from the child"` {
				return fmt.Errorf("input %s", op.Input)
			}
			return nil
		},
	}})
	if o := await(t, s, before, "end", done); o.Status != store.OperationSucceeded {
		t.Errorf("%+v", o)
	}
	if took := time.Since(restarted); took > 3*time.Second {
		t.Errorf("took %s, as if the dead server's lease still counted", took)
	}
}
