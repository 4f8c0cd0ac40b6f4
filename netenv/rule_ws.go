package netenv

import (
	"slices"
	"strings"
)

func rulesWS() []*Rule {
	ways := []string{"VN-05", "PE-01", "PE-02", "PE-03"}
	return []*Rule{
		{Code: "WS-01", Title: "Workspace closed to the internet", Severity: levels(Off, Off, Error), Subject: typeWorkspace, check: ws01,
			Why: "With public access on, the private endpoint is one more door and not the only one. An absent value means Enabled."},
		{Code: "WS-02", Title: "Approved private endpoint of the workspace in the cluster's reach", Severity: levels(Off, Off, Error), Subject: typeWorkspace, Reads: []string{typeEndpoint, typePeering, typeSubnet, typeCluster}, After: ways, check: ws02,
			Why: "Without it the extension in the cluster cannot talk to its workspace: jobs and endpoints fail with network errors."},
		{Code: "WS-03", Title: "Both DNS zones on the workspace's private endpoint", Severity: levels(Off, Off, Error), Subject: typeWorkspace, Reads: []string{typeEndpoint, typeZoneGroup}, After: []string{"DN-01", "PE-02", "PE-01"}, check: ws03,
			Why: "The API and the notebooks answer under two zones; with one of them missing, half the names resolve publicly."},
		{Code: "WS-04", Title: "The workspace's identity includes SystemAssigned", Severity: levels(Warning, Error, Error), Subject: typeWorkspace, check: ws04,
			Why:  "The storage account's trusted-service bypass works for the system-assigned identity only, and a role binding authenticates by it.",
			Note: "PSRule's Azure.ML.UserManagedIdentity (AZR-000407) demands the opposite. For this environment the guide's rule wins."},
		{Code: "WS-05", Title: "A user-assigned workspace identity has its roles on the cluster", Severity: always(Error), Subject: typeWorkspace, Reads: []string{typeAssignment, typeCluster}, check: ws05,
			Why: "Attaching fails with \"AKS role check failed for user assigned identity\"."},
		{Code: "WS-06", Title: "Computes of an HBI workspace have a system-assigned identity", Severity: always(Error), Subject: typeWorkspace, Reads: []string{typeCompute}, check: ws06,
			Why: "A high-business-impact workspace hands out no storage keys: the compute needs an identity of its own (its roles: RB-01)."},
		{Code: "WS-07", Title: "A compute for building images when registry or storage are closed", Severity: levels(Off, Warning, Warning), Subject: typeWorkspace, Reads: []string{typeRegistry, typeStorage}, check: ws07,
			Why: "ACR Tasks cannot reach a closed registry: building an environment fails unless a compute in the network does it."},
		{Code: "WS-08", Title: "Names do not end in a dash", Severity: always(Error), Subject: typeWorkspace, check: ws08,
			Why: "A workspace or resource group whose name ends in \"-\" makes attaching fail with InternalServerError."},
		{Code: "WS-09", Title: "A workspace endpoint shares the VNet of the endpoints around it", Severity: levels(Off, Off, Warning), Subject: typeWorkspace, Reads: []string{typeEndpoint}, check: ws09,
			Why: "The workspace reaches its own storage, vault and registry through the VNet that one of its endpoints is in."},
		{Code: "WS-10", Title: "A way in for people to a private workspace", Severity: levels(Off, Off, Warning), Subject: typeWorkspace, Reads: []string{typeEndpoint, typeVNet, typeSubnet, typeBastion, typeGateway, typeVM}, After: []string{"WS-02"}, check: ws10,
			Why: "Nobody outside the network opens the studio of a private workspace: people need a bastion with a jump box, a VPN or ExpressRoute."},
	}
}

// workspaceFix is an az ml workspace update and its Terraform attribute.
func workspaceFix(r *Resource, flag, attribute string) (string, string) {
	return "az ml workspace update -g " + idGroup(r.ID) + " -n " + r.Name() + " " + flag,
		"resource \"azurerm_machine_learning_workspace\" \"" + tfName(r.Name()) + "\" {\n  " + attribute + "\n}"
}

func ws01(c *check) {
	for _, r := range c.g.list(typeWorkspace) {
		d := c.about(r)
		v, behind := r.Get("publicNetworkAccess"), r.Get("allowPublicAccessWhenBehindVnet")
		open, _ := behind.Truth(false)
		az, tf := workspaceFix(r, "--public-network-access Disabled", "public_network_access_enabled = false")
		d.fix(az, tf)
		switch {
		case open:
			d.ends("allowPublicAccessWhenBehindVnet", behind).fail("the workspace takes public traffic although it is behind a VNet")
		case v.Is("Disabled"):
			d.see("public access Disabled", v).pass("public access is off")
		case v.State() == Unknown:
			d.unclear(v, "the public access of workspace "+r.Name(), r)
		default:
			d.ends("public access "+cond(v.State() == Absent, "absent, that is Enabled", v.Text()), v).fail("public access is on")
		}
	}
}

