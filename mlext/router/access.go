package router

import (
	"context"
	"encoding/json"
	"io"
	"strconv"
	"sync"
	"time"
)

// access writes one line of JSON per request. Requests leave theirs in memory; a
// goroutine writes what has gathered, so that none waits for the log, and drops
// lines, and counts them, when nobody reads it. Bodies, credentials and queries
// are in no line.
type access struct {
	out io.Writer
	now func() time.Time

	mu      sync.Mutex // guards what follows
	buf     []byte
	spare   []byte
	dropped int
}

// entry is what is known of a request when it is over.
type entry struct {
	began               time.Time
	took, waited        time.Duration
	status              int
	endpoint, workspace string
	deployment, client  string
	requestID, clientID string
	failure             string
	model               int // what the model server answered
	read, written       int64
}

const (
	accessEvery = 100 * time.Millisecond
	maxAccess   = 4 << 20
)

func (a *access) write(e *entry) {
	if a.out == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.buf) > maxAccess {
		a.dropped++
		return
	}
	b := a.buf
	b = append(b, `{"time":"`...)
	b = e.began.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","msg":"scored","status":`...)
	b = strconv.AppendInt(b, int64(e.status), 10)
	b = append(b, `,"ms":`...)
	b = strconv.AppendFloat(b, e.took.Seconds()*1000, 'f', 3, 64)
	b = append(b, `,"queue_ms":`...)
	b = strconv.AppendFloat(b, e.waited.Seconds()*1000, 'f', 3, 64)
	for _, f := range [...]struct{ name, value string }{{"request_id", e.requestID}, {"client_request_id", e.clientID}, {"endpoint", e.endpoint},
		{"deployment", e.deployment}, {"workspace", e.workspace}, {"client", e.client}, {"failure", e.failure}} {
		if f.value != "" {
			b = append(b, `,"`...)
			b = append(b, f.name...)
			b = append(b, `":`...)
			b = appendText(b, f.value)
		}
	}
	for _, f := range [...]struct {
		name  string
		value int64
	}{{"model_status", int64(e.model)}, {"read", e.read}, {"written", e.written}} {
		if f.value != 0 {
			b = append(b, `,"`...)
			b = append(b, f.name...)
			b = append(b, `":`...)
			b = strconv.AppendInt(b, f.value, 10)
		}
	}
	a.buf = append(b, '}', '\n')
}

// appendText writes a JSON string.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			q, err := json.Marshal(s)
			if err != nil {
				q = []byte(`""`) // a string encodes
			}
			return append(b, q...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// run writes until ctx ends, and then what is left.
func (a *access) run(ctx context.Context) {
	tick := time.NewTicker(accessEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			a.flush()
			return
		case <-tick.C:
			a.flush()
		}
	}
}

func (a *access) flush() {
	a.mu.Lock()
	out, dropped := a.buf, a.dropped
	a.buf, a.spare, a.dropped = a.spare[:0], nil, 0
	a.mu.Unlock()
	if dropped > 0 {
		out = append(out, `{"time":"`...)
		out = a.now().UTC().AppendFormat(out, time.RFC3339Nano)
		out = append(out, `","level":"WARN","msg":"requests not logged","count":`...)
		out = append(strconv.AppendInt(out, int64(dropped), 10), '}', '\n')
	}
	if len(out) > 0 {
		_, _ = a.out.Write(out) // nobody reads the log: nothing to do
	}
	a.mu.Lock()
	a.spare = out[:0]
	a.mu.Unlock()
}
