package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/extension"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const (
	extensionType  = "Microsoft.KubernetesConfiguration/extensions"
	connectedType  = "Microsoft.Kubernetes/connectedClusters"
	extensionSpace = "Microsoft.KubernetesConfiguration"
)

// An extension is the resource {cluster}/providers/Microsoft.KubernetesConfiguration/extensions/{name}.
// What it does in the cluster is its installer's business; a state says
// Succeeded only when the installer has said so.
func (c *Control) extensionRoutes() []*route {
	var all []*route
	for _, cluster := range []string{clusterType, connectedType} {
		in := "/subscriptions/{subscription}/resourceGroups/{group}/providers/" + cluster + "/{cluster}/providers/" + extensionType
		one := in + "/{extension}"
		r := func(method, pattern, action string, drop int, handle func(*call) (*answer, error)) *route {
			return &route{method: method, pattern: pattern, typ: extensionType, versions: arm.KubernetesConfiguration, drop: drop,
				action: action, need: needSubscription | needGroup | needCluster, handle: handle}
		}
		all = append(all,
			r("GET", in, extensionType+"/read", 3, (*call).listExtensions),
			r("GET", one, extensionType+"/read", 0, (*call).getExtension),
			r("PUT", one, extensionType+"/write", 0, (*call).putExtension),
			r("PATCH", one, extensionType+"/write", 0, (*call).patchExtension),
			r("DELETE", one, extensionType+"/delete", 0, func(k *call) (*answer, error) { return k.again(k.removeExtension) }),
			r("GET", one+"/operations/{operation}", handlerAsks, 2, (*call).extensionOperation),
		)
	}
	return all
}

// managed is the id of what is registered as a managed cluster, if id names it,
// or something below it, as a connected one: they are one kind here.
func managed(id arm.ID) (_ arm.ID, connected bool) {
	if len(id.Chain) == 0 || len(id.Chain[0].Types) != 1 || !is(id.Chain[0].Namespace+"/"+id.Chain[0].Types[0], connectedType) {
		return id, false
	}
	namespace, typ, _ := strings.Cut(clusterType, "/")
	chain := slices.Clone(id.Chain)
	chain[0] = arm.Provider{Namespace: namespace, Types: []string{typ}, Names: chain[0].Names}
	id.Chain = chain
	return id, true
}

