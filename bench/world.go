package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/devcluster"
)

// contender is one way to the API server that is up and running.
type contender struct {
	name  string
	url   string // of the server as the caller sees it, without a path
	ca    string // file
	token string // file
	path  string // what is fetched, if not the same as for all
	parts []part // the processes whose CPU counts as this way's
}

// part is a process of a contender, or one that all share.
type part struct {
	name string
	pid  int
}

// world is one run: its folder, its processes, the server that all reach.
type world struct {
	o      options
	dir    string
	self   string
	procs  []*process
	server contender // the API server or its stand-in

	backend string        // what the server is, for people
	install *installation // nil: no real API server was started
}

func newWorld(ctx context.Context, o options) (*world, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "sallyport-bench-")
	if err != nil {
		return nil, err
	}
	w := &world{o: o, dir: dir, self: self}
	if err := writePKI(dir); err != nil {
		w.close()
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	if err := w.startBackend(ctx); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// The values of -api.
const (
	apiReal = "real"
	apiStub = "stub"
)

// startBackend starts the server that all contenders reach. A real one is
// needed for Sallyport, whose agents want one.
func (w *world) startBackend(ctx context.Context) error {
	w.server = contender{
		name:  "direct",
		ca:    filepath.Join(w.dir, certFile),
		token: filepath.Join(w.dir, tokenFile),
	}
	args := []string{"backend", "-pki", w.dir}
	w.backend = "API server: a stub"
	switch {
	case w.o.server.url != "":
		w.server, w.backend = contender(w.o.server), "API server: "+w.o.server.url
		return nil
	case w.o.wants(aimName) || w.o.api == apiReal:
		if err := w.startCluster(ctx); err != nil {
			return err
		}
		i := w.install
		w.server.token = i.path("account.token")
		if w.o.api == apiReal {
			w.backend = "API server: kube-apiserver " + devcluster.KubernetesVersion
			w.server.url, w.server.ca = i.cluster.URL(), i.path("cluster-ca.pem")
			w.server.parts = []part{{"server", i.cluster.PID("kube-apiserver")}}
			return nil
		}
		args = append(args, "-api", i.cluster.URL(), "-ca", i.path("cluster-ca.pem"), "-path", w.o.path)
		w.backend = "API server: a stub that answers what is measured, before kube-apiserver " + devcluster.KubernetesVersion
	}
	r, pid, err := w.spawn(ctx, args...)
	if err != nil {
		return err
	}
	w.server.url = "https://" + r.Addr
	w.server.parts = []part{{"server", pid}}
	return nil
}

// close ends every process, waits for it, and removes the folder.
func (w *world) close() {
	for _, p := range slices.Backward(w.procs) {
		p.stop()
	}
	if w.install != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := w.install.cluster.Stop(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "bench: stop the cluster:", err)
		}
	}
	_ = os.RemoveAll(w.dir)
}

// process is a child that serves until its standard input ends.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   *bufio.Reader
}

