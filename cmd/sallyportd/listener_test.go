package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"
)

// Whoever was let in before the port closes is answered, also with a request that
// comes after; net/http's Shutdown alone would drop it. Agents' long answers end.
func TestWhoWasLetInIsAnsweredWhenThePortCloses(t *testing.T) {
	ctx, shut := context.WithCancel(t.Context())
	defer shut()
	began, taken := make(chan struct{}), make(chan struct{}, 10)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "answered") })
	mux.HandleFunc(agentsPath+"state", func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: endingWith(ctx, agentsPath, mux), ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
		select {
		case taken <- struct{}{}:
		default: // one of those that try the port
		}
		return ctx
	}}
	run, closed := serving(server, l), make(chan error, 1)
	go func() { closed <- run(ctx) }()
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		<-taken
		return conn
	}
	agent := dial()
	if _, err := io.WriteString(agent, "GET "+agentsPath+"state HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-began
	fresh := dial()
	if _, err := io.WriteString(fresh, "GET / HTTP/1.1\r\n"); err != nil { // it has begun to ask, no more
		t.Fatal(err)
	}
	shut()
	for deadline := time.Now().Add(10 * time.Second); ; { // until nobody else is let in
		conn, err := net.Dial("tcp", l.Addr().String())
		if errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
		if err == nil {
			conn.Close()
		}
		if time.Now().After(deadline) {
			t.Fatal("the port is open")
		}
	}
	if _, err := io.WriteString(fresh, "Host: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(fresh), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "answered" || !resp.Close {
		t.Errorf("%s %q %v, told to go: %v", resp.Status, body, err, resp.Close)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}
