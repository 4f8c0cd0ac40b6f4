package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"testing"

	"github.com/sallyport/sallyport/netenv/probe"
)

// A control plane that was stolen gets no scanner: the agent looks at the
// owner's list, and whatever it is answered, at the same list again.
func TestOnlyTheOwnersListIsLookedAt(t *testing.T) {
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	reached := make(chan string, 16)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				close(reached)
				return
			}
			reached <- conn.LocalAddr().String()
			conn.Close()
		}
	}()
	allowed := "localhost:" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	var stderr bytes.Buffer
	good := []string{"--server", "https://sallyport.example.com", "--cluster", "u", "--mandate-key", keyFile(t)}
	c, err := parseFlags("proxy", append(good, "--probes", allowed), &stderr)
	if err != nil {
		t.Fatalf("%v %s", err, &stderr)
	}
	ctx, stop := context.WithCancel(t.Context())
	r := c.repeater(func(_ context.Context, sent any) error {
		stop()
		report := sent.(probe.Report)
		if len(report.Names) != 1 || report.Names[0].Name != "localhost" || len(report.Connections) != 1 || report.Connections[0].Port != l.Addr().(*net.TCPAddr).Port {
			t.Errorf("%+v", report)
		}
		return nil
	}, slog.New(slog.DiscardHandler))
	if err := r.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	l.Close()
	n := 0
	for range reached {
		n++
	}
	if n != 1 {
		t.Errorf("%d connections", n)
	}
	without, err := parseFlags("proxy", good, &stderr)
	if err != nil || len(without.probes) != 0 {
		t.Errorf("without the owner's list: %v %v", without.probes, err)
	}
	if _, err := parseFlags("reconcile", append(good, "--probes", allowed), &stderr); err == nil {
		t.Error("the reconciler took a list of probes")
	}
}
