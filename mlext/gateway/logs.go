package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

// LogConfig says where logs are kept and how much of them.
type LogConfig struct {
	Dir       string
	FileBytes int64         // of one attempt of one node; what comes after is left out, and said. Default: 64 MiB
	AllBytes  int64         // of all; the oldest jobs' go first. Default: 2 GiB
	Keep      time.Duration // after the last line. Default: 30 days
}

const partBytes = 256 << 10

// lookWithin is how long to wait for the pods that there are: a namespace may
// have been taken away.
const lookWithin = time.Minute

// collector follows the logs of all jobs' containers into files,
// <job uid>/<node>/<attempt>, with what is known of each beside it. It is the
// only writer.
type collector struct {
	LogConfig
	kube       kubernetes.Interface
	namespaces []string
	now        func() time.Time
	log        *slog.Logger
	written    *waker // by file
	changed    *waker // by uid of a pod
	// keep puts a log that is whole into its workspace's store, once. nil: there is
	// none. See keepWhole.
	keep      func(ctx context.Context, l logFile) error
	keepPause time.Duration
	slots     chan struct{} // of keep

	mu        sync.Mutex // guards what follows, and the making of files
	following map[string]context.CancelFunc
	workers   sync.WaitGroup
}

// about is what is kept beside a log file.
type about struct {
	Pod, Host string
	Done      bool
	Kept      bool // in the workspace's store, or never will be
}

func newCollector(c LogConfig, kube kubernetes.Interface, namespaces []string, now func() time.Time, log *slog.Logger) (*collector, error) {
	if c.FileBytes == 0 {
		c.FileBytes = 64 << 20
	}
	if c.AllBytes == 0 {
		c.AllBytes = 2 << 30
	}
	if c.Keep == 0 {
		c.Keep = 30 * 24 * time.Hour
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("logs: %w", err)
	}
	return &collector{LogConfig: c, kube: kube, namespaces: namespaces, now: now, log: log, written: newWaker(), changed: newWaker(),
		keepPause: keepEvery, slots: make(chan struct{}, keepAtOnce), following: map[string]context.CancelFunc{}}, nil
}

// run follows pods until ctx ends, and waits for its workers.
func (c *collector) run(ctx context.Context) error {
	var wg sync.WaitGroup
	var seen []cache.InformerSynced
	for _, ns := range c.namespaces {
		factory := informers.NewSharedInformerFactoryWithOptions(c.kube, 0, informers.WithNamespace(ns),
			informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = mlext.JobLabel }))
		informer := factory.Core().V1().Pods().Informer()
		handler, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(o any) { c.see(ctx, o) }, UpdateFunc: func(_, o any) { c.see(ctx, o) },
		})
		if err != nil {
			return fmt.Errorf("follow pods: %w", err)
		}
		seen = append(seen, handler.HasSynced)
		wg.Go(func() { informer.RunWithContext(ctx) })
	}
	wg.Go(func() {
		looking, cancel := context.WithTimeout(ctx, lookWithin)
		defer cancel()
		all := cache.WaitForCacheSync(looking.Done(), seen...)
		if ctx.Err() != nil {
			return
		}
		if err := c.takeUp(ctx, all); err != nil {
			c.log.WarnContext(ctx, "logs of earlier not looked after", "error", err)
		}
	})
	tick := time.NewTicker(10 * time.Minute)
	defer tick.Stop()
	for ctx.Err() == nil {
		if err := c.sweep(); err != nil {
			c.log.WarnContext(ctx, "old logs not removed", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	wg.Wait()
	c.workers.Wait()
	return nil
}

// see follows the log of a pod whose container has started.
func (c *collector) see(ctx context.Context, o any) {
	pod, ok := o.(*corev1.Pod)
	if !ok || !uidPattern.MatchString(pod.Labels[mlext.JobLabel]) {
		return
	}
	started := slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
		return s.Name == mlext.Container && (s.State.Running != nil || s.State.Terminated != nil)
	})
	id := string(pod.UID)
	c.changed.wake(id)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !started || c.following[id] != nil || ctx.Err() != nil {
		return
	}
	file, known, err := c.fileOf(pod)
	if err != nil {
		c.log.ErrorContext(ctx, "log file not made", "pod", pod.Name, "error", err)
		return
	}
	if known.Done { // whole: copied once, and kept by takeUp
		return
	}
	worker, cancel := context.WithCancel(ctx)
	c.following[id] = cancel
	c.workers.Go(func() {
		c.follow(worker, pod, file)
		cancel()
		c.mu.Lock()
		defer c.mu.Unlock()
		if ctx.Err() != nil {
			delete(c.following, id) // another process goes on
		}
	})
}

