package ml

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/mlext/wire"
)

const (
	// readWithin is how old a line is, at most, when it can be read.
	readWithin = 2 * time.Second
	// starved is what a machine with other work adds to what is measured.
	starved = 2 * time.Second
)

// A job says what time it is, several times a second; whoever follows its log
// reads it soon.
func TestALogLineIsReadSoon(t *testing.T) {
	m := start(t)
	m.submitIn(toolImage, "clock", `'while true; do date; sleep 0.2; done'`, "")
	m.until("clock", "Running", "")
	arm, err := m.ARM()
	m.must(err)
	var offset int64
	var ages []time.Duration
	for first := true; len(ages) < 50; {
		res, err := arm.Do(t.Context(), client.Request{Method: http.MethodPost, Path: m.workspaceID("trainer") + "/jobs/clock/getLogs", Version: mlVersion,
			Body: map[string]any{"file": "node-0/attempt-0", "offset": offset, "wait": wire.MaxWait}})
		m.must(err)
		var part wire.LogPart
		m.must(json.Unmarshal(res.Body, &part))
		if part.Done {
			t.Fatal("the log ends while the job runs")
		}
		offset = part.Next
		for line := range strings.Lines(part.Content) {
			written, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(line))
			if err == nil && !first { // what was there before anybody asked is as old as it is
				ages = append(ages, time.Since(written))
			}
		}
		first = first && part.Content == ""
	}
	slices.Sort(ages)
	t.Logf("%d lines were read after: p50 %s, p90 %s, longest %s", len(ages), ages[len(ages)/2], ages[len(ages)*9/10], ages[len(ages)-1])
	if longest := ages[len(ages)-1]; longest > readWithin+starved {
		t.Errorf("a line was read %s after it was written: the bound is %s", longest, readWithin)
	}
	m.cli(m.in("trainer", "ml", "job", "cancel", "-n", "clock")...)
}