// endpointFix makes a private endpoint.
func (e *env) endpointFix(target, group, subnet string) (string, string) {
	target, group = plain(target), plain(group)
	name := idName(target) + "-" + group
	return "az network private-endpoint create -g " + idGroup(target) + " -n " + name + " --connection-name " + name + " --private-connection-resource-id " + target + " --group-id " + group + " --subnet " + subnet,
		"resource \"azurerm_private_endpoint\" \"" + tfName(name) + "\" {\n  name                = \"" + name + "\"\n  location            = \"" + e.locationOf(subnet) + "\"\n  resource_group_name = \"" + idGroup(target) + "\"\n  subnet_id           = \"" + subnet + "\"\n  private_service_connection {\n    name                           = \"" + name + "\"\n    private_connection_resource_id = \"" + target + "\"\n    subresource_names              = [\"" + group + "\"]\n    is_manual_connection           = false\n  }\n  private_dns_zone_group {\n    name                 = \"default\"\n    private_dns_zone_ids = [" + zoneList(group) + "]\n  }\n}"
}

// locationOf a subnet's VNet; endpoints are made in it.
func (e *env) locationOf(subnet string) string {
	if v := e.g.Resource(idParent(subnet)); v != nil && v.Get("location").State() == Known {
		return plain(region(v.Get("location")))
	}
	return "<region>"
}

func zoneList(group string) string {
	var out []string
	for _, z := range zonesFor(group, "") {
		out = append(out, "azurerm_private_dns_zone."+tfName(z)+".id")
	}
	return strings.Join(out, ", ")
}

// endpointSubnet is where endpoints already are, else a placeholder.
func (e *env) endpointSubnet() string {
	for _, p := range e.g.list(typeEndpoint) {
		if s := p.Get("subnet", "id").Text(); s != "" {
			return s
		}
	}
	return "<subnet id>"
}

func ws02(c *check) {
	for _, p := range c.pairs {
		d := c.about(p.cluster, p.workspace).follow([]Step{p.how})
		az, tf := c.endpointFix(p.workspace.ID, "amlworkspace", c.endpointSubnet())
		d.fix(az, tf).judge(c.privately(p.cluster, p.workspace.ID, "amlworkspace"), "the cluster reaches the workspace through an approved private endpoint")
	}
	c.unpaired()
}

// unpaired says of each workspace that no cluster is known to use it.
func (c *check) unpaired() {
	for _, r := range c.g.list(typeWorkspace) {
		if len(c.pairsOf(r)) == 0 {
			d := c.about(r)
			if c.g.complete(typeCompute, r.ID) || c.g.complete(typeBinding, "") {
				d.none("no cluster uses this workspace")
				continue
			}
			d.unknown([]Ask{{Type: typeCompute, Scope: r.ID}}, "which clusters the workspace uses is not known")
		}
	}
}

