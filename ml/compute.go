package ml

import (
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Kinds of operations on computes.
const (
	opAttach = "ml.compute.attach"
	opDetach = "ml.compute.detach"
)

const creating = "Creating"

const clusterType = "Microsoft.ContainerService/managedClusters"

var (
	computeName   = regexp.MustCompile(`^[a-zA-Z]([a-zA-Z0-9-]{1,22})[a-zA-Z0-9]$`)
	namespaceName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	instanceName  = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)
)

// computeBody are the properties of a compute that mean something here.
type computeBody struct {
	ComputeType string
	ResourceID  string
	Properties  *kubernetesBody
}

type kubernetesBody struct {
	Namespace                                             string
	DefaultInstanceType                                   string
	InstanceTypes                                         map[string]instanceBody
	RelayConnectionString, ServiceBusConnectionString, VC string
}

type instanceBody struct {
	NodeSelector map[string]string
	Resources    struct{ Requests, Limits map[string]*string }
}

// computePrivate is what ml keeps with a compute.
type computePrivate struct {
	Cluster string // resource id
	Compute wire.Compute
}

func readCompute(r *store.Provided) (computePrivate, error) {
	var p computePrivate
	if err := json.Unmarshal(r.Private, &p); err != nil {
		return p, trust.Errorf(trust.Internal, "a stored compute cannot be read").Because(err)
	}
	return p, nil
}

// putCompute attaches a namespace of a cluster. An attached one can be attached
// again as it is, which checks everything anew, and not be changed.
func (k *call) putCompute() (*arm.Answer, error) {
	b, err := k.decode()
	if err != nil {
		return nil, err
	}
	old, write, err := k.old()
	if err != nil {
		return nil, err
	}
	if old.Revision == 0 && !computeName.MatchString(k.ID.Name()) {
		return nil, arm.BadParameter("computeName", "the name '%.100s' must have 3 to 24 letters, digits and '-', begin with a letter and not end with '-'", k.ID.Name())
	}
	p, err := k.readCompute(b)
	if err != nil {
		return nil, err
	}
	if old.Revision != 0 {
		was, err := readCompute(&old.Value)
		if err != nil {
			return nil, err
		}
		if old.Value.State == arm.Deleting {
			return nil, pending(arm.Deleting)
		}
		if !arm.SameID(was.Cluster, p.Cluster) || was.Compute.Namespace != p.Compute.Namespace {
			e := arm.Errorf(trust.Conflict, arm.Conflict, "The compute '%s' is attached to namespace %s of %s already. An attached compute cannot be moved.", k.ID.Name(), was.Compute.Namespace, was.Cluster)
			e.Hint = "sallyport ml compute detach -g " + k.ID.Group + " -w " + k.workspaceName() + " -n " + k.ID.Name() + ", or choose another name"
			return nil, e
		}
	}
	r := k.record(old, b)
	p.Compute.UID, p.Compute.Name = r.UID, k.ID.Name()
	if r.Private, err = json.Marshal(p); err != nil {
		return nil, err
	}
	if r.Properties, err = overlay(r.Properties, append(readOnlyCompute, "relayConnectionString"), nil); err != nil {
		return nil, err
	}
	op, err := k.operation(opAttach, &r)
	if err != nil {
		return nil, err
	}
	status := http.StatusCreated
	r.State, r.Reason, r.Problem, r.Operation = creating, "", nil, op.ID
	if old.Revision != 0 {
		r.State, status = arm.Updating, http.StatusOK
	}
	if err := k.commit(write(r), store.Create(op)); err != nil {
		return nil, err
	}
	a, err := k.shown(status, &store.Item[store.Provided]{Value: r})
	if err == nil {
		k.links(&op).Created(a.Header, retryAfter)
	}
	return a, err
}

var readOnlyCompute = []string{"provisioningState", "provisioningErrors", "isAttachedCompute", "createdOn", "modifiedOn"}

func (k *call) workspaceName() string { return k.ID.Chain[0].Names[0] }

