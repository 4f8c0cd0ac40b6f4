package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// runLoad is one turn: at full speed, each caller sends its next request when it
// has read the last answer; or at a steady rate, whatever the answers take, and a
// request's time counts from when it should have been sent.
func runLoad(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	at := f.String("at", "", "host:port")
	path := f.String("path", "", "path")
	callers := f.Int("callers", 64, "connections")
	rate := f.Float64("rate", 0, "requests a second; 0: as many as there can be")
	duration := f.Duration("duration", time.Second, "measured time")
	body := f.Int("body", 1024, "bytes")
	pid := f.Int("pid", 0, "whose CPU is measured")
	if err := f.Parse(args); err != nil {
		return err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: score.example\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nUser-Agent: scoring\r\nContent-Length: %d\r\n\r\n",
		*path, key, *body)
	b.WriteString(strings.Repeat("x", *body))
	t := &turn{request: b.Bytes(), at: *at, rate: *rate}
	r, err := t.run(ctx, *callers, *duration, *pid)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}

type turn struct {
	request []byte
	at      string
	rate    float64
	begin   time.Time
	tickets atomic.Int64
	answers atomic.Int64
}

const warmUp = 500 * time.Millisecond

func (t *turn) run(ctx context.Context, callers int, duration time.Duration, pid int) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, warmUp+duration)
	defer cancel()
	t.begin = time.Now()
	times := make([][]int32, callers)
	failed := make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			if times[i], failed[i] = t.caller(ctx, duration); failed[i] != nil {
				cancel()
			}
		})
	}
	timer := time.NewTimer(warmUp)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	n, cpu, from := t.answers.Load(), cpuOf(pid), time.Now()
	<-ctx.Done()
	n, cpu, took := t.answers.Load()-n, cpuOf(pid)-cpu, time.Since(from)
	wg.Wait()
	r := result{Rate: float64(n) / took.Seconds(), CPU: cpu * 1e6 / float64(max(n, 1))}
	for _, list := range times {
		r.Times = append(r.Times, list...)
	}
	return r, errors.Join(failed...)
}

func (t *turn) caller(ctx context.Context, duration time.Duration) (times []int32, err error) {
	conn, err := net.Dial("tcp", t.at)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	in := bufio.NewReaderSize(conn, 8<<10)
	for ctx.Err() == nil {
		due := time.Now()
		if t.rate > 0 {
			due = t.begin.Add(time.Duration(float64(t.tickets.Add(1)) / t.rate * float64(time.Second)))
			if due.Sub(t.begin) > warmUp+duration {
				return times, nil
			}
			if wait := time.Until(due); wait > 0 {
				time.Sleep(wait)
			}
		}
		if _, err := conn.Write(t.request); err != nil {
			return nil, err
		}
		if err := answer(in); err != nil {
			return nil, err
		}
		t.answers.Add(1)
		if t.rate > 0 && due.Sub(t.begin) > warmUp {
			times = append(times, int32(time.Since(due).Microseconds()))
		}
	}
	return times, nil
}

// answer reads one, which must be 200 with a length.
func answer(in *bufio.Reader) error {
	status, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) {
		rest, _ := in.Peek(in.Buffered())
		return fmt.Errorf("answered %s%s", status, rest)
	}
	length := -1
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if name, value, ok := bytes.Cut(line, []byte(":")); ok && bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return errors.New("an answer without a length")
	}
	_, err = in.Discard(length)
	return err
}

// cpuOf is the user and system time of a process, in seconds; 0 if it is not
// known.
func cpuOf(pid int) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100 // USER_HZ
}

// runModel is a model server: it reads the body and answers.
func runModel(ctx context.Context, _ []string, out io.Writer) error {
	prediction := []byte(`{"predictions":[` + strings.Repeat("0.123456789,", 40) + `0.5]}` + "\n")
	return serve(ctx, out, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		h := w.Header()
		h["Content-Type"] = []string{"application/json"}
		h["Content-Length"] = []string{strconv.Itoa(len(prediction))}
		_, _ = w.Write(prediction)
	}))
}

// serve serves on a port of its own and says which.
func serve(ctx context.Context, out io.Writer, h http.Handler) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(out, l.Addr())
	s := &http.Server{Handler: h}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
