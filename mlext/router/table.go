package router

import (
	"encoding/hex"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

// table is what can be scored now. It is never changed, only replaced.
type table struct {
	endpoints   map[string][]*endpoint // by folded name: one of each workspace
	deployments map[string]*deployment // by uid
}

// endpoint is one that can be scored.
type endpoint struct {
	uid, name   string
	owner       mlext.Owner
	keys        [][32]byte // digests; none: tokens
	audience    string     // of its tokens
	split       *split
	deployments map[string]*deployment // by folded name
}

// deployment is one with its requests' settings. What goes on in it is the
// pool's, which outlives the table.
type deployment struct {
	uid, name  string
	path       string
	timeout    time.Duration // of one request, from the moment it has a slot
	wait       time.Duration // for a slot
	concurrent int           // requests that a replica takes at once
	scale      *wire.Scale
	started    int // replicas that it begins with
	scaled     int // what was decided last; 0: nothing
	ready      map[string]string
	pool       *pool
	metrics    *deploymentMetrics
}

// Azure's default and longest timeout, and the time that a slot may take to come
// from another router.
const (
	defaultTimeout = 5 * time.Second
	maxTimeout     = 300 * time.Second
	leastWait      = 50 * time.Millisecond
)

// sources are what a table is made of.
type sources struct {
	audience    string // of the extension
	namespaces  []string
	endpoints   []*mlext.OnlineEndpoint
	deployments []*mlext.OnlineDeployment
	pods        []*corev1.Pod
}

// build makes the next table. Pools and splits of what stays are taken over.
func (s *sources) build(last *table, pool func(uid string) *pool, metrics func(endpoint, deployment *wireNames) *deploymentMetrics, log *slog.Logger) *table {
	t := &table{endpoints: map[string][]*endpoint{}, deployments: map[string]*deployment{}}
	byUID := map[string]*endpoint{}
	for _, o := range s.endpoints {
		spec := &o.Spec
		if o.DeletionTimestamp != nil || !isName(spec.Endpoint.Name) || !slices.Contains(s.namespaces, spec.Namespace) || byUID[spec.Endpoint.UID] != nil {
			continue
		}
		e := &endpoint{uid: spec.Endpoint.UID, name: spec.Endpoint.Name, owner: spec.Owner, audience: wire.ScoringAudience(s.audience, spec.Endpoint.UID),
			deployments: map[string]*deployment{}}
		sound := true
		for _, k := range spec.Endpoint.Keys {
			var d [32]byte
			if len(k) != hex.EncodedLen(len(d)) {
				sound = false
				continue
			}
			if _, err := hex.Decode(d[:], []byte(k)); err != nil {
				sound = false // without its keys it would take tokens
				continue
			}
			e.keys = append(e.keys, d)
		}
		if !sound {
			log.Warn("endpoint not served: its keys cannot be read", "endpoint", e.name, "uid", e.uid)
			continue
		}
		e.split = newSplit(spec.Endpoint.Traffic)
		folded := trust.Fold(e.name)
		for _, old := range last.endpoints[folded] {
			if old.uid == e.uid && maps.Equal(old.split.traffic, spec.Endpoint.Traffic) {
				e.split = old.split
			}
		}
		byUID[e.uid] = e
		t.endpoints[folded] = append(t.endpoints[folded], e)
	}
	pods := map[string][]*corev1.Pod{}
	for _, p := range s.pods {
		if takesRequests(p) {
			pods[p.Labels[mlext.DeploymentLabel]] = append(pods[p.Labels[mlext.DeploymentLabel]], p)
		}
	}
	for _, o := range s.deployments {
		d, spec := &o.Spec.Deployment, &o.Spec
		e := byUID[d.Endpoint]
		// Objects are written by the gateway alone, which has checked the owner:
		// checked again, since a deployment under another's endpoint would score
		// with another's key.
		if e == nil || o.DeletionTimestamp != nil || spec.Owner != e.owner || !isName(d.Name) || !slices.Contains(s.namespaces, spec.Namespace) || t.deployments[d.UID] != nil {
			continue
		}
		made := &deployment{uid: d.UID, name: d.Name, path: "/" + strings.TrimPrefix(d.Scoring.Path, "/"), concurrent: max(d.Request.MaxConcurrent, 1),
			timeout: min(milliseconds(d.Request.Timeout, defaultTimeout), maxTimeout), wait: max(time.Duration(d.Request.MaxQueueWait)*time.Millisecond, leastWait),
			scale: d.Scale, started: d.Instances, scaled: spec.Scaled, ready: map[string]string{}, pool: pool(d.UID)}
		made.metrics = metrics(&wireNames{e.uid, e.name}, &wireNames{d.UID, d.Name})
		for _, p := range pods[d.UID] {
			if p.Namespace == spec.Namespace {
				address := net.JoinHostPort(p.Status.PodIP, strconv.Itoa(portOf(p, d.Scoring.Port)))
				made.ready[string(p.UID)+"/"+address] = address
			}
		}
		t.deployments[d.UID] = made
		e.deployments[trust.Fold(d.Name)] = made
	}
	return t
}

// wireNames are uid and name of an endpoint or deployment.
type wireNames struct{ uid, name string }

func milliseconds(n int, otherwise time.Duration) time.Duration {
	if n <= 0 {
		return otherwise
	}
	return time.Duration(n) * time.Millisecond
}

// takesRequests tells whether a pod is ready and stays.
func takesRequests(p *corev1.Pod) bool {
	if p.DeletionTimestamp != nil || p.Status.PodIP == "" || p.Status.Phase != corev1.PodRunning {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// portOf is where a pod's own model server listens: while a deployment rolls,
// older pods may have another port than the one it says.
func portOf(p *corev1.Pod, otherwise int) int {
	for _, c := range p.Spec.Containers {
		if c.Name == mlext.Server && len(c.Ports) == 1 {
			return int(c.Ports[0].ContainerPort)
		}
	}
	return otherwise
}

// find is the deployments' lookup by name; "" if it has none of that name.
func (e *endpoint) find(name string) *deployment {
	if d := e.deployments[name]; d != nil {
		return d
	}
	return e.deployments[trust.Fold(name)]
}
