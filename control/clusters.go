package control

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

func (c *Control) clusterRoutes() []*route {
	const in = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.ContainerService/managedClusters"
	const one = in + "/{cluster}"
	r := func(method, pattern, action string, drop int, need need, handle func(*call) (*answer, error)) *route {
		return &route{method: method, pattern: pattern, typ: clusterType, versions: arm.ContainerService, drop: drop,
			action: clusterType + "/" + action, need: need | needSubscription | needGroup, handle: handle}
	}
	stop := r("POST", one+"/stop", "stop/action", 1, needCluster, func(k *call) (*answer, error) { return k.again(func() (*answer, error) { return k.setPower(true) }) })
	stop.passesLocks = true
	return []*route{
		r("GET", "/subscriptions/{subscription}/providers/Microsoft.ContainerService/managedClusters", "read", 3, 0, (*call).listManaged),
		r("GET", in, "read", 3, 0, (*call).listManaged),
		r("GET", one, "read", 0, needCluster, (*call).getCluster),
		r("PUT", one, "write", 0, 0, (*call).putCluster),
		r("PATCH", one, "write", 0, needCluster, (*call).patchCluster),
		r("DELETE", one, "delete", 0, 0, func(k *call) (*answer, error) { return k.again(k.removeCluster) }),
		r("POST", one+"/start", "start/action", 1, needCluster, func(k *call) (*answer, error) { return k.again(func() (*answer, error) { return k.setPower(false) }) }),
		stop,
		r("POST", one+"/listClusterUserCredential", "listClusterUserCredential/action", 1, needCluster, (*call).userCredential),
		r("POST", one+"/listClusterAdminCredential", "listClusterAdminCredential/action", 1, needCluster, (*call).adminCredential),
	}
}

type clusterBody struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Location   string            `json:"location"`
	Tags       map[string]string `json:"tags,omitempty"`
	ETag       string            `json:"eTag"`
	Properties bag               `json:"properties"`
	SystemData *systemData       `json:"systemData,omitempty"`
	Other      bag               `json:"-"`
}

// MarshalJSON writes the members that we have no field for beside the others.
func (b clusterBody) MarshalJSON() ([]byte, error) {
	type plain clusterBody
	return beside(b.Other, plain(b))
}

// beside merges the members of v, which win, into those of other.
func beside(other bag, v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil || len(other) == 0 {
		return raw, err
	}
	var own bag
	if err := json.Unmarshal(raw, &own); err != nil {
		return nil, err
	}
	for k, m := range other {
		if !own.has(k) {
			own[k] = m
		}
	}
	return json.Marshal(own)
}

type systemData = arm.SystemData

func systemDataOf(s store.Stamp) *systemData {
	return &systemData{CreatedBy: s.CreatedBy, CreatedByType: s.CreatedByType, CreatedAt: arm.Time(s.CreatedAt),
		LastModifiedBy: s.LastModifiedBy, LastModifiedByType: s.LastModifiedByType, LastModifiedAt: arm.Time(s.LastModifiedAt)}
}

// readOnly are properties of a managed cluster that a caller cannot set; clients
// that read, change and write send them back.
var readOnly = []string{"provisioningState", "powerState", "fqdn", "privateFQDN", "azurePortalFQDN", "currentKubernetesVersion",
	"maxAgentPools", "resourceUID", "agentPoolProfiles", "nodeReport", "status"}

func (c *Control) clusterBody(item store.Item[store.Cluster]) clusterBody {
	r := item.Value
	// What was stored was read once; it can be read again.
	p, _ := parseBag(r.Properties)
	other, _ := parseBag(r.Other)
	power := "Running"
	if r.Stopped {
		power = "Stopped"
	}
	if !p.has("servicePrincipalProfile") {
		// As a cluster with a managed identity has it; az reads a member of it.
		p.set("servicePrincipalProfile", map[string]string{"clientId": "msi"})
	}
	p.set("provisioningState", r.State).set("powerState", map[string]string{"code": power}).
		set("resourceUID", r.UID).set("disableLocalAccounts", r.DisableLocalAccounts)
	return clusterBody{ID: r.ID, Name: nameOf(r.ID), Type: clusterType, Location: r.Location, Tags: r.Tags,
		ETag: arm.ETag(item.Revision), Properties: p, SystemData: systemDataOf(r.Stamp), Other: other}
}

func (k *call) listManaged() (*answer, error) { return listClusters(k, k.withNodes) }

// listClusters shows a page of the group's or subscription's clusters, each as
// body shows it.
func listClusters[B any](k *call, body func(store.Item[store.Cluster]) (B, error)) (*answer, error) {
	page, err := arm.ParsePage(k.request.URL.Query(), pageSize)
	if err != nil {
		return nil, err
	}
	all, _, err := store.List[store.Cluster](k.ctx, k.Store, store.ResourceKey(k.id.String())+"/", store.Limit(page.Top+1), store.After(page.After))
	if err != nil {
		return nil, err
	}
	var failed error
	a := listed(k, page, all, func(item store.Item[store.Cluster]) B {
		b, err := body(item)
		failed = errors.Join(failed, err)
		return b
	})
	return a, failed
}

