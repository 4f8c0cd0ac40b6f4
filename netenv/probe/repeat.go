package probe

import (
	"context"
	"io"
	"log/slog"
	"time"
)

// Repeater looks at a closed list again and again. Nobody asks it to: it has no
// input but its own fields.
type Repeater struct {
	Prober  Prober
	Cluster string // as the report names it
	Targets []Target
	Every   time.Duration
	// ResolvConf opens the text of /etc/resolv.conf; an error leaves the DNS
	// servers out.
	ResolvConf func() (io.ReadCloser, error)
	// Send hands a report on. A failure is logged; the next report follows.
	Send func(context.Context, Report) error
	Log  *slog.Logger
	// After is the clock; nil is time.After.
	After func(time.Duration) <-chan time.Time
}

// Run looks at once and then every so often, until ctx ends; then it returns
// ctx's error.
func (r Repeater) Run(ctx context.Context) error {
	after := r.After
	if after == nil {
		after = time.After
	}
	for {
		report := r.look(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := r.Send(ctx, report); err != nil && ctx.Err() == nil {
			r.Log.WarnContext(ctx, "probe report not sent, the next one follows", "error", err, "next", r.Every)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-after(r.Every):
		}
	}
}

func (r Repeater) look(ctx context.Context) Report {
	var conf io.Reader
	if f, err := r.ResolvConf(); err == nil {
		defer f.Close()
		conf = io.LimitReader(f, MaxReport)
	}
	report := r.Prober.Run(ctx, r.Cluster, r.Targets, conf)
	report.shorten()
	return report
}

// shorten cuts what ParseReport would refuse.
func (r *Report) shorten() {
	cut := func(s *string) {
		if len(*s) > maxText {
			*s = (*s)[:maxText]
		}
	}
	for i := range r.Names {
		cut(&r.Names[i].Error)
		if a := r.Names[i].Addresses; len(a) > MaxTargets {
			r.Names[i].Addresses = a[:MaxTargets]
		}
	}
	for i := range r.Connections {
		cut(&r.Connections[i].Error)
	}
	if len(r.DNSServers) > MaxTargets {
		r.DNSServers = r.DNSServers[:MaxTargets]
	}
}
