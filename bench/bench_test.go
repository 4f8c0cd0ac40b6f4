package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// The test binary plays the other roles too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "backend", "gateway", "agent", "load", "keep":
			if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
				fmt.Fprintln(os.Stderr, "bench:", err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

func TestCompare(t *testing.T) {
	var out bytes.Buffer
	err := run(t.Context(), []string{"-rounds", "1", "-duration", "50ms", "-concurrency", "1,4", "-only", "direct,bare relay,tunnel"}, &out)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"direct", "bare relay", "tunnel"} {
		if n := strings.Count(out.String(), "  "+name); n != 2 {
			t.Errorf("%d lines for %s in\n%s", n, name, &out)
		}
	}
}

// A contender that answers anything but 200 stops the run: its speed would
// mean nothing.
func TestCompareRefused(t *testing.T) {
	dir := t.TempDir()
	if err := writePKI(dir); err != nil {
		t.Fatal(err)
	}
	w, err := newWorld(t.Context(), options{duration: 50 * time.Millisecond, path: "/"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	stranger := w.server
	stranger.token = dir + "/" + tokenFile
	if _, err := w.turn(t.Context(), stranger, 1); err == nil {
		t.Error("a refused caller was measured")
	}
}

func TestVerdict(t *testing.T) {
	cs := []contender{
		{name: "direct"},
		{name: floorName, parts: []part{{"gateway", 1}}},
		{name: aimName, parts: []part{{"gateway", 2}}},
	}
	r := newResults(cs, []int{1})
	for i, rate := range []int{1000, 500, 460} {
		h := histogram{}
		h.add(time.Millisecond)
		r.add(cs[i], 1, turn{
			loadResult: loadResult{Requests: rate, Elapsed: time.Second, Latencies: h},
			cpu:        map[string]time.Duration{"gateway": time.Duration(rate) * time.Duration(100+20*i) * time.Microsecond},
		})
	}
	var out bytes.Buffer
	r.print(&out)
	want := "1 callers: rate 0.92 of the bare relay (aim: at least 0.90, holds), CPU 1.17 of it (aim: at most 1.10, missed), +20 µs a request\n"
	if !strings.HasSuffix(out.String(), want) {
		t.Errorf("%s\nwant the end\n%s", &out, want)
	}
}

func TestHistogram(t *testing.T) {
	h, o := histogram{}, histogram{}
	for i := range 990 {
		h.add(time.Duration(i%10+95) * time.Microsecond)
	}
	for range 10 {
		o.add(20 * time.Millisecond)
	}
	h.merge(o)
	for q, want := range map[float64]time.Duration{0.5: 99 * time.Microsecond, 0.999: 20 * time.Millisecond} {
		if got := h.quantile(q); got < want*98/100 || got > want*102/100 {
			t.Errorf("quantile %v: %v, want %v within 2%%", q, got, want)
		}
	}
	if got := (histogram{}).quantile(0.5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

func TestParseStat(t *testing.T) {
	got, err := parseStat("4711 (a) b) (c) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20")
	if err != nil || got != 1750*time.Millisecond {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []string{"", "1 (x", "1 (x) S 1", "1 (x) S 1 2 3 4 5 6 7 8 9 10 a b 0"} {
		if _, err := parseStat(s); err == nil {
			t.Errorf("%q is read", s)
		}
	}
}

func TestFlags(t *testing.T) {
	file := t.TempDir() + "/f"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := parse([]string{"-contender", "sallyport=url=https://x/y/,ca=" + file + ",token=" + file + ",path=/z,pid=gateway:7,pid=agent:8"}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	e := o.externals[0]
	if e.name != "sallyport" || e.url != "https://x/y" || e.path != "/z" || len(e.parts) != 2 || e.parts[1] != (part{"agent", 8}) {
		t.Errorf("%+v", e)
	}
	for _, args := range [][]string{
		{"-concurrency", "0"}, {"-api", "imaginary"}, {"-concurrency", "x"}, {"-rounds", "0"}, {"stray"},
		{"-contender", "x"}, {"-contender", "x=url=https://a"}, {"-contender", "x=url=a,ca=/none,token=/none"},
		{"-contender", "x=pid=a"}, {"-contender", "x=colour=red"},
	} {
		if _, err := parse(args, &bytes.Buffer{}); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