func (k *call) getCluster() (*answer, error) {
	b, err := k.withNodes(k.cluster)
	if err != nil {
		return nil, err
	}
	a := ok(b)
	a.h().Set("ETag", arm.ETag(k.cluster.Revision))
	return a, nil
}

type clusterRequest struct {
	Location   string
	Tags       map[string]string
	Properties json.RawMessage
}

// putCluster registers a cluster that exists, or changes its registration. It
// makes no nodes, so a request for some is refused.
func (k *call) putCluster() (*answer, error) {
	if name := k.vars["cluster"]; !arm.ValidClusterName(name) {
		return nil, badName("managedClusterName", name, arm.ClusterNamePattern, 63)
	}
	var body clusterRequest
	data, err := k.decode(&body)
	if err != nil {
		return nil, err
	}
	old, err := k.findCluster()
	if err != nil {
		return nil, err
	}
	if err := k.conditions(old.Revision); err != nil {
		return nil, err
	}
	if err := groupOpen(&k.group.Value); err != nil {
		return nil, err
	}
	r, write, status := old.Value, store.Create, http.StatusCreated
	var more []store.Op
	if old.Revision == 0 {
		r = store.Cluster{ID: k.id.String(), UID: trust.ClusterUID(newUID()), State: arm.Succeeded}
		more = append(more, store.Create(mandateOf(&r)))
	} else {
		write, status = updating(old.Revision), http.StatusOK
		if r.Deleting {
			return nil, pending(arm.Deleting)
		}
	}
	if err := k.applyCluster(&r, body, old.Revision == 0); err != nil {
		return nil, err
	}
	if r.Other, err = others(data); err != nil {
		return nil, err
	}
	r.Stamp = k.stamp(r.Stamp, &k.caller)
	rev, err := k.commit(k.durable(), append(k.within(write(r)), more...)...)
	if err != nil {
		return nil, err
	}
	b, err := k.withNodes(store.Item[store.Cluster]{Value: r, Revision: rev})
	if err != nil {
		return nil, err
	}
	a := &answer{status: status, body: b}
	a.h().Set("ETag", arm.ETag(rev))
	return a, nil
}

// findCluster reads the cluster of the path; none is the zero item.
func (k *call) findCluster() (store.Item[store.Cluster], error) {
	return store.Find[store.Cluster](k.ctx, k.Store, store.ResourceKey(k.id.String()))
}

// conditions holds If-Match and If-None-Match against a revision, 0 for absent.
func (k *call) conditions(revision int64) error {
	etag := ""
	if revision != 0 {
		etag = arm.ETag(revision)
	}
	return arm.ParseConditions(k.request.Header).Check(etag)
}

func badName(parameter, name, pattern string, most int) error {
	return arm.BadParameter(parameter, "the name '%.100s' must have 1 to %d characters and match %s", name, most, pattern)
}

// applyCluster takes over what a body says.
func (k *call) applyCluster(r *store.Cluster, body clusterRequest, isNew bool) error {
	if body.Location == "" && isNew {
		return arm.Errorf(trust.Invalid, arm.LocationRequired, "The location property is required for this definition.")
	}
	if body.Location != "" {
		location, known := k.knownLocation(body.Location)
		if !known {
			return arm.Errorf(trust.Invalid, arm.LocationNotAvailable, "The provided location '%.64s' is not available for resource type '%s'. List of available regions for the resource type is '%s'.", body.Location, clusterType, joined(k.Locations))
		}
		if !isNew && !arm.SameLocation(location, r.Location) {
			return arm.Errorf(trust.Conflict, arm.InvalidResourceLocation, "The resource '%s' already exists in location '%s' in resource group '%s'. A resource with the same name cannot be created in location '%s'. Please select a new resource name.", nameOf(r.ID), r.Location, k.id.Group, location)
		}
		r.Location = location
	}
	if err := checkTags(body.Tags); err != nil {
		return err
	}
	r.Tags = body.Tags
	p, err := parseBag(body.Properties)
	if err != nil {
		return err
	}
	if isNew {
		var pools []struct{ Count int }
		if _, err := p.get("agentPoolProfiles", &pools); err != nil {
			return err
		}
		for _, pool := range pools {
			if pool.Count > 0 {
				e := arm.BadParameter("properties.agentPoolProfiles", "Sallyport registers clusters that exist and creates no nodes")
				e.Hint = "leave agentPoolProfiles out, or give every pool a count of 0"
				return e
			}
		}
	}
	p.drop(readOnly...)
	r.DisableLocalAccounts = false
	if _, err := p.get("disableLocalAccounts", &r.DisableLocalAccounts); err != nil {
		return err
	}
	if r.AuthorizedIPRanges, err = accessProfile(p); err != nil {
		return err
	}
	r.Properties = p.store()
	return nil
}

// maxRanges is AKS's limit of authorized ranges.
const maxRanges = 200