var extensionName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,51}[a-zA-Z0-9])?$`)

type extensionBody struct {
	ID         string        `json:"id"`
	Name       string        `json:"name"`
	Type       string        `json:"type"`
	Identity   *identityBody `json:"identity,omitempty"`
	Properties bag           `json:"properties"`
	SystemData *systemData   `json:"systemData,omitempty"`
}

type extensionStatusBody struct {
	Code    string `json:"code"`
	Display string `json:"displayStatus,omitempty"`
	Level   string `json:"level"`
	Message string `json:"message"`
	Time    string `json:"time,omitempty"`
}

// bodyOfExtension shows the extension as the path names its cluster. Protected
// settings have their keys and empty values.
func (k *call) bodyOfExtension(x *store.Extension) extensionBody {
	p, _ := parseBag(x.Extra)
	scope := map[string]any{"cluster": map[string]string{"releaseNamespace": x.Release}}
	if x.Namespace != "" {
		scope = map[string]any{"namespace": map[string]string{"targetNamespace": x.Namespace}}
	}
	statuses := []extensionStatusBody{}
	for _, s := range slices.Concat(x.Warnings, k.notLooked(x), x.Installed.Statuses) {
		statuses = append(statuses, extensionStatusBody{Code: s.Code, Level: s.Level, Message: s.Message, Time: arm.Time(s.Time)})
	}
	p.set("extensionType", x.Type).set("autoUpgradeMinorVersion", x.AutoUpgrade).set("releaseTrain", x.Train).set("scope", scope).
		set("configurationSettings", x.Settings).set("configurationProtectedSettings", extension.WithoutSecrets(x.ProtectedKeys)).
		set("provisioningState", x.State).set("statuses", statuses).set("isSystemExtension", false)
	if x.Version != "" {
		p.set("version", x.Version)
	}
	if x.Installed.Present && x.Installed.Version != "" {
		p.set("currentVersion", x.Installed.Version)
	}
	if x.Problem != nil {
		p.set("errorInfo", problemBody(x.Problem))
	}
	id := x.ID()
	if k.connected {
		id = strings.Replace(id, "/providers/"+clusterType+"/", "/providers/"+connectedType+"/", 1)
	}
	b := extensionBody{ID: id, Name: x.Name, Type: extensionType, Properties: p, SystemData: systemDataOf(x.Stamp)}
	if i := x.Identity; i != nil {
		b.Identity = &identityBody{"SystemAssigned", i.PrincipalID, i.TenantID, i.ClientID}
	}
	return b
}

func extensionsOf(cluster string) string {
	return strings.TrimSuffix(store.Extension{ClusterID: cluster, Name: "x"}.Key(), "x")
}

func (k *call) listExtensions() (*answer, error) {
	page, err := arm.ParsePage(k.request.URL.Query(), pageSize)
	if err != nil {
		return nil, err
	}
	all, _, err := store.List[store.Extension](k.ctx, k.Store, extensionsOf(k.cluster.Value.ID), store.Limit(page.Top+1), store.After(page.After))
	if err != nil {
		return nil, err
	}
	return listed(k, page, all, func(x store.Item[store.Extension]) extensionBody { return k.bodyOfExtension(&x.Value) }), nil
}

// findExtension reads the extension of the path; none is the zero item.
func (k *call) findExtension() (store.Item[store.Extension], error) {
	return store.Find[store.Extension](k.ctx, k.Store, store.Extension{ClusterID: k.cluster.Value.ID, Name: k.vars["extension"]}.Key())
}

func (k *call) getExtension() (*answer, error) {
	x, err := k.findExtension()
	if err != nil {
		return nil, err
	}
	if x.Revision == 0 {
		return nil, arm.NoResource(k.id)
	}
	return ok(k.bodyOfExtension(&x.Value)), nil
}

type extensionProperties struct {
	ExtensionType           string
	AutoUpgradeMinorVersion *bool
	ReleaseTrain, Version   *string
	Scope                   *struct {
		Cluster   *struct{ ReleaseNamespace string }
		Namespace *struct{ TargetNamespace string }
	}
	ConfigurationSettings          map[string]string
	ConfigurationProtectedSettings map[string]string
}

type extensionRequest struct {
	Identity   *struct{ Type string }
	Plan       json.RawMessage
	Properties json.RawMessage
}

// extensionWant reads a body. A value that is not a string is told by its key:
// "True", not true.
func (k *call) extensionWant() (*extensionRequest, *extensionProperties, bag, error) {
	var body extensionRequest
	if _, err := k.decode(&body); err != nil {
		return nil, nil, nil, err
	}
	extra, err := parseBag(body.Properties)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, settings := range []string{"configurationSettings", "configurationProtectedSettings"} {
		var values map[string]any
		if _, err := extra.get(settings, &values); err != nil {
			return nil, nil, nil, err
		}
		for _, key := range slices.Sorted(maps.Keys(values)) {
			if _, text := values[key].(string); !text {
				return nil, nil, nil, arm.BadParameter("properties."+settings+"."+cutKey(key), `all settings are strings: "True", not true`)
			}
		}
	}
	p := &extensionProperties{}
	if len(body.Properties) > 0 {
		if err := json.Unmarshal(body.Properties, p); err != nil {
			return nil, nil, nil, arm.BadParameter("properties", "a member has the wrong type")
		}
	}
	if raw := strings.TrimSpace(string(body.Plan)); raw != "" && raw != "null" {
		return nil, nil, nil, arm.BadParameter("plan", "nothing is sold here: leave the plan out")
	}
	extra.drop("extensionType", "autoUpgradeMinorVersion", "releaseTrain", "version", "scope", "configurationSettings", "configurationProtectedSettings",
		"provisioningState", "currentVersion", "statuses", "errorInfo", "isSystemExtension", "packageUri", "customLocationSettings", "aksAssignedIdentity", "extensionState")
	return &body, p, extra, nil
}

func cutKey(s string) string { return s[:min(len(s), 100)] }

// putExtension stores what is wanted, all of it, and an operation that waits
// for the installer.
func (k *call) putExtension() (*answer, error) {
	if name := k.vars["extension"]; !extensionName.MatchString(name) {
		return nil, badName("extensionName", name, extensionName.String(), 53)
	}
	body, p, extra, err := k.extensionWant()
	if err != nil {
		return nil, err
	}
	old, err := k.findExtension()
	if err != nil {
		return nil, err
	}
	t, err := extension.Find(p.ExtensionType)
	if err != nil {
		return nil, err
	}
	x := store.Extension{ClusterID: k.cluster.Value.ID, ClusterUID: k.cluster.Value.UID, Name: k.vars["extension"], UID: newUID(), Type: t.Name, AutoUpgrade: true, Extra: extra.store()}
	if old.Revision != 0 {
		o := &old.Value
		x.Name, x.UID, x.Generation, x.Identity, x.Begun, x.Installed, x.Stamp = o.Name, o.UID, o.Generation, o.Identity, o.Begun, o.Installed, o.Stamp
	}
	scope := extension.Scope{}
	inCluster, inNamespace := p.Scope != nil && p.Scope.Cluster != nil, p.Scope != nil && p.Scope.Namespace != nil
	if inCluster {
		scope.Release = p.Scope.Cluster.ReleaseNamespace
	}
	if inNamespace {
		scope.Target = p.Scope.Namespace.TargetNamespace
	}
	if scope, err = t.Place(scope, inCluster, inNamespace); err != nil {
		return nil, err
	}
	x.Release, x.Namespace = scope.Release, scope.Target
	if o := &old.Value; old.Revision != 0 && (o.Type != x.Type || o.Release != x.Release || o.Namespace != x.Namespace) {
		return nil, arm.BadParameter("properties", "the type and the scope of an extension cannot be changed; delete it and create it anew")
	}
	return k.storeExtension(&t, &x, old, p, extension.Values{Plain: p.ConfigurationSettings, Protected: p.ConfigurationProtectedSettings}, body)
}

// patchExtension adds and changes settings, and replaces the protected ones if
// it sends any. Nothing else but train and version can be changed.
func (k *call) patchExtension() (*answer, error) {
	body, p, _, err := k.extensionWant()
	if err != nil {
		return nil, err
	}
	old, err := k.findExtension()
	if err != nil {
		return nil, err
	}
	if old.Revision == 0 {
		return nil, arm.NoResource(k.id)
	}
	x := old.Value
	t, err := extension.Find(x.Type)
	if err != nil {
		return nil, err
	}
	if p.ExtensionType != "" && !is(p.ExtensionType, x.Type) || p.Scope != nil {
		return nil, arm.BadParameter("properties", "a PATCH changes settings, release train and version; the type and the scope of an extension cannot be changed")
	}
	kept, err := k.secretsOf(&x)
	if err != nil {
		return nil, err
	}
	settings := t.Merge(extension.Values{Plain: x.Settings, Protected: kept},
		extension.Values{Plain: p.ConfigurationSettings, Protected: p.ConfigurationProtectedSettings}, p.ConfigurationProtectedSettings != nil)
	return k.storeExtension(&t, &x, old, p, settings, body)
}

// storeExtension holds what is wanted to the type's rules and commits it.
func (k *call) storeExtension(t *extension.Type, x *store.Extension, old store.Item[store.Extension], p *extensionProperties, sent extension.Values, body *extensionRequest) (*answer, error) {
	if err := groupOpen(&k.group.Value); err != nil {
		return nil, err
	}
	if k.cluster.Value.Deleting || old.Value.Deleting {
		return nil, pending(arm.Deleting)
	}
	if p.AutoUpgradeMinorVersion != nil {
		x.AutoUpgrade = *p.AutoUpgradeMinorVersion
	}
	if p.Version != nil {
		x.Version = *p.Version
	}
	if err := t.Pin(x.Version, x.AutoUpgrade); err != nil {
		return nil, err
	}
	var err error
	train := x.Train
	if p.ReleaseTrain != nil {
		train = *p.ReleaseTrain
	}
	if x.Train, err = t.Train(train); err != nil {
		return nil, err
	}
	nodes, err := k.readyNodes(k.ctx, k.cluster.Value.UID)
	if err != nil {
		return nil, err
	}
	values, warnings, err := t.Resolve(sent, extension.Cluster{ID: k.cluster.Value.ID, Name: nameOf(k.cluster.Value.ID), Location: k.cluster.Value.Location, Nodes: nodes})
	if err != nil {
		return nil, err
	}
	if err := t.Keeps(extension.Values{Plain: old.Value.Settings}, values); err != nil {
		return nil, err
	}
	x.Settings, x.Generation = values.Plain, x.Generation+1
	if err := k.sealSecrets(x, values.Protected); err != nil {
		return nil, err
	}
	x.Warnings = nil
	for _, w := range warnings {
		x.Warnings = append(x.Warnings, store.ExtensionStatus{Code: w.Code, Level: "Warning", Message: w.Message, Time: k.Now().UTC()})
	}
	ops, err := k.onlyOfItsType(t, x)
	if err != nil {
		return nil, err
	}
	ops = append(ops, k.extensionIdentity(x, body)...)
	op, err := k.newOperation(opExtensionApply, x.ID(), extensionInput{UID: x.UID, Generation: x.Generation, Cluster: x.ClusterUID})
	if err != nil {
		return nil, err
	}
	write, status := store.Create, http.StatusCreated
	x.State, x.Problem, x.Operation, x.Stamp = "Creating", nil, op.ID, k.stamp(x.Stamp, &k.caller)
	if old.Revision != 0 {
		x.State, write, status = arm.Updating, updating(old.Revision), http.StatusOK
	}
	ops = append([]store.Op{write(*x), store.Create(op), store.Put(mandateOf(&k.cluster.Value)),
		store.Guard(k.cluster.Value.Key(), k.cluster.Revision), store.Guard(k.group.Value.Key(), k.group.Revision)}, ops...)
	if _, err := k.commit(k.durable(), ops...); err != nil {
		if errors.Is(err, store.ErrConflict) {
			return nil, pending(arm.Updating).Because(err)
		}
		return nil, err
	}
	a := &answer{status: status, body: k.bodyOfExtension(x)}
	links := k.links(&op, extensionSpace)
	if k.route.method == http.MethodPatch {
		a.status = http.StatusAccepted
		links.Accepted(a.h(), retryAfter)
		return a, nil
	}
	links.Created(a.h(), retryAfter)
	return a, nil
}

// onlyOfItsType refuses a second extension of a type that has one place.
func (k *call) onlyOfItsType(t *extension.Type, x *store.Extension) ([]store.Op, error) {
	if !t.Fixed {
		return nil, nil
	}
	prefix := extensionsOf(x.ClusterID)
	all, rev, err := store.List[store.Extension](k.ctx, k.Store, prefix)
	if err != nil {
		return nil, err
	}
	for _, other := range all {
		if other.Value.Type == x.Type && other.Value.UID != x.UID {
			return nil, arm.Errorf(trust.Exists, arm.Conflict, "The cluster has an extension of type %s already: %s. There can be one, since it is always in namespace %s.", x.Type, other.Value.Name, x.Release)
		}
	}
	return []store.Op{store.Quiet(prefix, rev)}, nil
}

// extensionIdentity makes the identity that a body asks for; it stays for the
// life of the extension.
func (k *call) extensionIdentity(x *store.Extension, body *extensionRequest) []store.Op {
	if x.Identity != nil || body.Identity == nil || !is(body.Identity.Type, "SystemAssigned") {
		return nil
	}
	x.Identity = &store.SystemIdentity{PrincipalID: newUID(), TenantID: k.Tenant, ClientID: newUID()}
	return []store.Op{store.Create(store.Identity{ClientID: x.Identity.ClientID, ObjectID: x.Identity.PrincipalID, TenantID: k.Tenant,
		Kind: "ManagedIdentity", ResourceID: x.ID(), DisplayName: x.Name, Stamp: k.stamp(store.Stamp{}, &k.caller)})}
}

// sealSecrets puts the protected settings into the record so that it does not
// show them.
func (c *Control) sealSecrets(x *store.Extension, protected map[string]string) error {
	x.ProtectedKeys, x.Sealed = slices.Sorted(maps.Keys(protected)), nil
	if len(protected) == 0 {
		return nil
	}
	if c.Seal == nil {
		return trust.Errorf(trust.Unavailable, "this server has no seal key, so it takes no protected settings")
	}
	plain, err := json.Marshal(protected)
	if err != nil {
		return fmt.Errorf("encode protected settings: %w", err)
	}
	x.Sealed, err = c.Seal.Seal(x.Key(), uint64(x.Generation), plain)
	return err
}

// secretsOf opens the protected settings.
func (c *Control) secretsOf(x *store.Extension) (map[string]string, error) {
	if len(x.Sealed) == 0 {
		return nil, nil
	}
	if c.Seal == nil {
		return nil, trust.Errorf(trust.Unavailable, "this server has no seal key, so it cannot open protected settings")
	}
	plain, err := c.Seal.Open(x.Key(), uint64(x.Generation), x.Sealed)
	if err != nil {
		return nil, fmt.Errorf("protected settings of %s: %w", x.ID(), err)
	}
	var out map[string]string
	return out, json.Unmarshal(plain, &out)
}

// turnExtension says whether an extension shall be in the cluster or be removed
// from it. Each turn is a generation of its own, for which the protected settings
// are sealed anew: what the installer says of one is never taken for the other.
func (c *Control) turnExtension(x *store.Extension, remove bool) error {
	kept, err := c.secretsOf(x)
	if err != nil {
		return err
	}
	x.Deleting, x.Generation = remove, x.Generation+1
	return c.sealSecrets(x, kept)
}

// removeExtension has the installer remove it. With forceDelete the record goes
// at once, whatever is in the cluster.
func (k *call) removeExtension() (*answer, error) {
	item, err := k.findExtension()
	if err != nil {
		return nil, err
	}
	if item.Revision == 0 {
		return empty(http.StatusNoContent), nil
	}
	x := item.Value
	if is(k.request.URL.Query().Get("forceDelete"), "true") {
		ops := append(goneExtension(&x), store.Delete(x.Key(), item.Revision), store.Put(mandateOf(&k.cluster.Value)))
		if _, err := k.commit(k.durable(), ops...); err != nil {
			return nil, err
		}
		return empty(http.StatusOK), nil
	}
	if x.Deleting {
		return k.accepted(x.ID(), extensionSpace, opExtensionDelete)
	}
	if err := k.turnExtension(&x, true); err != nil {
		return nil, err
	}
	op, err := k.newOperation(opExtensionDelete, x.ID(), extensionInput{UID: x.UID, Generation: x.Generation, Cluster: x.ClusterUID})
	if err != nil {
		return nil, err
	}
	x.State, x.Problem, x.Operation, x.Stamp = arm.Deleting, nil, op.ID, k.stamp(x.Stamp, &k.caller)
	if _, err := k.commit(k.durable(), store.Update(x, item.Revision), store.Create(op), store.Put(mandateOf(&k.cluster.Value))); err != nil {
		return nil, err
	}
	return k.acceptedAs(op, extensionSpace), nil
}

// goneExtension is what goes with an extension's record.
func goneExtension(x *store.Extension) []store.Op {
	if x.Identity == nil {
		return nil
	}
	return []store.Op{store.Delete(store.Identity{ClientID: x.Identity.ClientID}.Key(), 0)}
}

// extensionOperation is an operation where Azure's clients of extensions look
// for it.
func (k *call) extensionOperation() (*answer, error) {
	k.vars["namespace"] = extensionSpace
	op, err := k.operation()
	if err != nil {
		return nil, err
	}
	if !is(op.Target, (store.Extension{ClusterID: k.cluster.Value.ID, Name: k.vars["extension"]}).ID()) {
		return nil, arm.Errorf(trust.NotFound, arm.NotFound, "The operation '%.64s' was not found.", k.vars["operation"])
	}
	return k.getOperation()
}
