// Command bench compares ways to reach an API server, side by side and in one
// run: directly, through a bare two-hop relay that checks nothing (the floor
// of Sallyport's design), and through others that are named on the command
// line or in contenders.go.
//
// It owns the stub that stands in for an API server, the bare relay, the load
// generator and the arithmetic. It does not own what it measures: Sallyport's
// binaries are started as they are, and never changed for it.
//
// Every part is a process of its own; this binary plays each of them:
//
//	bench                run the comparison
//	bench backend ...    the API server's stand-in
//	bench gateway ...    the relay's outer half
//	bench agent ...      the relay's inner half
//	bench load ...       one round of load
//	bench keep ...       the keeper of a program that is not this one
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	roles := map[string]func(context.Context, []string, io.Writer) error{
		"backend": runBackend,
		"gateway": runGateway,
		"agent":   runAgent,
		"load":    runLoad,
		"keep":    runKeep,
	}
	if len(args) > 0 {
		if role, ok := roles[args[0]]; ok {
			return role(ctx, args[1:], out)
		}
	}
	return compare(ctx, args, out)
}

// options are the flags of a comparison.
type options struct {
	rounds      int
	duration    time.Duration
	concurrency []int
	conns       int
	path        string
	only        string
	json        bool
	together    bool
	api         string     // "real" or "stub"
	source      string     // a checkout of Sallyport
	server      external   // an API server to use instead of the stub
	externals   []external // more contenders
}

func parse(args []string, out io.Writer) (options, error) {
	o := options{concurrency: []int{1, 64}}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(out)
	f.IntVar(&o.rounds, "rounds", 5, "rounds; in each, every contender has its turn, in another order")
	f.DurationVar(&o.duration, "duration", 2*time.Second, "measured time of a turn")
	f.IntVar(&o.conns, "conns", 2, "tunnel connections of a relay (Sallyport's default is 2)")
	f.StringVar(&o.path, "path", benchPath, "what is fetched")
	f.StringVar(&o.only, "only", "direct,bare relay,sallyport", "comma-separated names of the contenders to run, besides those of -contender; tunnel is one more")
	f.StringVar(&o.api, "api", apiStub, "the API server of all contenders: real, or stub (a real one with a stub before it that answers what is measured)")
	f.StringVar(&o.source, "source", "..", "the checkout of Sallyport to build")
	f.BoolVar(&o.together, "together", false, "load all contenders at once: rates say little then, but whatever else the machine does meets all alike, so CPU per request is compared best")
	f.BoolVar(&o.json, "json", false, "print the results as JSON too")
	f.Func("concurrency", "comma-separated numbers of callers (default 1,64)", func(s string) error {
		o.concurrency = nil
		for field := range strings.SplitSeq(s, ",") {
			var n int
			if _, err := fmt.Sscan(field, &n); err != nil || n < 1 {
				return fmt.Errorf("%q is not a number of callers", field)
			}
			o.concurrency = append(o.concurrency, n)
		}
		return nil
	})
	f.Func("server", "use this API server instead of the stub: url=URL,ca=FILE,token=FILE[,pid=NAME:PID]", func(s string) (err error) {
		o.server, err = parseExternal("direct", s)
		return err
	})
	f.Func("contender", "one more: NAME=url=URL,ca=FILE,token=FILE[,path=PATH][,pid=NAME:PID]...", func(s string) error {
		name, rest, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("want NAME=url=...")
		}
		e, err := parseExternal(name, rest)
		o.externals = append(o.externals, e)
		return err
	})
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unknown argument %q", f.Arg(0))
	}
	if o.rounds < 1 || o.duration <= 0 || o.conns < 1 {
		return o, errors.New("rounds, duration and conns must be positive")
	}
	if o.api != apiReal && o.api != apiStub {
		return o, fmt.Errorf("-api %q: want %s or %s", o.api, apiReal, apiStub)
	}
	return o, nil
}

// compare runs all rounds and prints the table.
func compare(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args, out)
	if err != nil {
		return err
	}
	w, err := newWorld(ctx, o)
	if err != nil {
		return err
	}
	defer w.close()
	fmt.Fprintln(os.Stderr, "starting", o.only)
	contenders, err := w.start(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s\n%s\n%d rounds of %v, path %s\n", machine(), w.backend, o.rounds, o.duration, o.path)
	idle, err := w.idle(ctx, contenders)
	if err != nil {
		return err
	}
	printIdle(out, contenders, idle)
	results := newResults(contenders, o.concurrency)
	if err := w.rounds(ctx, contenders, results); err != nil {
		return err
	}
	results.print(out)
	if o.json {
		return json.NewEncoder(out).Encode(results.summary())
	}
	return nil
}

// rounds measures every contender in every round, one after the other in
// rotating order, or all at once.
func (w *world) rounds(ctx context.Context, contenders []contender, results *results) error {
	for round := range w.o.rounds {
		for _, callers := range w.o.concurrency {
			turns, errs := make([]turn, len(contenders)), make([]error, len(contenders))
			var running sync.WaitGroup
			for i := range contenders {
				n := (i + round) % len(contenders)
				run := func() { turns[n], errs[n] = w.turn(ctx, contenders[n], callers) }
				if w.o.together {
					running.Go(run)
					continue
				}
				if run(); errs[n] != nil {
					break
				}
			}
			running.Wait()
			for i, c := range contenders {
				if errs[i] != nil {
					return fmt.Errorf("round %d, %s with %d callers: %w", round+1, c.name, callers, errs[i])
				}
			}
			for i, c := range contenders {
				results.add(c, callers, turns[i])
				fmt.Fprintf(os.Stderr, "round %d/%d  %-10s %3d callers  %8.0f req/s\n", round+1, w.o.rounds, c.name, callers, turns[i].rate())
			}
		}
	}
	return nil
}
