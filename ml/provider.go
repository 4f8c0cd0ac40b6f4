package ml

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Types under a workspace.
const (
	computes     = "computes"
	jobs         = "jobs"
	environments = "environments"
	versions     = "versions"
	endpoints    = "onlineEndpoints"
	deployments  = endpoints + "/deployments"
	skus         = deployments + "/skus"
)

// linkVersion is the api-version in the URLs of operations.
const linkVersion = "2024-04-01"

const (
	pageSize   = 100
	retryAfter = time.Second
)

// Types are what ml serves, for control's front.
func Types() []arm.ProvidedType {
	t := func(typ string, methods string, actions ...string) arm.ProvidedType {
		return arm.ProvidedType{Type: Tracked + "/" + typ, Methods: strings.Fields(methods), Actions: actions, Versions: arm.MachineLearning}
	}
	return []arm.ProvidedType{
		t(computes, "GET PUT DELETE"),
		t(environments, "GET PUT DELETE"),
		t(environments+"/"+versions, "GET PUT DELETE"),
		t(jobs, "GET PUT DELETE", "cancel", "getLogs", "getFiles"),
		t(codes, "GET PUT DELETE"),
		t(codes+"/"+versions, "GET PUT DELETE", "startPendingUpload", "getFiles"),
		t(data, "GET PUT DELETE"),
		t(data+"/"+versions, "GET PUT DELETE", "startPendingUpload", "getFiles"),
		t(models, "GET PUT DELETE"),
		t(models+"/"+versions, "GET PUT DELETE", "startPendingUpload", "getFiles"),
		t(endpoints, "GET PUT PATCH DELETE", "listKeys", "regenerateKeys", "token"),
		t(deployments, "GET PUT PATCH DELETE", "getLogs"),
		t(skus, "GET"),
		t(connections, "GET PUT DELETE"),
	}
}

// call is a request with the workspace that it is about.
type call struct {
	*ML
	*arm.Call
	ctx       context.Context
	workspace store.Item[store.Source]
	kind      string // type below the workspace

	relied []store.Op // guards of records that what is committed names
}

// attempts is how often a request is looked at that loses races.
const attempts = 20

// Serve answers what control's front let through. What a client asks for must not
// fail because news of the cluster were written at the same time: a request that
// lost a race is looked at anew. Its conditions are held each time.
func (m *ML) Serve(ctx context.Context, c *arm.Call) (a *arm.Answer, err error) {
	for range attempts {
		if a, err = m.serve(ctx, c); !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			break
		}
	}
	return a, err
}

func (m *ML) serve(ctx context.Context, c *arm.Call) (*arm.Answer, error) {
	k := &call{ML: m, Call: c, ctx: ctx, kind: trust.Fold(strings.TrimPrefix(c.Type, Namespace+"/"+Tracked+"/"))}
	var err error
	if k.workspace, err = store.Get[store.Source](ctx, m.Store, store.ResourceKey(workspaceOf(c.ID.String()))); err != nil {
		parent := c.ID
		for len(parent.Chain[0].Types) > 1 {
			parent = parent.Parent()
		}
		return nil, orGone(err, arm.NoParent(parent))
	}
	switch {
	case c.List && k.is(skus):
		return k.listSKUs()
	case c.List:
		return k.list()
	case c.Method == http.MethodGet:
		item, err := k.find()
		if err != nil {
			return nil, err
		}
		return k.shown(http.StatusOK, &item)
	}
	handle, ok := handlers[strings.TrimSpace(c.Method+" "+k.kind+" "+c.Action)]
	if !ok {
		return nil, arm.Errorf(trust.Unsupported, arm.MethodNotAllowed, "The requested resource does not support http method '%.20s'.", c.Method)
	}
	return handle(k)
}

