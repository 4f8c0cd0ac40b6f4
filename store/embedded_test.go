package store_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Every acknowledged write is there after kill -9, in the middle of writing,
// several times over; no transaction is torn.
func TestKilledWriterLosesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for round := range 3 {
		data := filepath.Join(dir, fmt.Sprint(round))
		p := startChild(t, "write", data)
		last := -1
		for want := 40 + 37*round; last < want; {
			if _, err := fmt.Sscanf(p.line(), "wrote %d", &last); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for p.lines.Scan() { // what it had said before it died
			if _, err := fmt.Sscanf(p.lines.Text(), "wrote %d", &last); err != nil {
				t.Fatal(err)
			}
		}
		p.kill()
		s := openDir(t, data)
		all, _, err := store.List[note](t.Context(), s, "/n/")
		if err != nil {
			t.Fatal(err)
		}
		// One more may have been stored without its acknowledgement.
		if got := len(all); got != 2*(last+1) && got != 2*(last+2) {
			t.Errorf("%d acknowledged, %d keys found", last+1, got)
		}
		for i := 0; i <= last; i++ {
			if all[2*i].Value.Path != fmt.Sprintf("/n/%06d", i) || all[2*i+1].Value.Path != fmt.Sprintf("/n/%06d/twin", i) {
				t.Fatalf("number %d is missing or torn: %v %v", i, all[2*i], all[2*i+1])
			}
		}
		t.Logf("%d acknowledged and found", last+1)
		commit(t, s, store.Create(note{"/n/after", ""}))
	}
}

// A directory in use is refused at once, with the holder's pid; a killed
// holder's lock and leased keys are gone.
func TestOneProcessPerDirectory(t *testing.T) {
	dir := t.TempDir()
	p := startChild(t, "hold", dir)
	if got, want := p.line(), fmt.Sprintf("holds %d", p.cmd.Process.Pid); got != want {
		t.Fatalf("%q, not %q", got, want)
	}
	start := time.Now()
	_, err := store.Open(t.Context(), store.Config{Dir: dir, Log: quiet})
	var e *trust.Error
	if !errors.As(err, &e) || e.Kind != trust.Conflict || !strings.Contains(e.Message, fmt.Sprintf("process %d", p.cmd.Process.Pid)) || e.Hint == "" {
		t.Errorf("second process: %v", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("refused after %s", took)
	}
	p.kill()
	s := openDir(t, dir)
	if _, err := store.Get[note](t.Context(), s, "/n/live"); trust.KindOf(err) != trust.NotFound {
		t.Errorf("the killed process's leased key: %v", err)
	}
	// And within one process.
	if _, err := store.Open(t.Context(), store.Config{Dir: dir, Log: quiet}); trust.KindOf(err) != trust.Conflict {
		t.Errorf("same process: %v", err)
	}
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	first := openDir(t, dir)
	rev := commit(t, first, store.Create(note{"/n/a", "text"}))
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	s := openDir(t, dir)
	t.Logf("opened in %s", time.Since(start))
	item, err := store.Get[note](t.Context(), s, "/n/a")
	if err != nil || item.Value.Text != "text" || item.Revision != rev {
		t.Errorf("%+v, %v", item, err)
	}
}

func TestWhatOpenRefuses(t *testing.T) {
	file := write(t, "file", nil)
	for name, c := range map[string]struct {
		cfg  store.Config
		kind trust.Kind
	}{
		"nothing":          {store.Config{}, trust.Invalid},
		"both":             {store.Config{Dir: "d", Endpoints: []string{"http://127.0.0.1:1"}}, trust.Invalid},
		"a file":           {store.Config{Dir: file}, trust.Invalid},
		"nobody listening": {store.Config{Endpoints: []string{"http://127.0.0.1:1"}, Timeout: 300 * time.Millisecond}, trust.Unavailable},
	} {
		c.cfg.Log = quiet
		start := time.Now()
		if _, err := store.Open(t.Context(), c.cfg); trust.KindOf(err) != c.kind {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: %s", name, took)
		}
	}
}

// The embedded store listens nowhere: no socket of this process is new.
func TestNoListener(t *testing.T) {
	before := listening(t)
	openDir(t, t.TempDir())
	for inode, what := range listening(t) {
		if before[inode] == "" {
			t.Errorf("listens: %s", what)
		}
	}
}

// listening lists this process's listening sockets by inode.
func listening(t *testing.T) map[string]string {
	t.Helper()
	mine := map[string]bool{}
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil || len(fds) == 0 {
		t.Skip("needs /proc")
	}
	for _, fd := range fds {
		if link, err := os.Readlink(fd); err == nil && strings.HasPrefix(link, "socket:[") {
			mine[strings.Trim(link, "socket:[]")] = true
		}
	}
	found := map[string]string{}
	for _, table := range []struct {
		name                string
		state, inode, fewer int
		listens             string
	}{{"tcp", 3, 9, 10, "0A"}, {"tcp6", 3, 9, 10, "0A"}, {"unix", 3, 6, 7, "00010000"}} {
		f, err := os.Open("/proc/self/net/" + table.name)
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			v := strings.Fields(lines.Text())
			if len(v) >= table.fewer && v[table.state] == table.listens && mine[v[table.inode]] {
				found[v[table.inode]] = table.name + " " + lines.Text()
			}
		}
		f.Close()
	}
	return found
}