// accessProfile checks apiServerAccessProfile and returns the authorized ranges.
func accessProfile(p bag) ([]string, error) {
	const at = "properties.apiServerAccessProfile"
	var profile *struct {
		AuthorizedIPRanges             []string
		EnablePrivateCluster           bool
		EnablePrivateClusterPublicFQDN *bool
		PrivateDNSZone                 string
	}
	if _, err := p.get("apiServerAccessProfile", &profile); err != nil || profile == nil {
		return nil, err
	}
	if len(profile.AuthorizedIPRanges) > maxRanges {
		return nil, arm.BadParameter(at+".authorizedIPRanges", "it has %d entries, the limit is %d", len(profile.AuthorizedIPRanges), maxRanges)
	}
	if profile.EnablePrivateCluster && len(profile.AuthorizedIPRanges) > 0 {
		return nil, arm.BadParameter(at+".authorizedIPRanges", "authorized IP ranges cannot be combined with a private cluster")
	}
	public := profile.EnablePrivateClusterPublicFQDN
	if profile.EnablePrivateCluster && is(profile.PrivateDNSZone, "none") && public != nil && !*public {
		return nil, arm.BadParameter(at+".privateDNSZone", "it cannot be none while enablePrivateClusterPublicFQDN is false")
	}
	for _, s := range profile.AuthorizedIPRanges {
		if _, err := netip.ParsePrefix(s); err == nil {
			continue
		}
		if _, err := netip.ParseAddr(s); err != nil {
			return nil, arm.BadParameter(at+".authorizedIPRanges", "'%.64s' is neither an address nor a range like 198.51.100.0/24", s)
		}
	}
	return profile.AuthorizedIPRanges, nil
}

func is(a, b string) bool { return arm.SameID(a, b) }

// patchCluster changes tags, the only thing that AKS lets a PATCH change.
func (k *call) patchCluster() (*answer, error) {
	var body struct{ Tags *map[string]string }
	if _, err := k.decode(&body); err != nil {
		return nil, err
	}
	if err := k.conditions(k.cluster.Revision); err != nil {
		return nil, err
	}
	r := k.cluster.Value
	if r.Deleting {
		return nil, pending(arm.Deleting)
	}
	if body.Tags != nil {
		if err := checkTags(*body.Tags); err != nil {
			return nil, err
		}
		r.Tags = *body.Tags
	}
	r.Stamp = k.stamp(r.Stamp, &k.caller)
	rev, err := k.commit(k.durable(), store.Update(r, k.cluster.Revision))
	if err != nil {
		return nil, err
	}
	b, err := k.withNodes(store.Item[store.Cluster]{Value: r, Revision: rev})
	return ok(b), err
}

// mandateOf is the record that is written whenever what a cluster's agents are
// told changes.
func mandateOf(r *store.Cluster) store.Mandate {
	return store.Mandate{Cluster: r.UID, ClusterID: r.ID}
}

// removeCluster shuts the cluster in one transaction; the operation removes its
// bindings and then itself.
func (k *call) removeCluster() (*answer, error) {
	item, err := k.findCluster()
	if err != nil {
		return nil, err
	}
	if item.Revision == 0 {
		return empty(http.StatusNoContent), nil
	}
	if err := k.conditions(item.Revision); err != nil {
		return nil, err
	}
	r := item.Value
	if r.Deleting {
		return k.accepted(r.ID, "Microsoft.ContainerService", opClusterDelete)
	}
	r.Deleting, r.State, r.Stamp = true, arm.Deleting, k.stamp(r.Stamp, &k.caller)
	op, err := k.newOperation(opClusterDelete, r.ID, clusterInput{r.UID})
	if err != nil {
		return nil, err
	}
	if _, err := k.commit(k.durable(), store.Update(r, item.Revision), store.Put(mandateOf(&r)), store.Create(op)); err != nil {
		return nil, err
	}
	return k.acceptedAs(op, "Microsoft.ContainerService"), nil
}

// clusterInput tells an operation which registration of a name it works on.
type clusterInput struct{ UID trust.ClusterUID }

// setPower stops or starts a cluster. Stopped, it lets nobody through; nodes are
// none of Sallyport's business.
func (k *call) setPower(stopped bool) (*answer, error) {
	r := k.cluster.Value
	if r.Deleting {
		return nil, pending(arm.Deleting)
	}
	r.Stopped, r.Stamp = stopped, k.stamp(r.Stamp, &k.caller)
	op, err := k.newOperation(opClusterPower, r.ID, clusterInput{r.UID})
	if err != nil {
		return nil, err
	}
	r.State = "Starting"
	op.Reason = "letting bound sources through again; nodes and the API server are not touched"
	if stopped {
		r.State = "Stopping"
		op.Reason = "waiting until nobody is let through; nodes and the API server go on running"
	}
	if _, err := k.commit(k.durable(), store.Update(r, k.cluster.Revision), store.Put(mandateOf(&r)), store.Create(op)); err != nil {
		return nil, err
	}
	return k.acceptedAs(op, "Microsoft.ContainerService"), nil
}

// since writes a moment for people.
func since(t time.Time) string { return t.UTC().Format(time.RFC3339) }