// handlers of everything but reading, by method, folded type and action.
var handlers = map[string]func(*call) (*arm.Answer, error){
	"PUT computes": (*call).putCompute, "DELETE computes": (*call).removeCompute,
	"PUT jobs": (*call).putJob, "DELETE jobs": (*call).deleteJob, "POST jobs cancel": (*call).cancelJob, "POST jobs getLogs": (*call).jobLogs,
	"POST jobs getFiles": (*call).getFiles,
	"PUT connections":    (*call).putConnection, "DELETE connections": (*call).removeConnection,
	"PUT codes": (*call).putContainer, "DELETE codes": (*call).removeContainer,
	"PUT codes/versions": (*call).putAsset, "DELETE codes/versions": (*call).removeVersion,
	"POST codes/versions startPendingUpload": (*call).startUpload, "POST codes/versions getFiles": (*call).getFiles,
	"PUT data": (*call).putContainer, "DELETE data": (*call).removeContainer,
	"PUT data/versions": (*call).putAsset, "DELETE data/versions": (*call).removeVersion,
	"POST data/versions startPendingUpload": (*call).startUpload, "POST data/versions getFiles": (*call).getFiles,
	"PUT models": (*call).putContainer, "DELETE models": (*call).removeContainer,
	"PUT models/versions": (*call).putAsset, "DELETE models/versions": (*call).removeVersion,
	"POST models/versions startPendingUpload": (*call).startUpload, "POST models/versions getFiles": (*call).getFiles,
	"PUT environments": (*call).putContainer, "DELETE environments": (*call).removeContainer,
	"PUT environments/versions": (*call).putEnvironment, "DELETE environments/versions": (*call).removeVersion,
	"PUT onlineendpoints": (*call).putEndpoint, "PATCH onlineendpoints": (*call).putEndpoint, "DELETE onlineendpoints": (*call).deleteEndpoint,
	"POST onlineendpoints listKeys": (*call).listKeys, "POST onlineendpoints regenerateKeys": (*call).regenerateKeys, "POST onlineendpoints token": (*call).token,
	"PUT onlineendpoints/deployments": (*call).putDeployment, "PATCH onlineendpoints/deployments": (*call).putDeployment,
	"DELETE onlineendpoints/deployments": (*call).deleteDeployment, "POST onlineendpoints/deployments getLogs": (*call).deploymentLogs,
}

// is tells whether the call is about a type.
func (k *call) is(typ string) bool { return k.kind == trust.Fold(typ) }

// Complete checks a workspace and says what the service says of it.
func (m *ML) Complete(now, old *store.Source) error {
	id, err := arm.ParseID(now.ID)
	if err != nil {
		return err
	}
	if old.ID == "" && !workspaceName.MatchString(id.Name()) {
		return arm.BadParameter("workspaceName", "the name '%.100s' must have 1 to 33 letters, digits, '-' and '_', begin with a letter or digit and not end with '-'", id.Name())
	}
	var p struct{ WorkspaceID string }
	if len(old.Properties) > 0 {
		if err := json.Unmarshal(old.Properties, &p); err != nil {
			return trust.Errorf(trust.Internal, "a stored workspace cannot be read").Because(err)
		}
	}
	if p.WorkspaceID == "" {
		p.WorkspaceID = uuid.NewString()
	}
	set := map[string]any{"workspaceId": p.WorkspaceID, "tenantId": m.Tenant} // no discoveryUrl: there is nothing to be found at one
	now.Properties, err = overlay(now.Properties, []string{"workspaceId", "tenantId", "discoveryUrl", "mlFlowTrackingUri", "privateEndpointConnections", "notebookInfo"}, set)
	return err
}