// fileOf finds or makes the file of a pod: the next attempt of its node. c.mu
// is held.
func (c *collector) fileOf(pod *corev1.Pod) (string, about, error) {
	index := pod.Annotations["batch.kubernetes.io/job-completion-index"]
	if index == "" {
		index = "0"
	}
	if _, err := strconv.Atoi(index); err != nil {
		return "", about{}, fmt.Errorf("pod %s has the index %q", pod.Name, index)
	}
	dir := filepath.Join(c.Dir, pod.Labels[mlext.JobLabel], "node-"+index)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", about{}, err
	}
	for n := 0; ; n++ {
		file := filepath.Join(dir, "attempt-"+strconv.Itoa(n))
		a, err := readAbout(file)
		if errors.Is(err, fs.ErrNotExist) {
			a = about{Pod: string(pod.UID), Host: pod.Spec.NodeName}
			return file, a, errors.Join(os.WriteFile(file, nil, 0o600), writeAbout(file, a))
		}
		if err != nil || a.Pod == string(pod.UID) {
			return file, a, err
		}
	}
}

func readAbout(file string) (a about, err error) {
	raw, err := os.ReadFile(file + ".json")
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(raw, &a)
}

func writeAbout(file string, a about) error {
	raw, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".json.new", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".json.new", file+".json")
}

// follow copies the log until the container has ended and everything is here,
// or the pod is gone. A connection that breaks is opened again, and what is here
// already is passed over.
func (c *collector) follow(ctx context.Context, pod *corev1.Pod, file string) {
	for ctx.Err() == nil {
		err := c.copy(ctx, pod, file)
		now, gone := c.kube.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		over := apierrors.IsNotFound(gone) || gone == nil && now.UID != pod.UID
		if over || gone == nil && ended(now) && err == nil || errors.Is(err, errFull) {
			break
		}
		c.log.DebugContext(ctx, "log opened again", "pod", pod.Name, "error", err)
		pause(ctx, time.Second)
	}
	if ctx.Err() != nil {
		return
	}
	c.note(ctx, file, func(a *about) { a.Done = true })
	c.written.wake(file)
	l, err := c.logFileAt(file, string(pod.UID))
	if err != nil {
		c.log.WarnContext(ctx, "log stays on this volume", "file", file, "error", err)
		return
	}
	c.keepWhole(ctx, l)
}

// note changes what is known of a log file.
func (c *collector) note(ctx context.Context, file string, change func(*about)) {
	a, err := readAbout(file)
	if err == nil {
		change(&a)
		err = writeAbout(file, a)
	}
	if err != nil {
		c.log.WarnContext(ctx, "log's end not noted", "file", file, "error", err)
	}
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed ||
		slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
			return s.Name == mlext.Container && s.State.Terminated != nil
		})
}

var errFull = errors.New("the file has reached its limit")

