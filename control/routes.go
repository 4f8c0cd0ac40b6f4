package control

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/trust"
)

// Types of resources, in ARM's spelling.
const (
	subscriptionType = "Microsoft.Resources/subscriptions"
	groupType        = "Microsoft.Resources/resourceGroups"
	clusterType      = "Microsoft.ContainerService/managedClusters"
	bindingType      = clusterType + "/trustedAccessRoleBindings"
	armRoleType      = "Microsoft.ContainerService/locations/trustedAccessRoles"
	ownRoleType      = "Sallyport.Access/trustedAccessRoles"
	connectionType   = "Sallyport.Access/connections"
)

// route is one method of one kind of path. What it says is checked by serveARM
// before handle runs; a handler never sees a request that did not pass.
type route struct {
	method, pattern string
	typ             string // resource type, for messages; "" means the path's own
	versions        arm.Versions
	// drop is how many segments at the end of the path do not belong to the id
	// that the request is about: 1 for the type of a collection or an action.
	drop int
	// action is what the caller must be allowed on that id; "{type}" stands for
	// the id's type, "{listed}" for the one that the path lists. anybody and handlerAsks are the only others.
	action string
	need   need
	// passesLocks is for what no management lock stands against: what takes
	// access away at once, and the locks themselves.
	passesLocks bool
	handle      func(*call) (*answer, error)

	segments []string
}

// need is what must exist before the handler runs.
type need uint8

const (
	needSubscription need = 1 << iota
	needGroup             // if the id lies in a group
	needCluster           // the cluster that the id is or lies in
	needSource            // the source that a child lies under
)

// retryAfter is what clients are told to wait between two looks at an
// operation. Without it az and the SDKs wait 30 s.
const retryAfter = time.Second

const freshBound = mandate.FreshBound

// table is every route of the ARM API. The first that fits a path counts, so
// those that name a type stand before those that take any.
func (c *Control) table() []*route {
	all := slices.Concat(
		c.statusRoutes(),
		c.subscriptionRoutes(),
		c.providerRoutes(),
		c.featureRoutes(),
		c.groupRoutes(),
		c.resourceRoutes(),
		c.roleRoutes(),
		c.operationRoutes(),
		c.eventRoutes(),
		c.definitionRoutes(),
		c.assignmentRoutes(),
		c.lockRoutes(),
		c.connectionRoutes(),
		c.bindingRoutes(),
		c.extensionRoutes(),
		c.extensionTypeRoutes(),
		c.connectedRoutes(),
		c.poolRoutes(),
		c.clusterRoutes(),
		c.userRoutes(),
		c.signingKeyRoutes(),
		c.groupSourceRoutes(),
		c.federatedRoutes(),
		c.secretRoutes(),
		c.certificateRoutes(),
		c.mountRoutes(),
		c.sourceRoutes(),
	)
	for _, rt := range all {
		rt.segments = strings.Split(strings.TrimPrefix(rt.pattern, "/"), "/")
	}
	return all
}

// clusterOf is the cluster that an id is or lies in.
func clusterOf(id arm.ID) arm.ID {
	if len(id.Chain) == 0 {
		return id
	}
	p := id.Chain[0]
	id.Chain = []arm.Provider{{Namespace: p.Namespace, Types: p.Types[:1:1], Names: p.Names[:1:1]}}
	return id
}