// start runs this binary in another role.
func (w *world) startSelf(ctx context.Context, args ...string) (*process, error) {
	cmd := exec.CommandContext(ctx, w.self, args...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &process{cmd: cmd, stdin: stdin, out: bufio.NewReader(stdout)}, nil
}

func (p *process) stop() {
	_ = p.stdin.Close()
	killed := time.AfterFunc(5*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer killed.Stop()
	_ = p.cmd.Wait()
}

// spawn starts a role and waits until it serves.
func (w *world) spawn(ctx context.Context, args ...string) (ready, int, error) {
	p, err := w.startSelf(ctx, args...)
	if err != nil {
		return ready{}, 0, fmt.Errorf("start %s: %w", args[0], err)
	}
	w.procs = append(w.procs, p)
	var r ready
	line, err := p.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	if err != nil {
		return ready{}, 0, fmt.Errorf("%s does not come up: %w", args[0], err)
	}
	return r, p.cmd.Process.Pid, nil
}

// turn is one contender under load for a while.
type turn struct {
	loadResult
	cpu map[string]time.Duration // by part
}

func (t turn) rate() float64 { return float64(t.Requests) / t.Elapsed.Seconds() }

// turn runs the load generator against c and reads the CPU time of every
// process before and after the measured time.
func (w *world) turn(ctx context.Context, c contender, callers int) (turn, error) {
	path := w.o.path
	if c.path != "" {
		path = c.path
	}
	p, err := w.startSelf(ctx, "load", "-url", c.url+path, "-ca", c.ca, "-token", c.token,
		"-callers", strconv.Itoa(callers), "-duration", w.o.duration.String())
	if err != nil {
		return turn{}, err
	}
	defer p.stop()
	if line, err := p.out.ReadString('\n'); err != nil || line != "begin\n" {
		return turn{}, errors.New("the load generator failed (see above)")
	}
	parts := append([]part{{"caller", p.cmd.Process.Pid}}, c.parts...)
	if c.name != w.server.name && !w.o.together { // else it works for all at once
		parts = append(parts, w.server.parts...)
	}
	before, err := cpuTimes(parts)
	if err != nil {
		return turn{}, err
	}
	var t turn
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		return turn{}, errors.New("the load generator failed (see above)")
	}
	after, err := cpuTimes(parts)
	if err != nil {
		return turn{}, err
	}
	if err := json.Unmarshal(line, &t.loadResult); err != nil {
		return turn{}, err
	}
	if t.Requests == 0 {
		return turn{}, errors.New("no request was answered")
	}
	t.cpu = map[string]time.Duration{}
	for name, d := range after {
		t.cpu[name] = d - before[name]
	}
	return t, nil
}

// idleTime is how long nobody asks, before the first round.
const idleTime = 3 * time.Second

// idle is what each way's own processes use of a CPU's time while nobody asks, in
// milliseconds a second. It is a part of their CPU per request, the larger the
// fewer requests there are.
func (w *world) idle(ctx context.Context, contenders []contender) (map[string]float64, error) {
	before := map[string]map[string]time.Duration{}
	for _, c := range contenders {
		times, err := cpuTimes(c.parts)
		if err != nil {
			return nil, err
		}
		before[c.name] = times
	}
	select {
	case <-time.After(idleTime):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	out := map[string]float64{}
	for _, c := range contenders {
		if c.name == w.server.name || len(c.parts) == 0 {
			continue
		}
		after, err := cpuTimes(c.parts)
		if err != nil {
			return nil, err
		}
		for part, d := range after {
			out[c.name] += float64((d - before[c.name][part]).Microseconds()) / 1000 / idleTime.Seconds()
		}
	}
	return out, nil
}

// clockTick is the unit of /proc/PID/stat; Linux has had no other for users.
const clockTick = 10 * time.Millisecond

// cpuTimes reads user and system time of processes, the numbers that
// getrusage would give each about itself.
func cpuTimes(parts []part) (map[string]time.Duration, error) {
	out := map[string]time.Duration{}
	for _, p := range parts {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
		if err != nil {
			return nil, fmt.Errorf("CPU time of %s: %w", p.name, err)
		}
		d, err := parseStat(string(b))
		if err != nil {
			return nil, fmt.Errorf("CPU time of %s: %w", p.name, err)
		}
		out[p.name] += d
	}
	return out, nil
}

// parseStat reads fields 14 and 15 of proc(5)'s stat; the name in field 2 may
// hold anything.
func parseStat(s string) (time.Duration, error) {
	i := strings.LastIndexByte(s, ')')
	fields := strings.Fields(s[i+1:])
	if i < 0 || len(fields) < 13 {
		return 0, fmt.Errorf("cannot read %q", s)
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * clockTick, errors.Join(err1, err2)
}

// machine describes where the numbers come from.
func machine() string {
	cpu := "unknown CPU"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.SplitSeq(string(b), "\n") {
			if name, ok := strings.CutPrefix(line, "model name"); ok {
				cpu = strings.TrimLeft(name, "\t :")
				break
			}
		}
	}
	load := ""
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		load = ", load before: " + strings.Join(strings.Fields(string(b))[:3], " ")
	}
	return fmt.Sprintf("%s, %d CPUs, %s%s", cpu, numCPU(), goVersion(), load)
}
