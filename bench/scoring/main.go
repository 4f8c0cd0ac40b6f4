// Command scoring compares ways to a model server, side by side and in one run:
// directly, through a bare httputil.ReverseProxy, through Caddy, and through
// Sallyport's router as it is built.
//
// It owns the model server, the stand-in of an API server that tells the router
// what to score, the load generator and the arithmetic. It is a module of its own
// since it links Caddy.
//
// Every part is a process of its own; this binary plays each but the router:
//
//	scoring                run the comparison
//	scoring model          the model server
//	scoring api ...        the API server's stand-in
//	scoring reverseproxy   a bare httputil.ReverseProxy
//	scoring caddy          Caddy's reverse_proxy
//	scoring load ...       one turn of load
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "scoring:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	roles := map[string]func(context.Context, []string, io.Writer) error{
		"model": runModel, "api": runAPI, "reverseproxy": runReverseProxy, "caddy": runCaddy, "load": runLoad,
	}
	if len(args) > 0 {
		if role := roles[args[0]]; role != nil {
			return role(ctx, args[1:], out)
		}
	}
	return compare(ctx, args, out)
}

type options struct {
	rounds   int
	duration time.Duration
	callers  int
	share    float64
	at       float64
	source   string
	binary   string
	only     string
	body     int
}

const aim = 0.9

// names in the order of the report.
var names = []string{"direct", "reverseproxy", "caddy", "router"}

func compare(ctx context.Context, args []string, out io.Writer) error {
	var o options
	f := flag.NewFlagSet("scoring", flag.ContinueOnError)
	f.SetOutput(out)
	f.IntVar(&o.rounds, "rounds", 5, "rounds; in each, every contender has its turn, in another order")
	f.DurationVar(&o.duration, "duration", 3*time.Second, "measured time of a turn")
	f.IntVar(&o.callers, "callers", 64, "connections at saturation, each with one request at a time")
	f.Float64Var(&o.share, "share", 0.6, "of the slowest contender's rate, at which latency is measured")
	f.Float64Var(&o.at, "at", 5000, "requests a second at which latency is measured too; 0: not")
	f.IntVar(&o.body, "body", 1024, "bytes of a request's body")
	f.StringVar(&o.source, "source", "../..", "the checkout of Sallyport to build")
	f.StringVar(&o.binary, "sallyport-ml", "", "the router's program, when it is built already")
	f.StringVar(&o.only, "only", strings.Join(names, ","), "contenders, comma-separated")
	if err := f.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "scoring")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p := &parts{dir: dir}
	defer p.stop()
	at, err := p.start(ctx, &o)
	if err != nil {
		return err
	}
	chosen := strings.Split(o.only, ",")
	rates, rows := map[string][]float64{}, map[string]*row{}
	for _, name := range chosen {
		if at[name] == "" {
			return fmt.Errorf("there is no contender %q: %s", name, strings.Join(names, ", "))
		}
		rows[name] = &row{}
	}
	fmt.Fprintf(out, "%d rounds of %v, %d bytes, %d callers at saturation\n", o.rounds, o.duration, o.body, o.callers)
	turn := func(round int, rate float64, take func(string, result)) error {
		for i := range chosen {
			name := chosen[(i+round)%len(chosen)]
			r, err := p.load(ctx, name, at[name], &o, rate)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			take(name, r)
		}
		return nil
	}
	for round := range o.rounds {
		if err := turn(round, 0, func(name string, r result) {
			rates[name] = append(rates[name], r.Rate)
			rows[name].cpu += r.CPU / float64(o.rounds)
		}); err != nil {
			return err
		}
	}
	slowest := math.Inf(1)
	for name, r := range rates {
		slices.Sort(r)
		rows[name].rate, rows[name].low, rows[name].high = r[len(r)/2], r[0], r[len(r)-1]
		slowest = min(slowest, rows[name].rate)
	}
	reportRates(out, chosen, rows)
	for _, rate := range []float64{slowest * o.share, o.at} {
		if rate == 0 {
			continue
		}
		steady := map[string]*latency{}
		for _, name := range chosen {
			steady[name] = &latency{}
		}
		for round := range o.rounds {
			if err := turn(round, rate, func(name string, r result) {
				steady[name].times = append(steady[name].times, r.Times...)
				steady[name].rate += r.Rate / float64(o.rounds)
			}); err != nil {
				return err
			}
		}
		reportLatency(out, chosen, steady, rate, slowest)
	}
	return nil
}

// row is a contender at saturation.
type row struct {
	rate, low, high float64
	cpu             float64 // µs of the contender's own per request
}

// latency is a contender at a steady rate.
type latency struct {
	times []int32 // µs
	rate  float64 // that it kept
}

func (l *latency) quantile(q float64) float64 {
	slices.Sort(l.times)
	return float64(l.times[min(int(q*float64(len(l.times))), len(l.times)-1)]) / 1000
}

func (l *latency) mean() float64 {
	sum := 0.0
	for _, t := range l.times {
		sum += float64(t)
	}
	return sum / float64(len(l.times)) / 1000
}

