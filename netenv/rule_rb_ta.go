package netenv

import (
	"fmt"
	"slices"
	"strings"
)

func rulesRB() []*Rule {
	return []*Rule{
		{Code: "RB-01", Title: "Computes of an HBI workspace hold both storage roles", Severity: always(Error), Subject: typeWorkspace, Reads: []string{typeCompute, typeAssignment, typeStorage}, After: []string{"WS-06"}, check: rb01,
			Why: "Without Storage Blob Data Contributor and Storage Account Contributor the compute is denied listKeys and data."},
		{Code: "RB-02", Title: "The deployer may join networks", Severity: always(Info), Subject: typeVNet, Reads: []string{typeAssignment}, check: rb02,
			Why:  "Making the cluster and the endpoints needs subnets/join, virtualNetworks/join and Microsoft.Network/*/read.",
			Note: "Custom roles are not expanded: only Network Contributor, Contributor and Owner count. Who deploys is told by --deployer."},
	}
}

func rb01(c *check) {
	for _, ws := range c.g.list(typeWorkspace) {
		hbi, known, v := isHBI(ws)
		switch {
		case !known:
			c.about(ws).unclear(v, "whether workspace "+ws.Name()+" is of high business impact", ws)
			continue
		case !hbi:
			c.about(ws).see("not of high business impact", v).none("no HBI workspace")
			continue
		}
		first := c.about(ws)
		st := c.associated(first, ws, "storageAccount", typeStorage)
		if st == nil {
			continue
		}
		list := c.kubernetesComputes(ws)
		if len(list) == 0 {
			if c.g.complete(typeCompute, ws.ID) {
				first.none("no Kubernetes compute")
			} else {
				first.unknown([]Ask{{Type: typeCompute, Scope: ws.ID}}, "the computes of the workspace are not in the input")
			}
		}
		for _, x := range list {
			d := c.about(ws, x, st)
			who, _ := principals(x)
			if has, t := hasSystemIdentity(x); !has && t.State() != Unknown {
				d.ends("no system-assigned identity", t).fail("compute %s has no system-assigned identity to hold the roles", x.Name())
				continue
			}
			if who.State() != Known {
				d.unclear(who, "the principal of compute "+x.Name(), x)
				continue
			}
			w, missing := c.holds(who.Text(), st.ID, "Storage Blob Data Contributor", roleBlobContributor), "Storage Blob Data Contributor"
			if w.ok {
				next := c.holds(who.Text(), st.ID, "Storage Account Contributor", roleAccountContributor)
				next.steps = append(w.steps, next.steps...)
				w, missing = next, "Storage Account Contributor"
			}
			d.see("identity "+who.Text(), who).fix(assignFix(who.Text(), st.ID, missing)).judge(w, "both roles are held")
		}
	}
}

func rb02(c *check) {
	for _, cluster := range c.g.list(typeCluster) {
		for _, v := range c.clusterVNets(cluster) {
			d := c.about(cluster, c.g.Resource(v))
			if c.deployer == "" {
				d.unknown(nil, "who deploys is not told (--deployer, the object id)")
				continue
			}
			d.found(c.g.Resource(v)).fix(assignFix(c.deployer, v, "Network Contributor")).
				judge(c.holds(c.deployer, v, "Network Contributor", roleNetworkContributor, roleContributor, roleOwner), "the deployer may join VNet "+idName(v))
		}
	}
}

func rulesTA() []*Rule {
	return []*Rule{
		{Code: "TA-01", Title: "One role binding per attached workspace", Severity: always(Error), Subject: typeCluster, Reads: []string{typeBinding, typeCompute}, After: []string{"AK-02", "AK-03", "AK-04"}, check: ta01,
			Why:  "A cluster that is closed or has no local accounts lets the service in by a binding only. Elsewhere a binding is better and not needed.",
			Note: "An older guide wants inference-v1 and mlworkload together; since 2023 mlworkload is enough. The first is not demanded."},
		{Code: "TA-02", Title: "Roles are fully qualified, known, and of the source's type", Severity: always(Error), Subject: typeBinding, Reads: []string{typeRole}, check: ta02,
			Why: "The service answers \"non-exist role\" or \"role must begin with source resource type\"."},
		{Code: "TA-03", Title: "Bindings are valid and applied", Severity: always(Error), Subject: typeBinding, Reads: []string{typeWorkspace}, check: ta03,
			Why:  "Names have at most 24 characters; a source needs a system-assigned identity in the same subscription; a binding that is not Succeeded grants nothing.",
			Note: "The 24 characters rest on one user's runbook."},
		{Code: "TA-04", Title: "No role that reaches beyond its purpose", Severity: always(Warning), Subject: typeBinding, check: ta04,
			Why: "inference-v1 reads Secrets, executes in pods and writes ClusterRoleBindings; defender-operator reads Secrets."},
	}
}

