package ml

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Kinds of operations on what is served.
const (
	opEndpoint         = "ml.endpoint.put"
	opEndpointDelete   = "ml.endpoint.delete"
	opDeployment       = "ml.deployment.put"
	opDeploymentDelete = "ml.deployment.delete"
)

// Modes of authentication.
const (
	byKey   = "Key"
	byToken = "AMLToken"
)

// servedName is of endpoints and deployments: single dashes only.
var servedName = regexp.MustCompile(`^[a-zA-Z](-?[a-zA-Z0-9])*$`)

func checkServed(parameter, name string) error {
	if len(name) < 3 || len(name) > 32 || !servedName.MatchString(name) {
		return arm.BadParameter(parameter, "the name '%.100s' must have 3 to 32 letters, digits and single dashes, begin with a letter and not end with a dash", name)
	}
	return nil
}

// endpointBody are the properties of an endpoint that mean something here.
type endpointBody struct {
	AuthMode            string
	Compute             string
	Traffic             map[string]int
	MirrorTraffic       map[string]int
	PublicNetworkAccess string
	Keys                *keyPair
}

// endpointPrivate is what ml keeps with an endpoint.
type endpointPrivate struct {
	Kind      string
	ComputeID string // resource id
	Cluster   string // resource id
	AuthMode  string
	Endpoint  wire.Endpoint
	Scoring   string // URL, as the cluster last said
	Told      bool   // the extension has had it
	Sealed    []byte // the key pair; see sealKeys
	Version   uint64 // of the key pair
}

func readEndpoint(r *store.Provided) (endpointPrivate, error) {
	var p endpointPrivate
	if err := json.Unmarshal(r.Private, &p); err != nil {
		return p, trust.Errorf(trust.Internal, "a stored endpoint cannot be read").Because(err)
	}
	return p, nil
}

// readOnlyEndpoint is what is not kept as it was sent: ml shows it from what it
// knows.
var readOnlyEndpoint = []string{"provisioningState", "scoringUri", "swaggerUri", "keys", "traffic", "mirrorTraffic", "authMode", "compute"}

// putEndpoint makes or changes an endpoint. A PUT that leaves authMode, compute or
// traffic out keeps them.
func (k *call) putEndpoint() (*arm.Answer, error) {
	old, write, err := k.old()
	if err != nil {
		return nil, err
	}
	b, err := k.changes(old)
	if err != nil {
		return nil, err
	}
	var e endpointBody
	if err := json.Unmarshal(b.Properties, &e); err != nil {
		return nil, arm.BadParameter("properties", "a member has the wrong type")
	}
	if err := refuseEndpoint(b, &e); err != nil {
		return nil, err
	}
	if k.Method == http.MethodPatch { // what there was is in it: what is not in it was removed
		if e.Compute == "" {
			return nil, arm.BadParameter("properties.compute", "an endpoint cannot be without one")
		}
		e.AuthMode = cmp.Or(e.AuthMode, byKey)
		if e.Traffic == nil {
			e.Traffic = map[string]int{}
		}
	}
	p, err := k.endpointNow(old, &e)
	if err != nil {
		return nil, err
	}
	p.Kind = b.Kind
	r := k.record(old, b)
	p.Endpoint.UID, p.Endpoint.Name = r.UID, k.ID.Name()
	if old.Revision == 0 || e.Keys != nil {
		if err := k.sealKeys(&r, &p, e.Keys); err != nil {
			return nil, err
		}
	}
	if r.Properties, err = overlay(r.Properties, readOnlyEndpoint, nil); err != nil {
		return nil, err
	}
	if r.Private, err = json.Marshal(p); err != nil {
		return nil, err
	}
	return k.provide(opEndpoint, old, write, r)
}

// refuseEndpoint names what is not done.
func refuseEndpoint(b *body, e *endpointBody) error {
	if b.Identity != nil && b.Identity.Type != "" && trust.Fold(b.Identity.Type) != "none" {
		return arm.BadParameter("identity.type", "endpoints have no identity of their own here: leave identity out, or set it to None")
	}
	switch trust.Fold(e.AuthMode) {
	case "", "key", "amltoken":
	case "aadtoken":
		return arm.BadParameter("properties.authMode", "AADToken is not supported on Kubernetes endpoints; Key and AMLToken are")
	default:
		return arm.BadParameter("properties.authMode", "'%.40s' is neither Key nor AMLToken", e.AuthMode)
	}
	for name, percent := range e.MirrorTraffic {
		if percent != 0 {
			return arm.BadParameter("properties.mirrorTraffic", "traffic is not mirrored on Kubernetes endpoints: leave out %.40s=%d", name, percent)
		}
	}
	if trust.Fold(e.PublicNetworkAccess) == "disabled" {
		return arm.BadParameter("properties.publicNetworkAccess", "it is of managed endpoints; who reaches this one is said by the Service of the cluster's router")
	}
	return nil
}