var workspaceName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_-]{0,31}[a-zA-Z0-9_])?$`)

// overlay drops members, and all that encoding/json would take for them, and sets
// others.
func overlay(raw json.RawMessage, drop []string, set map[string]any) (json.RawMessage, error) {
	all := map[string]json.RawMessage{}
	if len(raw) > 0 && string(raw) != "null" {
		if err := json.Unmarshal(raw, &all); err != nil {
			return nil, arm.Errorf(trust.Invalid, arm.InvalidRequestContent, "The request content was invalid and could not be deserialized: 'The member 'properties' is not an object.'")
		}
	}
	for k := range all {
		_, replaced := set[k]
		// It folds as Unicode has it: 'ſ' is an s, and the Kelvin sign a k.
		if replaced || slices.ContainsFunc(drop, func(d string) bool { return strings.EqualFold(d, k) }) {
			delete(all, k)
		}
	}
	for k, v := range set {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		all[k] = b
	}
	return json.Marshal(all)
}

// find reads the resource of the path. One of an earlier workspace of the name
// does not exist.
func (k *call) find() (store.Item[store.Provided], error) { return k.at(k.ID) }

func (k *call) at(id arm.ID) (store.Item[store.Provided], error) {
	item, err := store.Get[store.Provided](k.ctx, k.Store, store.ProvidedKey(id.String()))
	if trust.KindOf(err) == trust.NotFound || err == nil && item.Value.Parent != k.workspace.Created {
		return item, arm.NoResource(id)
	}
	return item, err
}

// old is find for a PUT: none is the zero item, with what replaces a stale one.
func (k *call) old() (item store.Item[store.Provided], write func(store.Record) store.Op, err error) {
	item, err = store.Get[store.Provided](k.ctx, k.Store, store.ProvidedKey(k.ID.String()))
	switch {
	case trust.KindOf(err) == trust.NotFound:
		item, write = store.Item[store.Provided]{}, store.Create
	case err != nil:
		return item, nil, err
	default:
		revision := item.Revision
		write = func(r store.Record) store.Op { return store.Update(r, revision) }
		if item.Value.Parent != k.workspace.Created {
			item = store.Item[store.Provided]{}
		}
	}
	return item, write, k.conditions(item.Revision)
}

func (k *call) conditions(revision int64) error {
	tag := ""
	if revision != 0 {
		tag = arm.ETag(revision)
	}
	return arm.ParseConditions(k.Header).Check(tag)
}

// body is what a PUT sends. Members that have no field are kept as they are.
type body struct {
	Location   string
	Kind       string
	Tags       map[string]string
	SKU        *sku
	Identity   *struct{ Type string }
	Properties json.RawMessage
}

// sku of a deployment: capacity is its number of instances.
type sku struct {
	Name     string `json:"name"`
	Tier     string `json:"tier,omitempty"`
	Size     string `json:"size,omitempty"`
	Family   string `json:"family,omitempty"`
	Capacity *int   `json:"capacity,omitempty"`
}

func (k *call) decode() (*body, error) {
	b := new(body)
	if err := arm.DecodeResource(k.Body, b); err != nil {
		return nil, err
	}
	if len(b.Properties) == 0 || string(b.Properties) == "null" {
		return nil, arm.BadParameter("properties", "it is missing")
	}
	return b, nil
}

// record is the resource that a PUT makes or changes.
func (k *call) record(old store.Item[store.Provided], b *body) store.Provided {
	r := old.Value
	if old.Revision == 0 {
		r = store.Provided{ID: k.ID.String(), Type: k.Type, UID: uuid.NewString(), Parent: k.workspace.Created}
	}
	r.Properties, r.Tags, r.Stamp = b.Properties, b.Tags, r.Stamp.Touched(&k.Caller, k.Now())
	if b.Location != "" {
		r.Location = arm.NormalLocation(b.Location)
	}
	return r
}

// rely has commit fail if a record changes, or goes, before it.
func (k *call) rely(item *store.Item[store.Provided]) {
	k.relied = append(k.relied, store.Guard(item.Value.Key(), item.Revision))
}

// commit stores changes, as long as the workspace, and what was relied on, is as
// it was.
func (k *call) commit(ops ...store.Op) error {
	_, err := k.Store.Commit(context.WithoutCancel(k.ctx), append(append(ops, k.relied...), store.Guard(k.workspace.Value.Key(), k.workspace.Revision))...)
	return err
}

// operation makes the operation of a request; its id is the request's.
func (k *call) operation(kind string, target *store.Provided) (store.Operation, error) {
	op, err := operation.NewRecord(kind, k.ID.Subscription, k.Location, target.ID, k.Caller.Object, inputOf(target))
	op.ID, op.Started = k.RequestID, k.Now().UTC()
	return op, err
}

// input says which creation of its target an operation is about, and on which
// cluster that is, which is to be known when the target is gone.
type input struct {
	UID     string
	Cluster string `json:",omitempty"` // resource id
}

func inputOf(target *store.Provided) input {
	var p struct{ Cluster string }
	if json.Unmarshal(target.Private, &p) != nil {
		p.Cluster = "" // whoever reads the target says so
	}
	return input{target.UID, p.Cluster}
}

func (k *call) links(op *store.Operation) arm.OperationLinks {
	return arm.Links(k.Base, op.Subscription, Namespace, op.Location, op.ID, linkVersion)
}

func (k *call) accepted(op *store.Operation) *arm.Answer {
	a := &arm.Answer{Status: http.StatusAccepted, Header: http.Header{}}
	k.links(op).Accepted(a.Header, retryAfter)
	return a
}

// shape is a resource as it is shown.
type shape struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Kind       string            `json:"kind,omitempty"`
	Location   string            `json:"location,omitempty"`
	SKU        *sku              `json:"sku,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Properties json.RawMessage   `json:"properties"`
	SystemData *arm.SystemData   `json:"systemData,omitempty"`
}