func ta01(c *check) {
	for _, p := range c.pairs {
		d := c.about(p.cluster, p.workspace).follow([]Step{p.how})
		texts, _, _ := authorized(p.cluster)
		off, _ := p.cluster.Get("disableLocalAccounts").Truth(false)
		public, _ := p.cluster.Get("apiServerAccessProfile", "enablePrivateClusterPublicFQDN").Truth(false)
		private, _, _ := isPrivate(p.cluster)
		if len(texts) == 0 && !off && !(private && public) {
			d.grave(Info)
		}
		d.fix(bindingFix(p)).judge(c.consented(p), "a role binding names the workspace")
	}
	if len(c.pairs) == 0 && len(c.g.list(typeCluster)) > 0 {
		for _, r := range c.g.list(typeCluster) {
			c.about(r).unknown([]Ask{{Type: typeBinding, Scope: r.ID}, {Type: typeCompute}}, "which workspaces use the cluster is not known")
		}
	}
}

// publishedRoles are Azure's trusted access roles of 2025-11, by source type.
var publishedRoles = []string{
	mlRole, "Microsoft.MachineLearningServices/workspaces/inference-v1",
	"Microsoft.DataProtection/backupVaults/backup-operator",
	"Microsoft.Security/pricings/microsoft-defender-operator", "Microsoft.Security/pricings/microsoft-defender-policy-operator",
	"Microsoft.Security/pricings/microsoft-defender-network-policy-operator", "Microsoft.Security/pricings/mdc-response-operator",
}

// roleKnown says whether a role exists: in the region's exported list, else in
// the published one (which may have grown since).
func (e *env) roleKnown(role string) (exists, sure bool) {
	for _, r := range e.g.list(typeRole) {
		if sameType(r.Get("sourceResourceType").Text()+"/"+r.Get("name").Text(), role) {
			return true, true
		}
	}
	if len(e.g.list(typeRole)) > 0 {
		return false, true
	}
	return contains(publishedRoles, role), false
}

func ta02(c *check) {
	for _, b := range c.g.list(typeBinding) {
		d := c.about(b)
		v := b.Get("roles")
		roles, whole := v.Texts()
		source := b.Get("sourceResourceId")
		var bad, doubtful string
		for _, r := range roles {
			i := strings.LastIndexByte(r, '/')
			switch {
			case strings.Count(r, "/") < 2:
				bad = fmt.Sprintf("role %q is not fully qualified", r)
			case source.State() == Known && !sameType(r[:i], idType(source.Text())):
				bad = fmt.Sprintf("role %s is not one of %s", r, idType(source.Text()))
			default:
				if exists, sure := c.roleKnown(r); !exists && sure {
					bad = fmt.Sprintf("role %s does not exist in this region", r)
				} else if !exists {
					doubtful = r
				}
			}
		}
		switch {
		case bad != "":
			d.ends(bad, v).fix("az aks trustedaccess rolebinding update -g "+idGroup(b.ID)+" --cluster-name "+idName(idParent(b.ID))+" -n "+b.Name()+" --roles "+mlRole,
				"resource \"azurerm_kubernetes_cluster_trusted_access_role_binding\" \""+tfName(b.Name())+"\" {\n  roles = [\""+mlRole+"\"]\n}").fail("%s", bad)
		case !whole || source.State() != Known || len(roles) == 0:
			d.unclear(v, "the roles or the source of binding "+b.Name(), b)
		case doubtful != "":
			d.unknown([]Ask{{Type: typeRole}}, "role %s is not among those published; the region's own list would tell", doubtful)
		default:
			d.see(strings.Join(roles, ", "), v).pass("roles are known and of the source's type")
		}
	}
}

