package netenv

import (
	"slices"
	"strings"
)

// mlRole is the trusted access role that attaching needs; its full name has the
// source type in front.
const mlRole = "Microsoft.MachineLearningServices/workspaces/mlworkload"

// bindings of a cluster that name a source.
func (e *env) bindings(cluster, source *Resource) []*Resource {
	var out []*Resource
	for _, b := range e.g.below(cluster.ID, typeBinding) {
		if sameID(b.Get("sourceResourceId").Text(), source.ID) {
			out = append(out, b)
		}
	}
	return out
}

// consented says whether a workspace has a working mlworkload binding; one among
// several is enough.
func (e *env) consented(p pair) way {
	ws, cl := e.stepTo(p.workspace.ID, p.workspace.Label()), e.stepTo(p.cluster.ID, p.cluster.Label())
	var lacking, unknown *way
	for _, b := range e.bindings(p.cluster, p.workspace) {
		step := Step{Text: "role binding " + b.Name(), Resource: b.ID, Source: b.self().Source()}
		roles, whole := b.Get("roles").Texts()
		switch {
		case contains(roles, mlRole):
			return yes(ws, step, cl)
		case !whole:
			w := maybe([]Ask{{Type: typeBinding, Scope: p.cluster.ID}}, "the roles of binding "+b.Name()+" are not known", ws, step, cl)
			unknown = &w
		default:
			step.Broken, step.Text = true, step.Text+" lacks mlworkload"
			w := no("binding "+b.Name()+" lacks the role mlworkload", ws, step, cl)
			lacking = &w
		}
	}
	switch {
	case unknown != nil:
		return *unknown
	case lacking != nil:
		return *lacking
	}
	if e.g.complete(typeBinding, p.cluster.ID) {
		return no("no role binding names "+p.workspace.Label(), ws, Step{Text: "no role binding", Broken: true}, cl)
	}
	return maybe([]Ask{{Type: typeBinding, Scope: p.cluster.ID}}, "the role bindings of the cluster are not in the input", ws, cl)
}

// pairsOf a cluster or workspace.
func (e *env) pairsOf(r *Resource) []pair {
	if e.byEnd == nil {
		e.byEnd = map[*Resource][]pair{}
		for _, p := range e.pairs {
			e.byEnd[p.cluster] = append(e.byEnd[p.cluster], p)
			e.byEnd[p.workspace] = append(e.byEnd[p.workspace], p)
		}
	}
	return e.byEnd[r]
}

// needsConsent ends a draft for each workspace of a cluster whose setting works
// with a binding only.
func (c *check) needsConsent(cluster *Resource, v Value, setting string, fix Fix, other func(*draft, pair) bool) {
	pairs := c.pairsOf(cluster)
	if len(pairs) == 0 {
		c.about(cluster).see(setting, v).unknown([]Ask{{Type: typeBinding, Scope: cluster.ID}, {Type: typeCompute}}, "which workspaces use the cluster is not known")
		return
	}
	for _, p := range pairs {
		d := c.about(cluster, p.workspace).see(setting, v)
		az, tf := bindingFix(p)
		d.fix(strings.TrimSpace(fix.Az+"\n"+az), strings.TrimSpace(fix.Terraform+"\n"+tf))
		w := c.consented(p)
		if !w.ok && other != nil && other(d, p) {
			continue
		}
		d.judge(w, "a role binding lets the workspace in regardless")
	}
}

func bindingFix(p pair) (az, tf string) {
	return "az aks trustedaccess rolebinding create -g " + idGroup(p.cluster.ID) + " --cluster-name " + p.cluster.Name() + " -n ml --source-resource-id " + p.workspace.ID + " --roles " + mlRole,
		"resource \"azurerm_kubernetes_cluster_trusted_access_role_binding\" \"ml\" {\n  name                  = \"ml\"\n  kubernetes_cluster_id = \"" + p.cluster.ID + "\"\n  source_resource_id    = \"" + p.workspace.ID + "\"\n  roles                 = [\"" + mlRole + "\"]\n}"
}

