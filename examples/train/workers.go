package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"
)

// workers are the nodes of a job as TensorFlow has them: each knows the addresses
// of all and talks to every other one, without a first among them.
type workers struct {
	index int
	conns []net.Conn // by index; none to itself
	read  []*bufio.Reader
}

// meet reads TF_CONFIG and connects to all workers: each is dialled by those
// that come after it.
func meet(ctx context.Context, config string) (*workers, error) {
	var c struct {
		Cluster struct{ Worker []string }
		Task    struct {
			Type  string
			Index int
		}
	}
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return nil, fmt.Errorf("read TF_CONFIG: %w", err)
	}
	all, own := c.Cluster.Worker, c.Task.Index
	if c.Task.Type != "worker" || own < 0 || own >= len(all) {
		return nil, errors.New("TF_CONFIG names no task of this node")
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	_, port, err := net.SplitHostPort(all[own])
	if err != nil {
		return nil, fmt.Errorf("read TF_CONFIG: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ":"+port)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	w := &workers{index: own, conns: make([]net.Conn, len(all)), read: make([]*bufio.Reader, len(all))}
	for i := range own {
		conn, err := reach(ctx, all[i])
		if err == nil {
			_, err = fmt.Fprintln(conn, own)
		}
		if err != nil {
			return nil, err
		}
		w.conns[i], w.read[i] = conn, bufio.NewReader(conn)
	}
	for range len(all) - own - 1 {
		conn, err := l.Accept()
		if err != nil {
			return nil, fmt.Errorf("wait for the other workers: %w", err)
		}
		r := bufio.NewReader(conn)
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, err
		}
		i, err := strconv.Atoi(line[:len(line)-1])
		if err != nil || i <= own || i >= len(all) || w.conns[i] != nil {
			return nil, fmt.Errorf("worker %q is not expected", line)
		}
		w.conns[i], w.read[i] = conn, r
	}
	return w, nil
}

// reach dials a node until it is there.
func reach(ctx context.Context, address string) (net.Conn, error) {
	for {
		conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", address)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("reach the node at %s: %w", address, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (w *workers) close() {
	for _, c := range w.conns {
		if c != nil {
			c.Close()
		}
	}
}

// average is the mean of all workers' values, added up in one order everywhere.
func (w *workers) average(own model) (model, error) {
	line, err := json.Marshal(own)
	if err != nil {
		return own, err
	}
	for _, c := range w.conns {
		if c == nil {
			continue
		}
		if _, err := c.Write(append(line, '\n')); err != nil {
			return own, err
		}
	}
	var sum model
	for i, r := range w.read {
		other := own
		if i != w.index {
			line, err := r.ReadBytes('\n')
			if err != nil {
				return own, fmt.Errorf("worker %d has ended: %w", i, err)
			}
			if err := json.Unmarshal(line, &other); err != nil {
				return own, err
			}
		}
		sum.W, sum.B = sum.W+other.W, sum.B+other.B
	}
	n := float64(len(w.conns))
	return model{sum.W / n, sum.B / n}, nil
}