// copy follows the log once.
func (c *collector) copy(ctx context.Context, pod *corev1.Pod, file string) error {
	stream, err := c.kube.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: mlext.Container, Follow: true}).Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	have := info.Size()
	if _, err := io.CopyN(io.Discard, stream, have); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	buffer := make([]byte, 32<<10)
	for {
		n, err := stream.Read(buffer)
		if n > 0 {
			if have+int64(n) > c.FileBytes {
				_, e := fmt.Fprintf(f, "\n[sallyport: the log has reached %d bytes; the rest is not kept]\n", c.FileBytes)
				return errors.Join(errFull, e)
			}
			if _, err := f.Write(buffer[:n]); err != nil {
				return err
			}
			have += int64(n)
			c.written.wake(file)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

var (
	nodePattern    = regexp.MustCompile(`^node-(\d{1,6})$`)
	attemptPattern = regexp.MustCompile(`^attempt-(\d{1,6})$`)
)

// list names the log files of a job.
func (c *collector) list(uid string) ([]wire.LogFile, error) {
	all := []wire.LogFile{}
	nodes, err := os.ReadDir(filepath.Join(c.Dir, uid))
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err != nil {
		return nil, err
	}
	for _, node := range nodes {
		attempts, err := os.ReadDir(filepath.Join(c.Dir, uid, node.Name()))
		if err != nil {
			return nil, err
		}
		for _, a := range attempts {
			if !attemptPattern.MatchString(a.Name()) {
				continue
			}
			file := filepath.Join(c.Dir, uid, node.Name(), a.Name())
			info, err := os.Stat(file)
			if err != nil {
				return nil, err
			}
			known, err := readAbout(file)
			if err != nil {
				return nil, err
			}
			all = append(all, wire.LogFile{Name: node.Name() + "/" + a.Name(), Size: info.Size(), Host: known.Host, Done: known.Done, Kept: known.Kept})
		}
	}
	slices.SortFunc(all, func(a, b wire.LogFile) int { return byNumbers(a.Name, b.Name) })
	return all, nil
}

// byNumbers sorts node-2 before node-10.
func byNumbers(a, b string) int {
	if d := len(a) - len(b); d != 0 {
		return d
	}
	return strings.Compare(a, b)
}

// read gives what a log file has from offset on; if there is nothing it waits.
func (c *collector) read(ctx context.Context, uid, name string, offset int64, wait time.Duration) (*wire.LogPart, error) {
	node, attempt, _ := strings.Cut(name, "/")
	absent := trust.Errorf(trust.NotFound, "there is no log %.60s yet", name)
	if !nodePattern.MatchString(node) || !attemptPattern.MatchString(attempt) {
		return nil, absent
	}
	file := filepath.Join(c.Dir, uid, node, attempt)
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	for {
		woken := c.written.next(file)
		known, err := readAbout(file) // before the bytes: what is done has all of them
		if errors.Is(err, fs.ErrNotExist) {
			return nil, absent
		}
		if err != nil {
			return nil, err
		}
		part, err := piece(file, offset, known.Done)
		if err != nil || part.Content != "" || part.Done {
			return part, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-deadline.C:
			return part, nil
		case <-woken:
		}
	}
}

func piece(file string, offset int64, done bool) (*wire.LogPart, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buffer := make([]byte, partBytes)
	n, err := f.ReadAt(buffer, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	end := errors.Is(err, io.EOF)
	if !end || !done { // a character may be cut in two
		n = whole(buffer[:n])
	}
	return &wire.LogPart{Content: strings.ToValidUTF8(string(buffer[:n]), "\uFFFD"), Next: offset + int64(n), Done: done && end}, nil
}

// whole is how many bytes are complete characters, or none that can be made
// complete.
func whole(b []byte) int {
	for back := 1; back <= min(utf8.UTFMax-1, len(b)); back++ {
		if i := len(b) - back; utf8.RuneStart(b[i]) {
			if !utf8.FullRune(b[i:]) {
				return i
			}
			break
		}
	}
	return len(b)
}

func (c *collector) remove(uid string) error {
	return os.RemoveAll(filepath.Join(c.Dir, uid))
}

// sweep removes what is too old, and the oldest of what is too much.
func (c *collector) sweep() error {
	type kept struct {
		uid  string
		last time.Time
		size int64
	}
	jobs, err := os.ReadDir(c.Dir)
	if err != nil {
		return err
	}
	var all []kept
	var total int64
	for _, j := range jobs {
		if !uidPattern.MatchString(j.Name()) {
			continue
		}
		k := kept{uid: j.Name()}
		err := filepath.WalkDir(filepath.Join(c.Dir, j.Name()), func(_ string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err == nil {
				k.size += info.Size()
				if info.ModTime().After(k.last) {
					k.last = info.ModTime()
				}
			}
			return err
		})
		if err != nil {
			return err
		}
		all, total = append(all, k), total+k.size
	}
	slices.SortFunc(all, func(a, b kept) int { return a.last.Compare(b.last) })
	for _, k := range all {
		if c.now().Sub(k.last) < c.Keep && total <= c.AllBytes {
			break
		}
		if err := c.remove(k.uid); err != nil {
			return err
		}
		total -= k.size
	}
	return nil
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