func (k *call) readCompute(b *body) (p computePrivate, err error) {
	var c computeBody
	if err := json.Unmarshal(b.Properties, &c); err != nil {
		return p, arm.BadParameter("properties", "a member has the wrong type")
	}
	if trust.Fold(c.ComputeType) != "kubernetes" {
		return p, arm.BadParameter("properties.computeType", "'%.64s' is not supported; computes of type Kubernetes are attached", c.ComputeType)
	}
	id, err := arm.ParseID(c.ResourceID)
	if err != nil || !arm.SameID(id.Type(), clusterType) {
		return p, arm.BadParameter("properties.resourceId", "'%.300s' is not the id of a cluster (%s)", c.ResourceID, clusterType)
	}
	cluster, err := store.Get[store.Cluster](k.ctx, k.Store, store.ResourceKey(id.String()))
	if trust.KindOf(err) == trust.NotFound {
		return p, arm.BadParameter("properties.resourceId", "the cluster %s does not exist", id.String())
	}
	if err != nil {
		return p, err
	}
	if k.workspace.Value.Identity == nil {
		return p, arm.Errorf(trust.Invalid, arm.BadRequest, "The workspace '%s' has no system-assigned identity, so it cannot reach a cluster. Set identity.type to SystemAssigned first.", k.workspaceName())
	}
	p.Cluster, p.Compute.Namespace = cluster.Value.ID, "default"
	if c.Properties == nil {
		return p, nil
	}
	if c.Properties.RelayConnectionString != "" || c.Properties.ServiceBusConnectionString != "" {
		return p, arm.BadParameter("properties.properties", "connection strings are not used here and not kept: leave them out")
	}
	if ns := c.Properties.Namespace; ns != "" {
		if !namespaceName.MatchString(ns) {
			return p, arm.BadParameter("properties.properties.namespace", "'%.64s' is not a namespace's name", ns)
		}
		p.Compute.Namespace = ns
	}
	p.Compute.DefaultInstanceType = c.Properties.DefaultInstanceType
	p.Compute.InstanceTypes, err = instanceTypes(c.Properties.InstanceTypes)
	if err != nil {
		return p, err
	}
	return p, nil
}

func instanceTypes(in map[string]instanceBody) (map[string]wire.InstanceType, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := map[string]wire.InstanceType{}
	for _, name := range slices.Sorted(maps.Keys(in)) {
		if !instanceName.MatchString(name) {
			return nil, arm.BadParameter("properties.properties.instanceTypes", "'%.64s' is not an instance type's name: lower-case letters, digits, '-' and '.'", name)
		}
		at := "properties.properties.instanceTypes." + name
		t := wire.InstanceType{NodeSelector: in[name].NodeSelector}
		for where, pair := range map[string]struct {
			from map[string]*string
			into *wire.Quantities
		}{"requests": {in[name].Resources.Requests, &t.Resources.Requests}, "limits": {in[name].Resources.Limits, &t.Resources.Limits}} {
			*pair.into = wire.Quantities{}
			for resourceName, text := range pair.from {
				if text == nil {
					continue
				}
				if q, err := resource.ParseQuantity(*text); err != nil || q.Sign() < 0 {
					return nil, arm.BadParameter(at+".resources."+where, "'%.64s' is no quantity of %s", *text, resourceName)
				}
				(*pair.into)[resourceName] = *text
			}
		}
		if err := fits(at, t.Resources); err != nil {
			return nil, err
		}
		out[name] = t
	}
	return out, nil
}

// fits: cpu and memory have limits, and requests are within them.
func fits(at string, r wire.Resources) error {
	if _, ok := r.Requests[wire.GPU]; ok {
		return arm.BadParameter(at+".resources.requests", "%s belongs to the limits only", wire.GPU)
	}
	for _, name := range []string{"cpu", "memory"} {
		limit, ok := r.Limits[name]
		if !ok {
			return arm.BadParameter(at+".resources.limits", "%s is missing", name)
		}
		most := resource.MustParse(limit)
		if most.Sign() == 0 {
			return arm.BadParameter(at+".resources.limits", "%s is zero", name)
		}
		if want, ok := r.Requests[name]; ok {
			if q := resource.MustParse(want); q.Cmp(most) > 0 {
				return arm.BadParameter(at+".resources.requests", "%s %s is more than the limit %s", name, want, limit)
			}
		}
	}
	return nil
}

func showCompute(r *store.Provided, set map[string]any) error {
	set["provisioningState"], set["isAttachedCompute"], set["computeType"] = r.State, true, "Kubernetes"
	set["createdOn"], set["modifiedOn"] = arm.Time(r.Stamp.CreatedAt), arm.Time(r.Stamp.LastModifiedAt)
	set["provisioningErrors"] = nil
	if p := r.Problem; p != nil {
		e := arm.Error{Code: p.Code, Message: p.Message, Target: p.Target}
		for _, d := range p.Details {
			e.Details = append(e.Details, arm.Error{Code: d.Code, Message: d.Message})
		}
		set["provisioningErrors"] = []arm.ErrorBody{{Error: e}}
	}
	return nil
}

