package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// The ways that are compared, in the order of the table. To add one, write a
// starter and name it here: it starts its processes, waits until they serve,
// and returns how a caller reaches them and whose CPU counts.
var starters = []struct {
	name  string
	start func(*world, context.Context) (contender, error)
}{
	{"direct", (*world).startDirect},
	{"bare relay", (*world).startBare},
	{"tunnel", (*world).startTunnel},
	{aimName, (*world).startSallyport},
}

// start brings up every contender that was asked for.
func (w *world) start(ctx context.Context) ([]contender, error) {
	var out []contender
	for _, s := range starters {
		if !w.o.wants(s.name) {
			continue
		}
		c, err := s.start(w, ctx)
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", s.name, err)
		}
		c.name = s.name
		out = append(out, c)
	}
	for _, e := range w.o.externals {
		out = append(out, contender(e))
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no contender is named %q", w.o.only)
	}
	return out, nil
}

// wants says whether a contender of this file was asked for. Sallyport is built
// and started only where the API server is the run's own.
func (o *options) wants(name string) bool {
	if name == aimName && o.server.url != "" {
		return false
	}
	return slices.Contains(strings.Split(o.only, ","), name)
}

func (w *world) startDirect(context.Context) (contender, error) { return w.server, nil }

// startBare starts the floor: two ReverseProxies and reversed HTTP/2, no
// checks.
func (w *world) startBare(ctx context.Context) (contender, error) { return w.relay(ctx) }

// startTunnel is the same relay on package tunnel, with a Handle around each
// request: what the tunnel itself costs.
func (w *world) startTunnel(ctx context.Context) (contender, error) { return w.relay(ctx, "-package") }

func (w *world) relay(ctx context.Context, more ...string) (contender, error) {
	gateway, gatewayPID, err := w.spawn(ctx, append([]string{"gateway", "-pki", w.dir}, more...)...)
	if err != nil {
		return contender{}, err
	}
	_, agentPID, err := w.spawn(ctx, append([]string{"agent", "-pki", w.dir, "-gateway", gateway.Tunnel,
		"-server", w.server.url, "-ca", w.server.ca, "-conns", strconv.Itoa(w.o.conns)}, more...)...)
	if err != nil {
		return contender{}, err
	}
	return contender{
		url:   "https://" + gateway.Addr,
		ca:    filepath.Join(w.dir, certFile),
		token: w.server.token,
		parts: []part{{"gateway", gatewayPID}, {"agent", agentPID}},
	}, nil
}

// external is a contender that runs already.
type external contender

// parseExternal reads url=URL,ca=FILE,token=FILE[,path=PATH][,pid=NAME:PID]...
func parseExternal(name, s string) (external, error) {
	e := external{name: name}
	for field := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return e, fmt.Errorf("%q: want key=value", field)
		}
		switch key {
		case "url":
			e.url = strings.TrimSuffix(value, "/")
		case "ca":
			e.ca = value
		case "token":
			e.token = value
		case "path":
			e.path = value
		case "pid":
			part, err := parsePart(value)
			if err != nil {
				return e, err
			}
			e.parts = append(e.parts, part)
		default:
			return e, fmt.Errorf("unknown key %q", key)
		}
	}
	if e.url == "" || e.ca == "" || e.token == "" {
		return e, errors.New("url, ca and token are needed")
	}
	for _, file := range []string{e.ca, e.token} {
		if _, err := os.Stat(file); err != nil {
			return e, err
		}
	}
	return e, nil
}

func parsePart(s string) (part, error) {
	name, number, ok := strings.Cut(s, ":")
	pid, err := strconv.Atoi(number)
	if !ok || name == "" || err != nil || pid <= 0 {
		return part{}, fmt.Errorf("pid %q: want NAME:PID", s)
	}
	return part{name, pid}, nil
}

func numCPU() int       { return runtime.NumCPU() }
func goVersion() string { return runtime.Version() }
