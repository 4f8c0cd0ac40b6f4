package ml

import (
	"context"
	"strings"

	"github.com/sallyport/sallyport/store"
)

// attended is whose pods on which cluster are answered.
type attended struct{ workspace, cluster string }

// serveModels attends to the pods of every deployment that mounts a model, until
// ctx ends: a replica may start at any time.
func (m *ML) serveModels(ctx context.Context) error {
	if m.Storage == nil {
		<-ctx.Done()
		return nil
	}
	wanted := map[string]attended{} // by a deployment's key
	running := map[attended]func(){}
	defer func() {
		for _, stop := range running {
			stop()
		}
	}()
	see := func(key string, value []byte) error {
		if !strings.Contains(key, "/deployments/") {
			return nil
		}
		delete(wanted, key)
		if value == nil {
			return nil
		}
		r, err := store.Decode[store.Provided](value)
		if err != nil {
			return err
		}
		if !strings.HasSuffix(r.Type, "/"+deployments) {
			return nil
		}
		p, err := readDeployment(&r)
		if err == nil && len(p.Reads) > 0 {
			wanted[key] = attended{workspaceOf(r.ID), p.Cluster}
		}
		return err
	}
	settle := func() {
		now := map[attended]bool{}
		for _, a := range wanted {
			if now[a] = true; running[a] == nil {
				running[a] = m.attend(ctx, a.workspace, a.cluster)
			}
		}
		for a, stop := range running {
			if !now[a] {
				stop()
				delete(running, a)
			}
		}
	}
	return store.Follow(ctx, m.Store, store.ProvidedPrefix+"/",
		func(all []store.KV, _ int64) error {
			clear(wanted)
			for _, kv := range all {
				if err := see(kv.Key, kv.Value); err != nil {
					return err
				}
			}
			settle()
			return nil
		},
		func(b store.Batch) error {
			for _, e := range b.Events {
				value := e.Value
				if e.Type == store.EventDelete {
					value = nil
				}
				if err := see(e.Key, value); err != nil {
					return err
				}
			}
			settle()
			return nil
		})
}