func reportRates(out io.Writer, chosen []string, rows map[string]*row) {
	fmt.Fprintf(out, "\n%14s %8s %16s %10s\n", "contender", "req/s", "low..high", "CPU µs")
	best := 0.0
	for _, name := range chosen {
		r := rows[name]
		fmt.Fprintf(out, "%14s %8.0f %16s %10.0f\n", name, r.rate, fmt.Sprintf("%.0f..%.0f", r.low, r.high), r.cpu)
		if name == "reverseproxy" || name == "caddy" {
			best = max(best, r.rate)
		}
	}
	if r := rows["router"]; r != nil && best > 0 {
		verdict := "holds"
		if r.rate < aim*best {
			verdict = "missed"
		}
		fmt.Fprintf(out, "the router's rate is %.2f of the better proxy's (aim: at least %.2f, %s)\n", r.rate/best, aim, verdict)
	}
}

// kept is the part of a steady rate below which a contender did not keep it: what
// it shows then is the queue before it.
const kept = 0.97

func reportLatency(out io.Writer, chosen []string, rows map[string]*latency, rate, slowest float64) {
	fmt.Fprintf(out, "\nlatency at %.0f requests a second, %.2f of the slowest contender's rate\n", rate, rate/slowest)
	fmt.Fprintf(out, "%14s %8s %8s %8s %8s %11s %11s %11s\n", "contender", "kept", "mean ms", "p50 ms", "p99 ms", "added mean", "added p50", "added p99")
	direct := rows["direct"]
	for _, name := range chosen {
		r := rows[name]
		mean, p50, p99 := r.mean(), r.quantile(.5), r.quantile(.99)
		added := [3]string{"-", "-", "-"}
		if direct != nil && r != direct {
			added = [3]string{fmt.Sprintf("%+.2f", mean-direct.mean()), fmt.Sprintf("%+.2f", p50-direct.quantile(.5)), fmt.Sprintf("%+.2f", p99-direct.quantile(.99))}
		}
		note := ""
		if r.rate < kept*rate {
			note = "  did not keep the rate"
		}
		fmt.Fprintf(out, "%14s %8.0f %8.2f %8.2f %8.2f %11s %11s %11s%s\n", name, r.rate, mean, p50, p99, added[0], added[1], added[2], note)
	}
	if r := rows["router"]; r != nil && direct != nil {
		fmt.Fprintf(out, "AzureML claims +%d ms on average and +%d ms at p99, at 5000 requests a second; the router adds %+.2f and %+.2f\n", claimedMean, claimedP99,
			r.mean()-direct.mean(), r.quantile(.99)-direct.quantile(.99))
	}
}

// What AzureML says its router adds, in milliseconds (Azure Machine Learning,
// "Azure Machine Learning inference router and connectivity requirements").
const (
	claimedMean = 3
	claimedP99  = 15
)

// parts are the processes of a run.
type parts struct {
	dir  string
	pids map[string]int
	end  []func()
}

func (p *parts) stop() {
	for _, f := range slices.Backward(p.end) {
		f()
	}
}

// start starts everything and gives the URL of each contender.
func (p *parts) start(ctx context.Context, o *options) (map[string]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p.pids = map[string]int{}
	at := map[string]string{}
	if at["direct"], err = p.process(ctx, "direct", self, "model"); err != nil {
		return nil, err
	}
	for _, name := range []string{"reverseproxy", "caddy"} {
		if at[name], err = p.process(ctx, name, self, name, at["direct"]); err != nil {
			return nil, err
		}
	}
	if !strings.Contains(o.only, "router") {
		return at, nil
	}
	api, err := p.process(ctx, "api", self, "api", at["direct"], p.dir)
	if err != nil {
		return nil, err
	}
	if o.binary != "" {
		at["router"], err = p.router(ctx, o.binary, api)
		return at, err
	}
	binary := filepath.Join(p.dir, "sallyport-ml")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary, "./cmd/sallyport-ml")
	build.Dir, build.Stderr = o.source, os.Stderr
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if err := build.Run(); err != nil {
		return nil, fmt.Errorf("build the router: %w", err)
	}
	at["router"], err = p.router(ctx, binary, api)
	return at, err
}

// process starts a program whose first line of output is its address.
func (p *parts) process(ctx context.Context, name, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := p.run(name, cmd); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("start %s: %w", name, err)
	}
	return strings.TrimSpace(line), nil
}

func (p *parts) run(name string, cmd *exec.Cmd) error {
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	p.pids[name] = cmd.Process.Pid
	var once sync.Once
	p.end = append(p.end, func() { once.Do(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }) })
	return nil
}

// result is what one turn of load measured.
type result struct {
	Rate  float64 // answers a second
	Times []int32 // µs, at a steady rate only
	CPU   float64 // µs of the contender's process per answer
}

func (p *parts) load(ctx context.Context, name, at string, o *options, rate float64) (r result, err error) {
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	cmd := exec.CommandContext(ctx, self, "load", "-at", at, "-path", pathOf(name), "-duration", o.duration.String(), "-callers", fmt.Sprint(o.callers),
		"-rate", fmt.Sprint(rate), "-body", fmt.Sprint(o.body), "-pid", fmt.Sprint(p.pids[name]))
	cmd.Stderr = os.Stderr
	data, err := cmd.Output()
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(data, &r)
}

func pathOf(name string) string {
	if name == "router" {
		return "/api/v1/endpoint/iris/score"
	}
	return "/score"
}