// match finds the route, and the id that the request is about.
func (k *call) match() error {
	for seg := range strings.SplitSeq(k.request.URL.EscapedPath(), "/") {
		if seg == "" {
			continue // SDKs write "Namespace//type" where a resource has no parent
		}
		s, err := url.PathUnescape(seg)
		if err != nil {
			return noRoute(k.request)
		}
		if strings.Contains(s, "/") {
			// One name for the route, several segments for the id.
			return arm.Errorf(trust.Invalid, arm.BadRequest, "The request path '%.200s' has an encoded slash in a segment.", k.request.URL.EscapedPath())
		}
		k.path = append(k.path, s)
	}
	var methods []string
	typed := false
	for _, rt := range k.routes {
		vars, fits := rt.fits(k.path)
		if !fits || rt.typ == "" && typed {
			continue // the type has routes of its own
		}
		// Whether a thing is there may be asked of everything that can be read.
		asked := rt.method == http.MethodGet && k.request.Method == http.MethodHead
		if rt.method != k.request.Method && !asked {
			methods, typed = append(methods, rt.method), typed || rt.typ != ""
			continue
		}
		id, err := arm.ParseID("/" + strings.Join(k.path[:len(k.path)-rt.drop], "/"))
		if err != nil {
			return err
		}
		k.route, k.vars, k.head = rt, vars, asked
		k.id, k.connected = managed(id)
		return nil
	}
	if len(methods) > 0 {
		slices.Sort(methods)
		return &methodError{allow: strings.Join(slices.Compact(methods), ", "),
			cause: arm.Errorf(trust.Unsupported, arm.MethodNotAllowed, "The requested resource does not support http method '%.20s'.", k.request.Method)}
	}
	return noRoute(k.request)
}

// methodError is a 405, which must name what is allowed (RFC 9110, 15.5.6).
type methodError struct {
	cause *trust.Error
	allow string
}

func (e *methodError) Error() string { return e.cause.Error() }
func (e *methodError) Unwrap() error { return e.cause }

func noRoute(r *http.Request) error {
	return arm.Errorf(trust.NotFound, arm.NotFound, "No resource was found that matches the request path '%.200s'.", r.URL.Path)
}

// fits matches a path. "{name}" is one segment, "{name...}" any number of them,
// once in a pattern; anything else is compared without regard to ASCII case.
func (rt *route) fits(path []string) (map[string]string, bool) {
	segs := rt.segments
	tail := slices.IndexFunc(segs, func(s string) bool { return strings.HasSuffix(s, "...}") })
	if tail < 0 && len(path) != len(segs) || tail >= 0 && len(path) < len(segs)-1 {
		return nil, false
	}
	vars := map[string]string{}
	one := func(pattern, s string) bool {
		if name, ok := strings.CutPrefix(pattern, "{"); ok {
			vars[strings.TrimSuffix(name, "}")] = s
			return s != ""
		}
		return len(s) == len(pattern) && trust.Fold(s) == trust.Fold(pattern)
	}
	if tail < 0 {
		tail = len(segs)
	}
	for i := 0; i < tail; i++ {
		if !one(segs[i], path[i]) {
			return nil, false
		}
	}
	for i := len(segs) - 1; i > tail; i-- {
		if !one(segs[i], path[len(path)-len(segs)+i]) {
			return nil, false
		}
	}
	return vars, true
}

// ours are the namespaces in which only the types of the route table exist.
var ours = []string{"Microsoft.ContainerService", "Microsoft.Resources", "Microsoft.Authorization", "Microsoft.Features", "Microsoft.Kubernetes", "Microsoft.KubernetesConfiguration", "Sallyport.Access", "Sallyport.Identity"}

// reserved refuses the generic routes for namespaces that are ours.
func (k *call) reserved() error {
	if k.route.typ != "" {
		return nil
	}
	if k.foreign(k.id) {
		return arm.Errorf(trust.NotFound, arm.InvalidResourceType, "The resource type '%s' could not be found in the namespace '%s' for api version '%s'.",
			strings.Join(k.id.Chain[0].Types, "/"), k.id.Chain[0].Namespace, k.version)
	}
	if len(k.id.Chain) > 1 {
		return noRoute(k.request) // a resource of one provider on one of another
	}
	for _, p := range k.id.Chain {
		for _, ns := range ours {
			if arm.SameID(p.Namespace, ns) {
				return arm.Errorf(trust.NotFound, arm.InvalidResourceType, "The resource type '%s' could not be found in the namespace '%s' for api version '%s'.",
					strings.Join(p.Types, "/"), p.Namespace, k.version)
			}
		}
	}
	return nil
}