// endpointNow is what ml keeps of an endpoint after a request, without its keys.
func (k *call) endpointNow(old store.Item[store.Provided], e *endpointBody) (p endpointPrivate, err error) {
	if old.Revision == 0 {
		if err := checkServed("endpointName", k.ID.Name()); err != nil {
			return p, err
		}
		if len(e.Traffic) > 0 {
			return p, arm.BadParameter("properties.traffic", "an endpoint has no deployments when it is made: set traffic afterwards")
		}
		compute, err := k.workspaceCompute("properties.compute", e.Compute)
		if err != nil {
			return p, err
		}
		private, err := readCompute(&compute)
		if err != nil {
			return p, err
		}
		p.ComputeID, p.Cluster, p.Endpoint.Compute, p.AuthMode = compute.ID, private.Cluster, compute.UID, byKey
	} else {
		if err := k.free(&old.Value); err != nil {
			return p, err
		}
		if p, err = readEndpoint(&old.Value); err != nil {
			return p, err
		}
		if e.Compute != "" && !arm.SameID(e.Compute, p.ComputeID) {
			return p, arm.Errorf(trust.Conflict, arm.Conflict, "The endpoint '%s' is on the compute %s, and an endpoint cannot be moved. Make another one.", k.ID.Name(), p.ComputeID)
		}
	}
	if _, err := k.bound(k.ctx, &k.workspace.Value, p.Cluster); err != nil {
		return p, err
	}
	if e.AuthMode != "" {
		p.AuthMode = map[string]string{"key": byKey, "amltoken": byToken}[trust.Fold(e.AuthMode)]
	}
	if e.Traffic != nil {
		p.Endpoint.Traffic, err = k.traffic(e.Traffic)
	}
	return p, err
}

// traffic checks a split: percents of existing deployments that sum to 0 or 100.
func (k *call) traffic(asked map[string]int) (map[string]int, error) {
	all, err := k.deploymentsOf(k.ID.String())
	if err != nil {
		return nil, err
	}
	out, sum := map[string]int{}, 0
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		percent := asked[name]
		i := slices.IndexFunc(all, func(d store.Provided) bool { return trust.SameFold(nameOf(d.ID), name) })
		if i < 0 {
			e := arm.BadParameter("properties.traffic", "the endpoint has no deployment '%.64s'", name)
			e.Hint = k.says("ml online-deployment list") + " --endpoint-name " + k.ID.Name()
			return nil, e
		}
		if all[i].State == arm.Deleting && percent > 0 {
			return nil, arm.BadParameter("properties.traffic", "the deployment '%.64s' is being deleted", name)
		}
		if percent < 0 || percent > 100 {
			return nil, arm.BadParameter("properties.traffic", "%d for '%.64s' is not a percent from 0 to 100", percent, name)
		}
		out[nameOf(all[i].ID)] = percent
		sum += percent
	}
	if sum != 0 && sum != 100 {
		return nil, arm.BadParameter("properties.traffic", "the percents sum to %d; they must sum to 0 or 100", sum)
	}
	return out, nil
}

// nameOf is the last segment of an id.
func nameOf(id string) string { return id[strings.LastIndexByte(id, '/')+1:] }

// says is a command in this workspace, to be typed.
func (k *call) says(command string) string {
	return "sallyport " + command + " -g " + k.ID.Group + " -w " + k.workspaceName()
}

// deploymentsOf an endpoint.
func (k *call) deploymentsOf(endpoint string) ([]store.Provided, error) {
	all, _, err := store.List[store.Provided](k.ctx, k.Store, store.ProvidedKey(endpoint)+"/deployments/")
	if err != nil {
		return nil, err
	}
	var out []store.Provided
	for i := range all {
		if all[i].Value.Parent == k.workspace.Created {
			out = append(out, all[i].Value)
		}
	}
	return out, nil
}

// free tells that no operation works on a resource.
func (k *call) free(r *store.Provided) error {
	if r.State == arm.Deleting || !arm.Terminal(r.State) && k.followed(k.ctx, r) {
		return pending(r.State)
	}
	return nil
}

