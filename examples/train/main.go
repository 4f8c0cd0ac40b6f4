// Command train is a small training program for command jobs: it fits a line to
// data by gradient descent, prints the loss as it goes, and with several nodes
// averages the gradients of all of them at each step, as data-parallel training
// does. With -data it reads its points from a file, with -model it writes what it
// has learnt where a model server finds it, and its last metrics go where the job
// shows them.
//
// It is an example: a static binary in an otherwise empty image.
package main

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
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
	data := flag.String("data", "", "CSV `file` of points, x,y in each line, instead of that line")
	out := flag.String("model", "", "`folder` to write model.json into")
	version := flag.String("version", "1", "version that the model says it has")
	exit := flag.Int("exit", 0, "exit code")
	flag.Parse()
	p, err := read(*data)
	if err == nil {
		err = train(ctx, p, *steps, *pace, *slope, *out, *version)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "train:", err)
		os.Exit(1)
	}
	os.Exit(*exit)
}

// model is the line w*x + b.
type model struct{ W, B float64 }

// points are the data: y of each x.
type points struct{ x, y []float64 }

// made are points of a node's own, on a line.
func made(rank int, slope float64) (p points) {
	const n = 64
	for i := range n {
		x := float64(i)/n + float64(rank)
		p.x, p.y = append(p.x, x), append(p.y, slope*x+1)
	}
	return p
}

// read reads points from a file; none without one.
func read(file string) (p points, err error) {
	if file == "" {
		return p, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return p, err
	}
	defer f.Close()
	lines, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return p, err
	}
	for i, l := range lines {
		x, err1 := strconv.ParseFloat(l[0], 64)
		y, err2 := strconv.ParseFloat(l[len(l)-1], 64)
		if len(l) != 2 || err1 != nil || err2 != nil {
			return p, fmt.Errorf("%s: line %d is not x,y", file, i+1)
		}
		p.x, p.y = append(p.x, x), append(p.y, y)
	}
	if len(p.x) == 0 {
		return p, fmt.Errorf("%s has no points", file)
	}
	return p, nil
}

// gradient of the mean squared error.
func (m model) gradient(p points) (g model, loss float64) {
	n := float64(len(p.x))
	for i, x := range p.x {
		d := m.W*x + m.B - p.y[i]
		g.W += 2 * d * x / n
		g.B += 2 * d / n
		loss += d * d / n
	}
	return g, loss
}

// save writes the model as a model server reads it, and the metrics where the
// job's environment says.
func (m model) save(dir, version string, metrics map[string]float64) error {
	if dir != "" {
		raw, err := json.Marshal(map[string]any{"weights": []float64{m.W}, "bias": m.B, "version": version})
		if err == nil {
			err = os.MkdirAll(dir, 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "model.json"), append(raw, '\n'), 0o644)
		}
		if err != nil {
			return err
		}
	}
	file := os.Getenv("AZUREML_METRICS_FILE")
	if file == "" {
		return nil
	}
	raw, err := json.Marshal(metrics)
	if err != nil {
		return err
	}
	return os.WriteFile(file, raw, 0o644)
}

func train(ctx context.Context, data points, steps int, pace time.Duration, slope float64, out, version string) error {
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
	if len(data.x) == 0 {
		data = made(rank, slope)
	}
	if err != nil {
		return err
	}
	defer peers.close()
	var m model
	last := 0.0
	rate := 0.1 / float64(world*world)
	for step := 0; (steps == 0 || step < steps) && ctx.Err() == nil; step++ {
		g, loss := m.gradient(data)
		last = loss
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
	return m.save(out, version, map[string]float64{"loss": last, "w": m.W, "b": m.B})
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
