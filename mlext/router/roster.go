package router

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
)

// roster is which routers there are, where, and by which key they are known: a
// ConfigMap that only routers may write. Nothing in it is secret, and no key
// outlives its process.
type roster struct {
	name string
	self peer
	cert tls.Certificate
	maps coreclient.ConfigMapInterface // nil: this is the only router
	log  *slog.Logger

	mu      sync.Mutex // guards what follows
	known   map[string]peer
	changed chan struct{} // closed at the next change
}

// peer is a router as the roster has it.
type peer struct {
	Address string `json:"address"`
	Key     string `json:"key"` // SHA-256 of its public key (SubjectPublicKeyInfo), hex
}

// alone is a roster of one.
func alone(name string, log *slog.Logger) *roster {
	return &roster{name: name, log: log, changed: make(chan struct{})}
}

// join puts this router on the roster, follows it, and takes coordinators on the
// listener.
func (r *Router) join(ctx context.Context, wg *sync.WaitGroup, listener net.Listener) error {
	cert, key, err := identity(r.Name, r.Now())
	if err != nil {
		return err
	}
	r.roster.self, r.roster.cert, r.roster.maps = peer{r.Peers, key}, cert, r.Kube.CoreV1().ConfigMaps(wire.Namespace)
	factory := informers.NewSharedInformerFactoryWithOptions(r.Kube, 0, informers.WithNamespace(wire.Namespace),
		informers.WithTweakListOptions(func(l *metav1.ListOptions) {
			l.FieldSelector = fields.OneTermEqualSelector("metadata.name", mlext.RoutersConfigMap).String()
		}))
	informer := factory.Core().V1().ConfigMaps().Informer()
	set := func(o any) {
		if m, ok := o.(*corev1.ConfigMap); ok {
			r.roster.set(m.Data)
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: set, UpdateFunc: func(_, o any) { set(o) }}); err != nil {
		return fmt.Errorf("follow routers: %w", err)
	}
	wg.Go(func() { informer.RunWithContext(ctx) })
	wg.Go(func() { r.accept(ctx, wg, listener) })
	wg.Go(func() { r.roster.stay(ctx) })
	// The first coordinator must not settle without those who are there.
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return ctx.Err()
	}
	return nil
}

// set takes the ConfigMap's content. What cannot be read is nobody.
func (r *roster) set(data map[string]string) {
	all := map[string]peer{}
	for name, text := range data {
		var p peer
		if json.Unmarshal([]byte(text), &p) == nil && p.Address != "" && p.Key != "" {
			all[name] = p
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known = all
	close(r.changed)
	r.changed = make(chan struct{})
}

// changes is closed at the next change.
func (r *roster) changes() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// others are the routers but this one.
func (r *roster) others() map[string]peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]peer{}
	for name, p := range r.known {
		if name != r.name {
			out[name] = p
		}
	}
	return out
}

// stay keeps this router on the roster until ctx ends, and then takes it off.
func (r *roster) stay(ctx context.Context) {
	for ctx.Err() == nil {
		change := r.changes()
		r.mu.Lock()
		there := r.known[r.name] == r.self
		r.mu.Unlock()
		if there {
			select {
			case <-ctx.Done():
			case <-change:
			}
			continue
		}
		text, err := json.Marshal(r.self)
		if err == nil {
			err = r.patch(ctx, r.name, string(text))
		}
		if err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "not on the roster of routers", "error", err)
		}
		again := time.NewTimer(5 * redial)
		select {
		case <-ctx.Done():
		case <-change:
		case <-again.C:
		}
		again.Stop()
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), silence)
	defer cancel()
	if err := r.patch(last, r.name, nil); err != nil {
		r.log.WarnContext(last, "still on the roster of routers", "error", err)
	}
}

// forget takes a router off that cannot be reached.
func (r *roster) forget(ctx context.Context, name string, p peer) {
	if r.maps == nil || r.others()[name] != p {
		return
	}
	if err := r.patch(ctx, name, nil); err != nil && ctx.Err() == nil {
		r.log.WarnContext(ctx, "router not taken off the roster", "router", name, "error", err)
	}
}

// patch sets one entry; nil takes it away.
func (r *roster) patch(ctx context.Context, name string, value any) error {
	body, err := json.Marshal(map[string]any{"data": map[string]any{name: value}})
	if err != nil {
		return err
	}
	_, err = r.maps.Patch(ctx, mlext.RoutersConfigMap, types.MergePatchType, body, metav1.PatchOptions{})
	return err
}

// server is for whom this router follows; client for whom it coordinates.
func (r *roster) server() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{r.cert}, ClientAuth: tls.RequireAnyClientCert,
		SessionTicketsDisabled: true, // every connection is checked
		VerifyConnection: func(s tls.ConnectionState) error {
			var keys []string
			for _, p := range r.others() {
				keys = append(keys, p.Key)
			}
			return known(s, keys...)
		}}
}

func (r *roster) client(key string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{r.cert},
		InsecureSkipVerify: true, // by its key, below, and no name
		VerifyConnection:   func(s tls.ConnectionState) error { return known(s, key) }}
}
