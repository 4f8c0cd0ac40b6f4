package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/trust"
)

// States receives signed states, at connect and at each change, until ctx ends;
// then it returns ctx's error. held gives the newest state that the agent has;
// take checks one (mandate.Open) and holds it. When the stream breaks, falls
// silent for 25 s, or the certificate is renewed, it is opened again; a state
// that take refuses is logged and the stream begun anew, since the next bytes
// of whoever sent it are worth no more.
func (a *Agent) States(ctx context.Context, held func() mandate.Floor, take func(signed []byte) error) error {
	retry := newBackoff(250*time.Millisecond, 8*time.Second)
	for {
		err := a.stream(ctx, held(), func(signed []byte) error {
			if err := take(signed); err != nil {
				return err
			}
			retry.reset()
			return nil
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, errRenewed) {
			continue
		}
		wait := retry.next()
		a.c.Log.Warn("state stream ended, opening it again", "cluster", a.c.Cluster, "agent", a.c.Name, "error", err, "retry", wait)
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

var (
	errRenewed = errors.New("certificate renewed")
	errSilent  = trust.Errorf(trust.Timeout, "the control plane was silent for %s", heartbeatLimit)
)

// stream opens the stream once and reads it to its end.
func (a *Agent) stream(ctx context.Context, from mandate.Floor, take func([]byte) error) error {
	client, _, renewed, err := a.current(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel(nil)
	silent := time.AfterFunc(heartbeatLimit, func() { cancel(errSilent) })
	defer silent.Stop()
	watching.Go(func() {
		select {
		case <-renewed:
			cancel(errRenewed)
		case <-ctx.Done():
		}
	})

	query := url.Values{"epoch": {strconv.FormatInt(from.Epoch, 10)}, "revision": {strconv.FormatInt(from.Revision, 10)}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+StatePath+"?"+query.Encode(), nil)
	if err != nil {
		return fmt.Errorf("open state stream: %w", err)
	}
	req.Header.Set("User-Agent", "sallyport-agent/"+a.c.Version)
	res, err := client.Do(req)
	if err != nil {
		return unreachable(ctx, a.base, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(res.Body, maxBody))
		return failure(res, body)
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(make([]byte, 0, 64<<10), maxStateLine)
	for lines.Scan() {
		silent.Reset(heartbeatLimit)
		var line StateLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return trust.Errorf(trust.Internal, "the state stream holds a line that cannot be read").Because(err)
		}
		if len(line.State) == 0 {
			continue
		}
		if err := take(line.State); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return unreachable(ctx, a.base, err)
	}
	return trust.Errorf(trust.Unavailable, "the control plane ended the state stream")
}

// backoff doubles from first to most, with jitter, so that a thousand agents do
// not come back at once. It is used by one goroutine.
type backoff struct{ first, most, now time.Duration }

func newBackoff(first, most time.Duration) *backoff {
	return &backoff{first: first, most: most, now: first}
}

func (b *backoff) next() time.Duration {
	d := b.now
	b.now = min(b.now*2, b.most)
	return jitter(d)
}

func (b *backoff) reset() { b.now = b.first }

// jitter takes up to a quarter off.
func jitter(d time.Duration) time.Duration {
	if d < 4 {
		return d
	}
	return d - rand.N(d/4)
}

// sleep waits for d or for ctx's end, whichever is first; in the latter case it
// returns ctx's error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