// removeCompute detaches. What runs in the cluster goes on; the cluster itself
// is not ml's to delete.
func (k *call) removeCompute() (*arm.Answer, error) {
	switch what := k.URL.Query().Get("underlyingResourceAction"); trust.Fold(what) {
	case "detach":
	case "delete":
		return nil, arm.BadParameter("underlyingResourceAction", "a cluster was attached and is not the service's to delete: use Detach")
	default:
		return nil, arm.BadParameter("underlyingResourceAction", "'%.64s' is neither Detach nor Delete", what)
	}
	item, err := k.find()
	if trust.KindOf(err) == trust.NotFound {
		return &arm.Answer{Status: http.StatusNoContent}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := k.conditions(item.Revision); err != nil {
		return nil, err
	}
	r := item.Value
	if r.State == arm.Deleting {
		op, err := store.Get[store.Operation](k.ctx, k.Store, store.Operation{ID: r.Operation}.Key())
		if err == nil && !op.Value.Done() {
			return k.accepted(&op.Value), nil
		}
	}
	busy, jobsAt, err := k.jobsOn(&r)
	if err != nil {
		return nil, err
	}
	if busy != "" {
		e := arm.Errorf(trust.Conflict, arm.Conflict, "The job '%s' has not ended on the compute '%s'.", busy, k.ID.Name())
		e.Hint = "sallyport ml job cancel -g " + k.ID.Group + " -w " + k.workspaceName() + " -n " + busy
		return nil, e
	}
	served, servedAt, err := k.servedOn(&r)
	if err != nil {
		return nil, err
	}
	if served != "" {
		e := arm.Errorf(trust.Conflict, arm.Conflict, "The endpoint '%s' is on the compute '%s'.", served, k.ID.Name())
		e.Hint = k.says("ml online-endpoint delete") + " -n " + served
		return nil, e
	}
	op, err := k.operation(opDetach, &r)
	if err != nil {
		return nil, err
	}
	r.State, r.Operation = arm.Deleting, op.ID
	if err := k.commit(jobsAt, servedAt, store.Update(r, item.Revision), store.Create(op)); err != nil {
		return nil, err
	}
	return k.accepted(&op), nil
}

// jobsOn names a job that runs on a compute and can still be reached, "" if
// there is none; still guards that none was added since.
func (k *call) jobsOn(compute *store.Provided) (name string, still store.Op, err error) {
	below := store.ProvidedKey(k.workspace.Value.ID) + "/" + jobs + "/"
	all, revision, err := store.List[store.Provided](k.ctx, k.Store, below)
	if err != nil {
		return "", still, err
	}
	still = store.Quiet(below, revision)
	for i := range all {
		r := &all[i].Value
		if r.Parent != k.workspace.Created || ended(r.State) || r.State == notResponding && r.Problem != nil {
			continue
		}
		p, err := readJob(r)
		if err != nil {
			return "", still, err
		}
		if p.Job.Compute == compute.UID {
			return p.Job.Name, still, nil
		}
	}
	return "", still, nil
}

func pending(state string) error {
	return arm.Errorf(trust.Conflict, arm.Conflict, "Another operation (%s) is in progress on the resource. Wait for it to end.", state)
}

// workspaceCompute finds the workspace's compute that a parameter names.
func (k *call) workspaceCompute(parameter, compute string) (store.Provided, error) {
	var none store.Provided
	id, err := arm.ParseID(compute)
	if err != nil || !arm.SameID(id.Type(), Namespace+"/"+Tracked+"/"+computes) || !arm.SameID(id.Parent().String(), k.workspace.Value.ID) {
		return none, arm.BadParameter(parameter, "'%.300s' is not the id of a compute of this workspace", compute)
	}
	item, err := k.at(id)
	if trust.KindOf(err) == trust.NotFound {
		e := arm.Errorf(trust.Invalid, "ComputeNotFound", "The compute '%s' is not attached to the workspace '%s'.", id.Name(), k.workspaceName())
		e.Hint = "sallyport ml compute list -g " + k.ID.Group + " -w " + k.workspaceName() + " -o table"
		return none, e
	}
	if err != nil {
		return none, err
	}
	switch r := &item.Value; r.State {
	case arm.Succeeded:
		k.rely(&item)
		return *r, nil
	case arm.Failed:
		e := arm.Errorf(trust.Conflict, "ComputeNotAccessible", "The compute '%s' cannot be used.", id.Name())
		if r.Problem != nil {
			e.Code, e.Message, e.Hint = r.Problem.Code, e.Message+" "+r.Problem.Message, hint(r.Problem)
		}
		return none, e
	default:
		return none, pending(r.State)
	}
}