// A nearly full disk: writes are refused with what to do, reads and watches go
// on, and with space again writes do too.
func TestNearlyFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	unmount, err := mountSmall(dir)
	if err != nil {
		t.Skipf("needs root on Linux for a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unmount(); err != nil {
			t.Error(err)
		}
	})
	s := openDir(t, filepath.Join(dir, "store"))
	commit(t, s, store.Create(note{"/n/a", ""}))
	w := s.Watch(bounded(t, 20*time.Second), "/n/", 0)
	<-w.Batches()

	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 100<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = s.Commit(t.Context(), store.Create(note{"/n/b", ""}), store.Create(note{"/n/c", ""}))
	var e *trust.Error
	if !errors.As(err, &e) || e.Kind != trust.Unavailable || !strings.Contains(e.Message, "is full") || !strings.Contains(e.Hint, "free space") {
		t.Errorf("write: %v", err)
	}
	if _, err := s.Lease(t.Context(), time.Minute); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("lease: %v", err)
	}
	all, _, err := store.List[note](t.Context(), s, "/n/")
	if err != nil || len(all) != 1 {
		t.Errorf("half written: %v, %v", all, err)
	}
	if b, ok := <-w.Batches(); !ok || len(b.Events) != 0 {
		t.Errorf("watch: %+v, %v", b, w.Err())
	}
	if _, err := s.Commit(t.Context(), store.Absent("/n/b")); err != nil {
		t.Errorf("a comparison alone: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	commit(t, s, store.Create(note{"/n/b", ""}))
}

// A write that the file system itself refuses ends the store, not the process:
// what was not stored is not acknowledged, everything acknowledged is there
// after a restart.
func TestRefusedWriteEndsTheStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := startChild(t, "fill", dir)
	line := p.line()
	if strings.Contains(line, errors.ErrUnsupported.Error()) {
		t.Skip("needs a limit on file sizes")
	}
	parts := strings.Split(line, "|")
	var acknowledged int
	if _, err := fmt.Sscanf(line, "refused %d|", &acknowledged); err != nil || len(parts) != 4 {
		t.Fatal(line)
	}
	t.Log(line)
	t.Log(p.line())
	for _, text := range parts[1:] {
		if !strings.Contains(text, "the store has stopped") || !strings.Contains(text, "file too large") {
			t.Errorf("not clear: %s", text)
		}
	}
	p.kill()
	s := openDir(t, dir)
	all, _, err := store.List[note](t.Context(), s, "/n/")
	// The last one was refused; it may have been stored whole, or not at all.
	if err != nil || len(all) != acknowledged && len(all) != acknowledged+1 {
		t.Fatalf("%d acknowledged, %d found, %v", acknowledged, len(all), err)
	}
	commit(t, s, store.Create(note{"/n/after", ""}))
}

// etcd's quota is used up: writes are refused as Unavailable, and the restart
// that gives space back clears etcd's alarm.
func TestFullStoreWorksAfterRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openDir(t, dir)
	commit(t, s, store.Put(note{"/n/a", ""}))
	if err := s.RaiseNoSpace(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := s.Commit(t.Context(), store.Put(note{"/n/b", ""}))
	var e *trust.Error
	if !errors.As(err, &e) || e.Kind != trust.Unavailable || !strings.Contains(e.Message, "quota") || e.Hint == "" {
		t.Errorf("%v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openDir(t, dir)
	commit(t, s, store.Put(note{"/n/b", ""}))
}