func (k *call) shape(r *store.Provided) (*shape, error) {
	s := &shape{ID: r.ID, Name: r.ID[strings.LastIndexByte(r.ID, '/')+1:], Type: r.Type, Location: r.Location, Tags: r.Tags, Properties: r.Properties,
		SystemData: &arm.SystemData{CreatedBy: r.Stamp.CreatedBy, CreatedByType: r.Stamp.CreatedByType, CreatedAt: arm.Time(r.Stamp.CreatedAt),
			LastModifiedBy: r.Stamp.LastModifiedBy, LastModifiedByType: r.Stamp.LastModifiedByType, LastModifiedAt: arm.Time(r.Stamp.LastModifiedAt)}}
	set := map[string]any{}
	var err error
	switch {
	case k.is(computes):
		err = showCompute(r, set)
	case k.is(jobs):
		err = showJob(r, set)
	case k.is(environments), k.is(codes), k.is(data), k.is(models):
		err = k.showContainer(r, set)
	case k.is(endpoints):
		err = k.showEndpoint(r, s, set)
	case k.is(deployments):
		err = k.showDeployment(r, s, set)
	default:
		set["provisioningState"] = r.State
	}
	if err == nil {
		s.Properties, err = overlay(r.Properties, slices.Collect(maps.Keys(set)), set)
	}
	return s, err
}

func (k *call) shown(status int, item *store.Item[store.Provided]) (*arm.Answer, error) {
	s, err := k.shape(&item.Value)
	a := &arm.Answer{Status: status, Body: s, Header: http.Header{}}
	if item.Revision != 0 {
		a.Header.Set("ETag", arm.ETag(item.Revision))
	}
	return a, err
}

func (k *call) list() (*arm.Answer, error) {
	page, err := arm.ParsePage(k.URL.Query(), pageSize)
	if err != nil {
		return nil, err
	}
	prefix := store.ProvidedKey(k.ID.String()) + "/" + trust.Fold(k.Type[strings.LastIndexByte(k.Type, '/')+1:]) + "/"
	all, _, err := store.List[store.Provided](k.ctx, k.Store, prefix, store.Limit(page.Top+1), store.After(page.After),
		store.Match(func(key string) bool { return !strings.Contains(strings.TrimPrefix(key, prefix), "/") }))
	if err != nil {
		return nil, err
	}
	next := ""
	if len(all) > page.Top {
		all = all[:page.Top]
		next = arm.NextLink(k.Base, k.URL, all[page.Top-1].Value.Key())
	}
	shown := []*shape{}
	for i := range all {
		if all[i].Value.Parent != k.workspace.Created {
			continue
		}
		s, err := k.shape(&all[i].Value)
		if err != nil {
			return nil, err
		}
		shown = append(shown, s)
	}
	return &arm.Answer{Status: http.StatusOK, Body: arm.NewList(shown, next)}, nil
}
