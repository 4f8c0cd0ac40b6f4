package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const warmUp = 300 * time.Millisecond

// loadResult is what one turn measured.
type loadResult struct {
	Requests  int           `json:"requests"`
	Elapsed   time.Duration `json:"elapsed"`
	Latencies histogram     `json:"latencies"`
}

// runLoad is a closed loop: each of n callers sends its next request when it
// has read the answer to the last one, all over one HTTP/2 connection, as
// client-go does. It prints "begin" after a warm-up, and its result at the
// end. Any answer but 200 ends it with an error: a turn with failures measures
// something else.
func runLoad(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	url := f.String("url", "", "what to fetch")
	ca := f.String("ca", "", "the server's CA")
	tokenFile := f.String("token", "", "file with the bearer token")
	callers := f.Int("callers", 1, "concurrent callers")
	duration := f.Duration("duration", time.Second, "measured time")
	if err := f.Parse(args); err != nil {
		return err
	}
	roots, err := loadRoots(*ca)
	if err != nil {
		return err
	}
	token, err := os.ReadFile(*tokenFile)
	if err != nil {
		return err
	}
	get := &getter{url: *url, auth: "Bearer " + strings.TrimSpace(string(token)), transport: &http.Transport{
		TLSClientConfig:    &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
		ForceAttemptHTTP2:  true,
		DisableCompression: true,
	}}
	if err := get.once(ctx); err != nil {
		return err
	}
	if _, err := get.loop(ctx, *callers, warmUp); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, "begin"); err != nil {
		return err
	}
	began := time.Now()
	latencies, err := get.loop(ctx, *callers, *duration)
	if err != nil {
		return err
	}
	r := loadResult{Elapsed: time.Since(began), Latencies: histogram{}}
	for _, d := range latencies {
		r.Requests++
		r.Latencies.add(d)
	}
	return json.NewEncoder(out).Encode(r)
}

type getter struct {
	url, auth string
	transport *http.Transport
}

func (g *getter) once(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.url, nil)
	if err != nil {
		return err
	}
	req.Header["Authorization"] = []string{g.auth}
	req.Header["Accept"] = []string{"application/json"}
	resp, err := g.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return fmt.Errorf("GET %s: %s: %s", g.url, resp.Status, b)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// loop returns the time of each request that began before d was over.
func (g *getter) loop(ctx context.Context, callers int, d time.Duration) ([]time.Duration, error) {
	all := make([][]time.Duration, callers)
	errs := make([]error, callers)
	end := time.Now().Add(d)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for {
				began := time.Now()
				if began.After(end) || ctx.Err() != nil {
					return
				}
				if errs[i] = g.once(ctx); errs[i] != nil {
					return
				}
				all[i] = append(all[i], time.Since(began))
			}
		})
	}
	wg.Wait()
	return slices.Concat(all...), errors.Join(append(errs, ctx.Err())...)
}

// histogram counts latencies in buckets that are one per cent wide, so that
// the turns of all rounds add up to one distribution.
type histogram map[int]int

const bucketWidth = 1.01

func (h histogram) add(d time.Duration) {
	h[int(math.Log(float64(max(d, 1)))/math.Log(bucketWidth))]++
}

func (h histogram) merge(o histogram) {
	for k, n := range o {
		h[k] += n
	}
}

// quantile returns the middle of the bucket that holds it.
func (h histogram) quantile(q float64) time.Duration {
	total := 0
	keys := make([]int, 0, len(h))
	for k, n := range h {
		total += n
		keys = append(keys, k)
	}
	slices.Sort(keys)
	rank, seen := int(math.Ceil(q*float64(total))), 0
	for _, k := range keys {
		if seen += h[k]; seen >= rank {
			return time.Duration(math.Pow(bucketWidth, float64(k)+0.5))
		}
	}
	return 0
}