// connectionsTo are the endpoints of a target with one group.
func (e *env) endpointsFor(target, group string) []*Resource {
	var out []*Resource
	for _, p := range e.g.endpointsOf[foldID(target)] {
		for _, c := range connections(p) {
			groups, _ := c.Get("groupIds").Texts()
			if sameID(c.Get("privateLinkServiceId").Text(), target) && contains(groups, group) && !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out
}

func ws03(c *check) {
	for _, r := range c.g.list(typeWorkspace) {
		list := c.endpointsFor(r.ID, "amlworkspace")
		if len(list) == 0 {
			if has, known := c.hasEndpoint(r); has || !known {
				c.about(r).unknown([]Ask{{Type: typeEndpoint, Scope: subscriptionScope(r.ID)}}, "the private endpoints of the workspace are not in the input")
			} else {
				c.about(r).none("the workspace has no private endpoint (WS-02)")
			}
			continue
		}
		for _, p := range list {
			d := c.about(r, p)
			groups := c.g.below(p.ID, typeZoneGroup)
			if len(groups) == 0 && !c.g.complete(typeZoneGroup, p.ID) {
				d.unknown([]Ask{{Type: typeZoneGroup, Scope: p.ID}}, "the zone group of private endpoint %s is not in the input", p.Name())
				continue
			}
			var have, missing []string
			whole := true
			for _, g := range groups {
				d.found(g)
				names, all := zoneNames(g)
				have, whole = append(have, names...), whole && all
			}
			for _, z := range zonesFor("amlworkspace", cloudOf(region(r.Get("location")))) {
				if !contains(have, z) {
					missing = append(missing, z)
				}
			}
			az, tf := zoneGroupFix(p, missing)
			d.fix(az, tf)
			switch {
			case len(missing) == 0:
				d.pass("both zones are on %s", p.Name())
			case !whole:
				d.unknown([]Ask{{Type: typeZoneGroup, Scope: p.ID}}, "not every zone of %s is known", p.Name())
			default:
				d.fail("%s lacks %s", p.Name(), strings.Join(missing, " and "))
			}
		}
	}
}

func ws04(c *check) {
	for _, r := range c.g.list(typeWorkspace) {
		d := c.about(r)
		has, v := hasSystemIdentity(r)
		az, tf := workspaceFix(r, "# identity.type is set through the ARM API: az rest --method patch --url "+r.ID+"?api-version=2024-10-01 --body '{\"identity\":{\"type\":\"SystemAssigned,UserAssigned\"}}'", "identity {\n    type = \"SystemAssigned\"\n  }")
		switch {
		case has:
			d.see("identity "+v.Text(), v).pass("system-assigned identity")
		case v.State() == Unknown:
			d.unclear(v, "the identity of workspace "+r.Name(), r)
		default:
			d.ends("identity "+cond(v.State() == Absent, "absent", v.Text()), v).fix(az, tf).fail("the workspace has no system-assigned identity")
		}
	}
}

func ws05(c *check) {
	for _, p := range c.pairs {
		d := c.about(p.cluster, p.workspace)
		v := p.workspace.Get("primaryUserAssignedIdentity")
		if v.State() == Absent {
			d.see("no primary user-assigned identity", v).none("the workspace works with its system-assigned identity")
			continue
		}
		_, users := principals(p.workspace)
		if v.State() == Unknown || len(users) == 0 {
			d.unclear(v, "the principal of the workspace's user-assigned identity", p.workspace)
			continue
		}
		who := users[0].Text()
		for id, u := range p.workspace.Get("identity", "userAssignedIdentities").Fields() {
			if sameID(id, v.Text()) {
				who = u.Get("principalId").Text()
			}
		}
		w := c.holds(who, p.cluster.ID, "Azure Kubernetes Service Cluster Admin Role", roleClusterAdmin)
		for _, need := range []struct {
			what  string
			roles []string
		}{{"Reader", []string{roleReader, roleContributor, roleOwner}}, {"Kubernetes Extension Contributor", []string{roleExtensionContributor, roleContributor, roleOwner}}} {
			if w.ok {
				next := c.holds(who, p.cluster.ID, need.what, need.roles...)
				next.steps = append(w.steps, next.steps...)
				w = next
			}
		}
		if w.ok && c.consented(p).ok {
			next := c.holds(who, p.cluster.ID, "Contributor (with Trusted Access)", roleContributor, roleOwner)
			next.steps = append(w.steps, next.steps...)
			w = next
		}
		d.see("user-assigned identity "+who, v).fix(assignFix(who, p.cluster.ID, "Contributor")).judge(w, "the identity has its roles on the cluster")
	}
}

// assignFix makes a role assignment.
func assignFix(principal, scope, role string) (string, string) {
	principal, scope = plain(principal), plain(scope)
	return "az role assignment create --assignee-object-id " + principal + " --assignee-principal-type ServicePrincipal --role \"" + role + "\" --scope " + scope,
		"resource \"azurerm_role_assignment\" \"" + tfName(strings.ToLower(role)) + "\" {\n  scope                = \"" + scope + "\"\n  role_definition_name = \"" + role + "\"\n  principal_id         = \"" + principal + "\"\n}"
}

// kubernetesComputes of a workspace.
func (e *env) kubernetesComputes(ws *Resource) []*Resource {
	var out []*Resource
	for _, x := range e.g.below(ws.ID, typeCompute) {
		if t := x.Get("computeType"); t.Is("Kubernetes") || t.State() != Known && x.Get("type").Is("kubernetes") {
			out = append(out, x)
		}
	}
	return out
}

// isHBI reads whether a workspace is of high business impact.
func isHBI(ws *Resource) (bool, bool, Value) {
	v := ws.Get("hbiWorkspace")
	hbi, known := v.Truth(false)
	return hbi, known, v
}

func ws06(c *check) {
	for _, r := range c.g.list(typeWorkspace) {
		hbi, known, v := isHBI(r)
		switch {
		case !known:
			c.about(r).unclear(v, "whether workspace "+r.Name()+" is of high business impact", r)
			continue
		case !hbi:
			c.about(r).see("not of high business impact", v).none("no HBI workspace")
			continue
		}
		list := c.kubernetesComputes(r)
		if len(list) == 0 {
			if c.g.complete(typeCompute, r.ID) {
				c.about(r).none("no Kubernetes compute")
			} else {
				c.about(r).unknown([]Ask{{Type: typeCompute, Scope: r.ID}}, "the computes of the workspace are not in the input")
			}
		}
		for _, x := range list {
			d := c.about(r, x).see("hbiWorkspace", v)
			has, t := hasSystemIdentity(x)
			switch {
			case has:
				d.see("identity "+t.Text(), t).pass("system-assigned identity")
			case t.State() == Unknown:
				d.unclear(t, "the identity of compute "+x.Name(), x)
			default:
				d.ends("identity "+cond(t.State() == Absent, "absent", t.Text()), t).
					fix("az ml compute detach -g "+idGroup(r.ID)+" -w "+r.Name()+" -n "+x.Name()+"\naz ml compute attach -g "+idGroup(r.ID)+" -w "+r.Name()+" -n "+x.Name()+" --type Kubernetes --identity-type SystemAssigned --namespace "+cond(x.Get("namespace").Text() == "", "default", plain(x.Get("namespace").Text()))+" --resource-id "+plain(x.Get("resourceId").Text()),
						"resource \"azapi_resource\" \""+tfName(x.Name())+"\" {\n  type = \"Microsoft.MachineLearningServices/workspaces/computes@2024-10-01\"\n  identity {\n    type = \"SystemAssigned\"\n  }\n}").
					fail("compute %s has no system-assigned identity", x.Name())
			}
		}
	}
}

func ws07(c *check) {
	for _, r := range c.g.list(typeWorkspace) {
		d := c.about(r)
		v := r.Get("imageBuildCompute")
		if v.State() == Known && v.Text() != "" {
			d.see("images are built on "+v.Text(), v).pass("images are built on compute %s", v.Text())
			continue
		}
		var doubt string
		var closed *Resource
		for _, kind := range []string{"containerRegistry", "storageAccount"} {
			t := c.g.Resource(r.Get(kind).Text())
			if t == nil {
				doubt = kind
				continue
			}
			shut, known, _ := isClosed(t)
			if shut {
				closed = t
			} else if !known {
				doubt = kind
			}
		}
		switch {
		case closed != nil && v.State() == Unknown:
			d.unclear(v, "the image build compute", r)
		case closed != nil:
			az, tf := workspaceFix(r, "--image-build-compute <CPU compute>", "image_build_compute_name = \"<CPU compute>\"")
			d.found(closed).ends("no image build compute", v).fix(az, tf).fail("%s is closed and no compute builds images", closed.Label())
		case doubt != "":
			d.unknown([]Ask{{Type: typeRegistry, Scope: subscriptionScope(r.ID)}, {Type: typeStorage, Scope: subscriptionScope(r.ID)}}, "whether the workspace's %s is closed is not known", doubt)
		default:
			d.none("registry and storage are open")
		}
	}
}

// isClosed reads whether storage, vault or registry take no public traffic by
// default.
func isClosed(r *Resource) (closed, known bool, v Value) {
	v = r.Get("publicNetworkAccess")
	if v.Is("Disabled") {
		return true, true, v
	}
	acls := "networkAcls"
	if sameType(r.Type, typeRegistry) {
		acls = "networkRuleSet"
	}
	action := r.Get(acls, "defaultAction")
	if action.Is("Deny") {
		return true, true, action
	}
	return false, v.State() != Unknown && action.State() != Unknown, v
}

func ws08(c *check) {
	for _, r := range c.g.list(typeWorkspace) {
		d := c.about(r)
		for _, n := range []string{r.Name(), idGroup(r.ID)} {
			if strings.HasSuffix(n, "-") {
				d.ends("name "+n, r.self()).fix("# names cannot change: make the workspace anew\naz ml workspace create -g <group> -n "+strings.TrimRight(r.Name(), "-"), "# name = \""+strings.TrimRight(n, "-")+"\"").
					fail("the name %q ends in a dash", n)
				d = nil
				break
			}
		}
		switch {
		case d == nil:
		case strings.HasPrefix(r.Name(), "~") || strings.HasPrefix(idGroup(r.ID), "~"):
			d.unknown(nil, "the name of the workspace or its group is not known before deployment")
		default:
			d.see("names "+idGroup(r.ID)+", "+r.Name(), r.self()).pass("no name ends in a dash")
		}
	}
}