// Role definition GUIDs, the same in every tenant, each compared with published
// lists of the built-in roles.
const (
	roleOwner                = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
	roleContributor          = "b24988ac-6180-42a0-ab88-20f7382dd24c"
	roleReader               = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
	roleNetworkContributor   = "4d97b98b-1d4f-4787-a291-c67834d212e7"
	roleBlobContributor      = "ba92f5b4-2d11-453d-a403-e96b0029c9fe"
	roleAccountContributor   = "17d1049b-9a84-46fb-8f53-869881c3d3ab"
	roleAcrPull              = "7f951dda-4ed3-4680-a7ca-43fe172d538d"
	roleAcrPush              = "8311e382-0749-4cb8-b61a-304f252e45ec"
	roleClusterAdmin         = "0ab0b1a8-8aac-4efd-b8c2-3ee1fb270be8"
	roleExtensionContributor = "85cb6faf-e071-4c9b-8136-154b5a04f717"
)

// holds says whether a principal has one of the roles at a scope or above.
func (e *env) holds(principal, scope, what string, roles ...string) way {
	if principal == "" {
		return maybe(nil, "who needs "+what+" is not known before it is made")
	}
	for _, a := range e.g.rolesOf[strings.ToLower(principal)] {
		at := a.Get("scope").Text()
		if at == "" {
			at = a.ID[:max(0, strings.LastIndex(strings.ToLower(a.ID), "/providers/microsoft.authorization/"))]
		}
		def := strings.ToLower(idName(a.Get("roleDefinitionId").Text()))
		if slices.Contains(roles, def) && (at == "/" || inScope(scope, at)) {
			return yes(Step{Text: what + " at " + cond(at == "" || at == "/", "the root", label2(at)), Resource: a.ID, Source: a.self().Source()})
		}
	}
	if e.g.complete(typeAssignment, subscriptionScope(scope)) {
		return no("no assignment of "+what+" at "+label2(scope)+" or above", Step{Text: "no assignment of " + what, Broken: true})
	}
	return maybe([]Ask{{Type: typeAssignment, Scope: subscriptionScope(scope)}}, "the role assignments of the subscription are not in the input")
}

// label2 names a scope that may be a resource group or subscription.
func label2(scope string) string {
	if idType(scope) != "" {
		return label(scope)
	}
	if g := idGroup(scope); g != "" {
		return "resource group " + g
	}
	return "the subscription"
}

// principals of a resource's identity, by kind.
func principals(r *Resource) (system Value, user []Value) {
	system = r.Get("identity", "principalId")
	for _, u := range r.Get("identity", "userAssignedIdentities").Fields() {
		if p := u.Get("principalId"); p.State() == Known {
			user = append(user, p)
		}
	}
	for _, u := range r.Get("identity", "userAssignedIdentities").Items() {
		if p := u.Get("principalId"); p.State() == Known { // az ml prints a list
			user = append(user, p)
		}
	}
	slices.SortFunc(user, func(a, b Value) int { return strings.Compare(a.Text(), b.Text()) })
	return system, user
}

// hasSystemIdentity reads identity.type.
func hasSystemIdentity(r *Resource) (has bool, v Value) {
	v = r.Get("identity", "type")
	return strings.Contains(fold(v.Text()), "systemassigned"), v
}

// pairedRegions of the public cloud, by region.
var pairedRegions = func() map[string]string {
	m := map[string]string{}
	for _, p := range [][2]string{
		{"eastus", "westus"}, {"eastus2", "centralus"}, {"northcentralus", "southcentralus"}, {"westus2", "westcentralus"},
		{"northeurope", "westeurope"}, {"uksouth", "ukwest"}, {"francecentral", "francesouth"}, {"germanywestcentral", "germanynorth"},
		{"norwayeast", "norwaywest"}, {"swedencentral", "swedensouth"}, {"switzerlandnorth", "switzerlandwest"},
		{"eastasia", "southeastasia"}, {"australiaeast", "australiasoutheast"}, {"australiacentral", "australiacentral2"},
		{"japaneast", "japanwest"}, {"koreacentral", "koreasouth"}, {"centralindia", "southindia"},
		{"canadacentral", "canadaeast"}, {"southafricanorth", "southafricawest"}, {"uaenorth", "uaecentral"},
	} {
		m[p[0]], m[p[1]] = p[1], p[0]
	}
	m["brazilsouth"], m["westus3"] = "southcentralus", "eastus"
	m["westindia"] = "southindia"
	return m
}()

// region as ARM ids write it: "West Europe" is westeurope.
func region(v Value) string {
	return strings.ToLower(strings.ReplaceAll(v.Text(), " ", ""))
}