// provide stores a resource with the operation that makes it so in the cluster.
func (k *call) provide(kind string, old store.Item[store.Provided], write func(store.Record) store.Op, r store.Provided, also ...store.Op) (*arm.Answer, error) {
	op, err := k.operation(kind, &r)
	if err != nil {
		return nil, err
	}
	status := http.StatusCreated
	r.State, r.Reason, r.Problem, r.Operation = creating, "", nil, op.ID
	if old.Revision != 0 {
		r.State, status = arm.Updating, http.StatusOK
	}
	if err := k.commit(append(also, write(r), store.Create(op))...); err != nil {
		return nil, err
	}
	a, err := k.shown(status, &store.Item[store.Provided]{Value: r})
	if err == nil {
		k.links(&op).Created(a.Header, retryAfter)
	}
	return a, err
}

func (k *call) showEndpoint(r *store.Provided, s *shape, set map[string]any) error {
	p, err := readEndpoint(r)
	if err != nil {
		return err
	}
	k.tracked(s, p.Kind)
	set["provisioningState"], set["authMode"], set["compute"] = r.State, p.AuthMode, p.ComputeID
	set["traffic"] = p.Endpoint.Traffic
	if p.Endpoint.Traffic == nil {
		set["traffic"] = map[string]int{}
	}
	if p.Scoring != "" {
		set["scoringUri"] = p.Scoring
	}
	return explain(r, set, nil)
}

// tracked fills in what tracked resources have at their top level.
func (k *call) tracked(s *shape, kind string) {
	if s.Kind = kind; s.Location == "" {
		s.Location = k.workspace.Value.Location
	}
}

// explain adds to the bag of strings "properties" why a resource is in its
// state, and more.
func explain(r *store.Provided, set map[string]any, more map[string]string) error {
	var sent struct{ Properties map[string]*string }
	if err := json.Unmarshal(r.Properties, &sent); err != nil {
		return trust.Errorf(trust.Internal, "a stored resource cannot be read").Because(err)
	}
	bag := map[string]string{}
	for name, v := range sent.Properties {
		if v != nil && !slices.Contains(explanations, name) {
			bag[name] = *v
		}
	}
	maps.Copy(bag, more)
	if r.Problem != nil {
		bag["statusCode"], bag["statusReason"] = r.Problem.Code, r.Problem.Message
		if next := hint(r.Problem); next != "" {
			bag["statusHint"] = next
		}
	}
	if len(bag) > 0 {
		set["properties"] = bag
	}
	return nil
}

// explanations are the members of that bag that are the service's to set.
var explanations = []string{"statusCode", "statusReason", "statusHint", "readyInstances", "wantedInstances"}

// deleteEndpoint removes an endpoint with its deployments, whatever works on them.
func (k *call) deleteEndpoint() (*arm.Answer, error) { return k.withdraw(opEndpointDelete) }

// withdraw begins the removal of something served. It takes over from what works
// on it.
func (k *call) withdraw(kind string, also ...store.Op) (*arm.Answer, error) {
	item, err := k.find()
	if trust.KindOf(err) == trust.NotFound {
		return &arm.Answer{Status: http.StatusNoContent}, nil
	}
	if err == nil {
		err = k.conditions(item.Revision)
	}
	if err != nil {
		return nil, err
	}
	r := item.Value
	if r.State == arm.Deleting {
		op, err := store.Get[store.Operation](k.ctx, k.Store, store.Operation{ID: r.Operation}.Key())
		if err == nil && !op.Value.Done() {
			return k.accepted(&op.Value), nil
		}
	}
	op, err := k.operation(kind, &r)
	if err != nil {
		return nil, err
	}
	r.State, r.Operation = arm.Deleting, op.ID
	if err := k.commit(append(also, store.Update(r, item.Revision), store.Create(op))...); err != nil {
		return nil, err
	}
	return k.accepted(&op), nil
}

// servedOn names an endpoint on a compute, "" if there is none; still guards that
// none was added since.
func (k *call) servedOn(compute *store.Provided) (name string, still store.Op, err error) {
	below := store.ProvidedKey(k.workspace.Value.ID) + "/" + trust.Fold(endpoints) + "/"
	all, revision, err := store.List[store.Provided](k.ctx, k.Store, below)
	if err != nil {
		return "", still, err
	}
	still = store.Quiet(below, revision)
	for i := range all {
		r := &all[i].Value
		if r.Parent != k.workspace.Created || !strings.HasSuffix(r.Type, "/"+endpoints) {
			continue
		}
		p, err := readEndpoint(r)
		if err != nil {
			return "", still, err
		}
		if p.Endpoint.Compute == compute.UID {
			return p.Endpoint.Name, still, nil
		}
	}
	return "", still, nil
}

func (p *endpointPrivate) scoring(base string) string {
	if base == "" {
		return ""
	}
	return base + wire.ScorePath(p.Endpoint.Name)
}
