package ml

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/bucket"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// lateWrites is how long after a job's end its pods may still write.
const lateWrites = 10 * time.Minute

// attend answers what pods of a workspace on a cluster ask, until the function
// that it returns is called, which waits. Several may attend to the same pods:
// the extension gives each ask to one of them.
func (m *ML) attend(ctx context.Context, workspace, cluster string) (stop func()) {
	if m.Storage == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		wait := retryFirst
		for ctx.Err() == nil {
			if err := m.answerAsks(ctx, workspace, cluster); err == nil {
				wait = retryFirst
				continue
			}
			pause(ctx, wait) // who else talks to the extension says why
			wait = min(2*wait, retryMost)
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// answerAsks polls once.
func (m *ML) answerAsks(ctx context.Context, workspace, cluster string) error {
	w, err := store.Get[store.Source](ctx, m.Store, store.ResourceKey(workspace))
	if err != nil {
		return err
	}
	e, err := m.reach(ctx, &w, cluster)
	if err != nil {
		return err
	}
	var asks []wire.Ask
	if err := e.call(ctx, http.MethodGet, fmt.Sprintf("/asks?wait=%d", longPoll), nil, &asks); err != nil {
		return err
	}
	for _, ask := range asks {
		answer, err := m.answer(ctx, &w, cluster, ask)
		var refused *trust.Error
		switch {
		case errors.As(err, &refused) && refused.Kind != trust.Unavailable && refused.Kind != trust.Internal:
			answer = &wire.Answer{Error: &wire.Error{Code: refused.Code, Message: refused.Message}}
		case err != nil:
			m.Log.WarnContext(ctx, "a pod's ask not answered", "workspace", workspace, "resource", ask.Resource, "mount", ask.Mount, "error", err)
			continue // it asks again
		}
		if err := e.call(ctx, http.MethodPut, "/asks/"+ask.ID, answer, nil); err != nil && trust.KindOf(err) != trust.NotFound {
			return err
		}
	}
	return nil
}

// answer signs what a pod asks for, if what it runs for is the workspace's, on
// this cluster, and has such a mount.
func (m *ML) answer(ctx context.Context, w *store.Item[store.Source], cluster string, ask wire.Ask) (*wire.Answer, error) {
	gone := trust.Errorf(trust.NotFound, "what the pod runs for does not exist any more")
	id, err := arm.ParseID(w.Value.ID + "/" + ask.Resource)
	if err != nil || !strings.HasPrefix(ask.Resource, jobs+"/") && !strings.HasPrefix(ask.Resource, endpoints+"/") {
		return nil, gone
	}
	item, err := store.Get[store.Provided](ctx, m.Store, store.ProvidedKey(id.String()))
	if err != nil {
		return nil, orGone(err, gone)
	}
	r := &item.Value
	var p struct {
		Cluster    string
		Job        wire.Job
		Deployment wire.Deployment
		Reads      map[string]place
		Writes     map[string]string
		Status     struct{ Ended time.Time }
	}
	if err := json.Unmarshal(r.Private, &p); err != nil {
		return nil, trust.Errorf(trust.Internal, "what a pod runs for cannot be read").Because(err)
	}
	uid := ask.Job + ask.Deployment // one of them is empty
	if r.Parent != w.Created || uid == "" || uid != p.Job.UID+p.Deployment.UID || !arm.SameID(p.Cluster, cluster) {
		return nil, gone
	}
	if at, there := p.Reads[ask.Mount]; there {
		page, next, err := m.files(ctx, at, ask.After, wire.MaxFiles)
		if err != nil {
			return nil, err
		}
		signed, err := m.signed(ctx, page)
		return &wire.Answer{Files: signed, Next: next, Trust: m.Storage.CA}, err
	}
	prefix, err := storagePrefix(&w.Value)
	if err != nil {
		return nil, err
	}
	prefix += inJobs + "/" + p.Job.UID + "/"
	output, isOutput := strings.CutPrefix(ask.Mount, "outputs.")
	_, known := p.Writes[output]
	switch {
	case ask.Job == "" || ask.Pod == "" || len(ask.Files) > wire.MaxFiles:
		return nil, trust.Errorf(trust.Forbidden, "the pod has no mount %.100q to write to", ask.Mount)
	case ask.Mount == wire.LogsMount:
		return m.signedWrites(ctx, ask.Files, func(path string) string { return prefix + "logs/" + path + "~" + ask.Pod })
	case !isOutput || !known:
		return nil, trust.Errorf(trust.Forbidden, "the pod has no mount %.100q to write to", ask.Mount)
	case ended(r.State) && m.Now().Sub(p.Status.Ended) > lateWrites:
		return nil, trust.Errorf(trust.Conflict, "the job has ended")
	}
	return m.signedWrites(ctx, ask.Files, func(path string) string {
		return fmt.Sprintf("%soutputs/%s/%d/%s/%s", prefix, output, ask.Node, ask.Pod, path)
	})
}

func (m *ML) signedWrites(ctx context.Context, files []wire.File, key func(path string) string) (*wire.Answer, error) {
	a := &wire.Answer{Trust: m.Storage.CA}
	for _, f := range files {
		if err := bucket.ValidKey(f.Path); err != nil {
			return nil, err
		}
		u, header, err := m.Storage.Put(ctx, key(f.Path), bucket.Upload{Size: f.Size, SHA256: f.SHA256}, urlLife)
		if err != nil {
			return nil, err
		}
		a.Files = append(a.Files, wire.SignedFile{File: f, URL: u, Header: header})
	}
	return a, nil
}

// keepLogs waits until the extension has put the logs of a job that has ended
// into the store; what it does not manage in time stays on its volume.
func (m *ML) keepLogs(ctx context.Context, op *store.Operation, progress func(string)) {
	if m.Storage == nil {
		return
	}
	progress("keeping its logs")
	for until := m.Now().Add(logsWithin); ctx.Err() == nil && m.Now().Before(until); pause(ctx, m.again) {
		t, err := m.target(ctx, op)
		if err != nil {
			return
		}
		p, err := readJob(&t.resource.Value)
		if err != nil || !p.Told {
			return
		}
		e, err := m.reach(ctx, &t.workspace, p.Cluster)
		if err != nil {
			return
		}
		var files []wire.LogFile
		if err := e.call(ctx, http.MethodGet, "/jobs/"+p.Job.UID+"/logs", nil, &files); err != nil {
			if trust.KindOf(err) == trust.Unavailable {
				continue
			}
			return
		}
		if !slices.ContainsFunc(files, func(f wire.LogFile) bool { return !f.Kept }) {
			return
		}
	}
}

const logsWithin = time.Minute

// keptLogs are the logs of a job that are in the store, by their names.
func (m *ML) keptLogs(ctx context.Context, w *store.Source, p *jobPrivate) ([]wire.LogFile, error) {
	if m.Storage == nil {
		return nil, nil
	}
	prefix, err := storagePrefix(w)
	if err != nil {
		return nil, err
	}
	at := place{Layers: []string{prefix + inJobs + "/" + p.Job.UID + "/logs/"}}
	var all []wire.LogFile
	taken := map[string]bool{}
	for after := ""; ; {
		page, next, err := m.files(ctx, at, after, wire.MaxFiles)
		if err != nil {
			return nil, err
		}
		for _, f := range page {
			name, _, _ := strings.Cut(f.path, "~")
			// Two pods' first attempts, where the extension lost its volume between.
			node, _, _ := strings.Cut(name, "/")
			for n := 0; taken[name]; n++ {
				name = fmt.Sprintf("%s/attempt-%d", node, n)
			}
			taken[name] = true
			u, err := m.Storage.Get(ctx, f.key, urlLife)
			if err != nil {
				return nil, err
			}
			all = append(all, wire.LogFile{Name: name, Size: f.size, Done: true, Kept: true, URL: u})
		}
		if after = next; next == "" {
			return all, nil
		}
	}
}
