package devcluster

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestSweep(t *testing.T) {
	tmp := t.TempDir()
	self, err := startTime(os.Getpid())
	if err != nil {
		t.Skip(err)
	}
	dead := record{Name: "etcd", PID: os.Getpid(), Started: self + 1}
	alive := record{Name: "etcd", PID: os.Getpid(), Started: self}
	for name, tt := range map[string]struct {
		processes []record
		age       time.Duration
		prefix    string
		swept     bool
	}{
		"killed":   {[]record{dead}, time.Hour, tempPrefix, true},
		"running":  {[]record{dead, alive}, time.Hour, tempPrefix, false},
		"starting": {nil, time.Second, tempPrefix, false},
		"named":    {[]record{dead}, time.Hour, "mine-", false}, // a folder of the caller's
	} {
		dir := filepath.Join(tmp, tt.prefix+name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(state{ID: "sweep-" + name, Boot: bootID(), Processes: tt.processes})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, stateFile)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-tt.age)
		if err := os.Chtimes(file, then, then); err != nil {
			t.Fatal(err)
		}
		sweep(t.Context(), tmp)
		if _, err := os.Stat(dir); os.IsNotExist(err) != tt.swept {
			t.Errorf("%s: after sweep: %v, want swept %t", name, err, tt.swept)
		}
	}
}