func ta03(c *check) {
	for _, b := range c.g.list(typeBinding) {
		source := b.Get("sourceResourceId")
		ws := c.g.Resource(source.Text())
		d := c.about(b, ws)
		state := b.Get("provisioningState")
		cluster := idParent(b.ID)
		d.fix("az aks trustedaccess rolebinding delete -g "+idGroup(b.ID)+" --cluster-name "+idName(cluster)+" -n "+b.Name()+"\naz aks trustedaccess rolebinding create -g "+idGroup(b.ID)+" --cluster-name "+idName(cluster)+" -n ml --source-resource-id "+plain(source.Text())+" --roles "+mlRole,
			"# name has at most 24 characters; source_resource_id is a workspace with a system-assigned identity in the cluster's subscription")
		has, t := true, Value{}
		if ws != nil {
			has, t = hasSystemIdentity(ws)
		}
		a, s := idSubscription(b.ID), idSubscription(source.Text())
		switch {
		case len(b.Name()) > 24:
			d.ends(fmt.Sprintf("name of %d characters", len(b.Name())), b.self()).fail("the name %s has %d characters, 24 are taken", b.Name(), len(b.Name()))
		case state.State() == Known && !state.Is("Succeeded"):
			d.ends("state "+state.Text(), state).fail("the binding is %s", state.Text())
		case source.State() == Known && !strings.EqualFold(a, s) && !strings.HasPrefix(a, "~") && !strings.HasPrefix(s, "~"):
			d.ends("source in subscription "+s, source).fail("the source is in subscription %s, the cluster in %s", s, a)
		case ws != nil && !has && t.State() != Unknown:
			d.found(ws).ends("identity "+cond(t.State() == Absent, "absent", t.Text()), t).fail("the source has no system-assigned identity")
		case ws != nil && !has:
			d.unclear(t, "the identity of the source", ws)
		case state.State() != Known || source.State() != Known:
			d.unclear(state, "the state of binding "+b.Name(), b)
		case ws == nil && sameType(idType(source.Text()), typeWorkspace):
			d.unknown([]Ask{{Type: typeWorkspace, Scope: source.Text()}}, "%s is not in the input", label(source.Text()))
		default:
			d.see("state Succeeded", state).pass("valid and applied")
		}
	}
}

// riskyRoles reach beyond what attaching a compute needs.
var riskyRoles = map[string]string{
	"inference-v1": "Secrets, exec and ClusterRoleBindings", "microsoft-defender-operator": "Secrets, cluster-wide",
}

func ta04(c *check) {
	for _, b := range c.g.list(typeBinding) {
		d := c.about(b)
		v := b.Get("roles")
		roles, whole := v.Texts()
		var risky, keep []string
		for _, r := range roles {
			if riskyRoles[strings.ToLower(idName(r))] != "" {
				risky = append(risky, r)
			} else {
				keep = append(keep, plain(r))
			}
		}
		switch {
		case len(risky) > 0:
			d.ends(strings.Join(risky, ", "), v).fix("az aks trustedaccess rolebinding update -g "+idGroup(b.ID)+" --cluster-name "+idName(idParent(b.ID))+" -n "+b.Name()+" --roles "+strings.Join(keep, ","),
				"resource \"azurerm_kubernetes_cluster_trusted_access_role_binding\" \""+tfName(b.Name())+"\" {\n  roles = [\""+strings.Join(keep, "\", \"")+"\"]\n}").
				fail("%s grants %s", idName(risky[0]), riskyRoles[strings.ToLower(idName(risky[0]))])
		case !whole:
			d.unclear(v, "the roles of binding "+b.Name(), b)
		default:
			d.see(strings.Join(roles, ", "), v).pass("no role beyond its purpose")
		}
	}
}

// mlExtensions of a cluster.
func (e *env) mlExtensions(cluster *Resource) []*Resource {
	return slices.DeleteFunc(e.g.below(cluster.ID, typeExtension), func(r *Resource) bool {
		t := r.Get("extensionType")
		return t.State() == Known && !t.Is("Microsoft.AzureML.Kubernetes")
	})
}
