// Command train is a small training program for command jobs: it fits a line to
// data by gradient descent, prints the loss as it goes, and with several nodes
// averages the gradients of all of them at each step, as data-parallel training
// does.
//
// It is an example: a static binary in an otherwise empty image.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	steps := flag.Int("steps", 200, "gradient steps; 0: until it is stopped")
	pace := flag.Duration("pace", 0, "wait after each step")
	slope := flag.Float64("slope", 3, "slope of the line that the data lie on")
	exit := flag.Int("exit", 0, "exit code")
	flag.Parse()
	if err := train(ctx, *steps, *pace, *slope); err != nil {
		fmt.Fprintln(os.Stderr, "train:", err)
		os.Exit(1)
	}
	os.Exit(*exit)
}

// model is the line w*x + b.
type model struct{ W, B float64 }

// gradient of the mean squared error over points of this node's own.
func (m model) gradient(rank int, slope float64) (g model, loss float64) {
	const points = 64
	for i := range points {
		x := float64(i)/points + float64(rank)
		d := m.W*x + m.B - (slope*x + 1)
		g.W += 2 * d * x / points
		g.B += 2 * d / points
		loss += d * d / points
	}
	return g, loss
}

func train(ctx context.Context, steps int, pace time.Duration, slope float64) error {
	rank, world := number("RANK", 0), number("WORLD_SIZE", 1)
	var peers nodes
	var err error
	if config := os.Getenv("TF_CONFIG"); config != "" {
		var all *workers
		if all, err = meet(ctx, config); err == nil {
			peers, rank, world = all, all.index, len(all.conns)
		}
	} else {
		peers, err = join(ctx, rank, world)
	}
	if err != nil {
		return err
	}
	defer peers.close()
	var m model
	rate := 0.1 / float64(world*world)
	for step := 0; (steps == 0 || step < steps) && ctx.Err() == nil; step++ {
		g, loss := m.gradient(rank, slope)
		if g, err = peers.average(g); err != nil {
			return err
		}
		m.W, m.B = m.W-rate*g.W, m.B-rate*g.B
		if step%10 == 0 {
			fmt.Printf("step %d loss %.6f\n", step, loss)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pace):
		}
	}
	fmt.Printf("model w=%.9f b=%.9f nodes=%d\n", m.W, m.B, world)
	return nil
}

// nodes of a job are one in their gradient.
type nodes interface {
	average(own model) (model, error)
	close()
}

func number(name string, otherwise int) int {
	n, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		return otherwise
	}
	return n
}

// group is the nodes of a job. The first one collects what the others send and
// answers with the mean.
type group struct {
	first bool
	world int
	conns []net.Conn
	read  []*bufio.Reader
}

func join(ctx context.Context, rank, world int) (*group, error) {
	g := &group{first: rank == 0, world: world}
	if world == 1 {
		return g, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	address := net.JoinHostPort(os.Getenv("MASTER_ADDR"), os.Getenv("MASTER_PORT"))
	if rank > 0 {
		conn, err := reach(ctx, address)
		if err != nil {
			return nil, err
		}
		g.add(conn)
		return g, nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ":"+os.Getenv("MASTER_PORT"))
	if err != nil {
		return nil, err
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for len(g.conns) < world-1 {
		conn, err := l.Accept()
		if err != nil {
			return nil, fmt.Errorf("wait for the other nodes: %w", err)
		}
		g.add(conn)
	}
	return g, nil
}

func (g *group) add(conn net.Conn) {
	g.conns, g.read = append(g.conns, conn), append(g.read, bufio.NewReader(conn))
}

func (g *group) close() {
	for _, c := range g.conns {
		c.Close()
	}
}

// average is the mean of all nodes' values: the first node has world-1
// connections, each other node one.
func (g *group) average(own model) (model, error) {
	if g.world == 1 {
		return own, nil
	}
	if !g.first {
		if err := g.send(0, own); err != nil {
			return own, err
		}
		return g.receive(0)
	}
	sum := own
	for i := range g.conns {
		other, err := g.receive(i)
		if err != nil {
			return own, err
		}
		sum.W, sum.B = sum.W+other.W, sum.B+other.B
	}
	mean := model{sum.W / float64(g.world), sum.B / float64(g.world)}
	for i := range g.conns {
		if err := g.send(i, mean); err != nil {
			return own, err
		}
	}
	return mean, nil
}

func (g *group) send(i int, m model) error {
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = g.conns[i].Write(append(line, '\n'))
	return err
}

func (g *group) receive(i int) (m model, err error) {
	line, err := g.read[i].ReadBytes('\n')
	if err != nil {
		return m, fmt.Errorf("another node has ended: %w", err)
	}
	return m, json.Unmarshal(line, &m)
}
