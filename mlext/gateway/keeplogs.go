package gateway

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/bucket/signed"
	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

const (
	// keepEvery is how long to wait before a log is tried again, while nobody
	// answers: the workspace may have no binding now, or the server no store.
	keepEvery = 10 * time.Second
	// keepWithin is after how long without an answer it stays on the volume, until
	// the next start.
	keepWithin = time.Hour
	// keepAtOnce is how many logs are sent, or asked for, at once.
	keepAtOnce = 16
)

// logFile is the log of one attempt of one node of a job, on the volume.
type logFile struct {
	job  string // uid
	node int
	name string // "node-0/attempt-0"
	pod  string // uid
	path string
}

// logFileAt is the one of that path below the collector's folder.
func (c *collector) logFileAt(path, pod string) (logFile, error) {
	rel, err := filepath.Rel(c.Dir, path)
	if err != nil {
		return logFile{}, err
	}
	job, name, _ := strings.Cut(filepath.ToSlash(rel), "/")
	node, attempt, _ := strings.Cut(name, "/")
	index := nodePattern.FindStringSubmatch(node)
	if !uidPattern.MatchString(job) || index == nil || !attemptPattern.MatchString(attempt) {
		return logFile{}, fmt.Errorf("%s is no log's file", rel)
	}
	n, err := strconv.Atoi(index[1])
	return logFile{job: job, node: n, name: name, pod: pod, path: path}, err
}

// keepWhole has a log that is whole kept in its workspace's store, and notes it.
// It is the one that tries again: until it is there, never can be, or time is up.
func (c *collector) keepWhole(ctx context.Context, l logFile) {
	if c.keep == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, keepWithin)
	defer cancel()
	for ctx.Err() == nil {
		err := c.keepOnce(ctx, l)
		var never *keptNowhere
		switch {
		case errors.As(err, &never):
			c.log.WarnContext(ctx, "log stays on this volume", "job", l.job, "file", l.name, "reason", err)
			fallthrough
		case err == nil:
			c.note(ctx, l.path, func(a *about) { a.Kept = true })
			return
		}
		c.log.DebugContext(ctx, "log not kept yet", "job", l.job, "file", l.name, "reason", err)
		pause(ctx, c.keepPause)
	}
}

func (c *collector) keepOnce(ctx context.Context, l logFile) error {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
		return c.keep(ctx, l)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// takeUp keeps what an earlier process had not: logs that were whole, and, once
// all pods that there are have been seen, those of pods that went while nobody
// followed.
func (c *collector) takeUp(ctx context.Context, all bool) error {
	files, err := filepath.Glob(filepath.Join(c.Dir, "*", "node-*", "attempt-*.json"))
	if err != nil {
		return err
	}
	for _, f := range files {
		path := strings.TrimSuffix(f, ".json")
		a, err := readAbout(path)
		if err != nil {
			return err
		}
		l, err := c.logFileAt(path, a.Pod)
		c.mu.Lock()
		_, followed := c.following[a.Pod]
		if err != nil || a.Kept || followed || !a.Done && !all {
			c.mu.Unlock()
			continue
		}
		c.following[a.Pod] = func() {}
		c.mu.Unlock()
		if !a.Done {
			c.note(ctx, path, func(a *about) { a.Done = true })
			c.written.wake(path)
		}
		c.workers.Go(func() { c.keepWhole(ctx, l) })
	}
	return nil
}

// keptNowhere is that a log will never be in a store.
type keptNowhere struct{ why string }

func (k *keptNowhere) Error() string { return k.why }

// keepLog asks the ML service where a log belongs, and puts it there.
func (g *Gateway) keepLog(ctx context.Context, l logFile) error {
	t, err := read[mlext.TrainingJob](ctx, g, mlext.TrainingJobs, l.job, mlext.JobName, trust.Errorf(trust.NotFound, "its job is gone"))
	if trust.KindOf(err) == trust.NotFound {
		return &keptNowhere{err.Error()}
	}
	if err != nil {
		return err
	}
	in, err := os.Open(l.path)
	if err != nil {
		return &keptNowhere{err.Error()}
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, wire.MaxWait*time.Second)
	defer cancel()
	answer, err := g.asks.ask(asking, t.Spec.Owner, wire.Ask{Job: l.job, Resource: "jobs/" + t.Spec.Job.Name, Node: l.node, Pod: l.pod, Mount: wire.LogsMount,
		Files: []wire.File{{Path: l.name, Size: info.Size()}}})
	if err != nil {
		return err
	}
	if answer.Error != nil || len(answer.Files) != 1 {
		return &keptNowhere{fmt.Sprintf("the ML service refuses: %+v", answer.Error)}
	}
	hc := signed.Client(answer.Trust)
	defer hc.CloseIdleConnections()
	return signed.Put(ctx, hc, answer.Files[0].URL, answer.Files[0].Header, in, info.Size())
}
