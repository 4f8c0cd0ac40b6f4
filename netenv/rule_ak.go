package netenv

import (
	"fmt"
	"net/netip"
	"strings"
)

func rulesAK() []*Rule {
	return []*Rule{
		{Code: "AK-01", Title: "API server private, or bounded", Severity: levels(Off, Warning, Warning), Subject: typeCluster, check: ak01,
			Why: "An API server that anybody on the internet can talk to is protected by its credentials alone."},
		{Code: "AK-02", Title: "Public name of a private cluster only with a role binding", Severity: always(Error), Subject: typeCluster, Reads: []string{typeBinding, typeCompute}, check: ak02,
			Why:  "The service looks such a cluster up by its public name and cannot reach the address it gets.",
			Note: "Azure ML's secure inferencing guide says not supported; the Trusted Access notes of AML-Kubernetes support it with a binding. A binding makes it pass."},
		{Code: "AK-03", Title: "Local accounts off only with a role binding", Severity: always(Error), Subject: typeCluster, Reads: []string{typeBinding, typeCompute}, check: ak03,
			Why:  "Without local accounts and without a binding the service has no credential: \"Failed to get static credential\".",
			Note: "The deployment guide of 2025 says not supported; Trusted Access exists for it. A binding makes it pass."},
		{Code: "AK-04", Title: "Authorized ranges: a role binding, or the ranges of the service", Severity: always(Error), Subject: typeCluster, Reads: []string{typeBinding, typeCompute}, check: ak04,
			Why: "The API server refuses the service's addresses: jobs and endpoints fail as ClusterNotReachable."},
		{Code: "AK-05", Title: "The cluster has a managed identity", Severity: always(Error), Subject: typeCluster, check: ak05,
			Why: "The Azure ML extension does not work on clusters with a service principal."},
		{Code: "AK-06", Title: "Cluster in the region of its private workspace", Severity: levels(Off, Error, Error), Subject: typeCluster, Reads: []string{typeWorkspace, typeEndpoint}, check: ak06,
			Why: "A workspace with a private endpoint takes clusters of its own region only."},
		{Code: "AK-07", Title: "Cluster in the subscription of its workspace", Severity: always(Error), Subject: typeCluster, Reads: []string{typeWorkspace}, check: ak07,
			Why: "AKS is attached within a subscription; across subscriptions Azure Arc is the way."},
		{Code: "AK-08", Title: "Every pool in one network, with Azure CNI", Severity: levels(Off, Warning, Warning), Subject: typeCluster, check: ak08,
			Why: "What is checked for one pool's network says nothing about a pool elsewhere; with kubenet the network is the one that Azure made in the MC_ group."},
		{Code: "AK-09", Title: "Running; after a restart private endpoint and computes were renewed", Severity: always(Warning), Subject: typeCluster, Reads: []string{typeEndpoint, typeCompute}, check: ak09,
			Why:  "After a stop and start the API server's endpoint is another: creating, updating and deleting online endpoints fails until the private endpoint is recreated and the compute attached again.",
			Note: "ARM does not tell when a cluster was restarted: a Disconnected endpoint shows it, a compute that is merely old does not."},
		{Code: "AK-10", Title: "Three nodes for a highly available router", Severity: always(Warning), Subject: typeCluster, Reads: []string{typePool, typeExtension}, check: ak10,
			Why: "inferenceRouterHA places three replicas on three nodes (E40002 otherwise); production inference asks for 3600m CPU and 4240 MiB in all."},
		{Code: "AK-11", Title: "The cluster's identity may join its subnet", Severity: always(Warning), Subject: typeCluster, Reads: []string{typeAssignment}, check: ak11,
			Why:  "Internal load balancers and new nodes are refused with LinkedAuthorizationFailed.",
			Note: "The action is Microsoft.Network/virtualNetworks/subnets/join/action; the AML-Kubernetes page prints \"subnet\" by mistake."},
		{Code: "AK-12", Title: "No authorized range that a role binding makes superfluous", Severity: always(Info), Subject: typeCluster, Reads: []string{typeBinding, typeCompute}, check: ak12,
			Why: "With Trusted Access the service needs no opening: ranges of AzureMachineLearning let every other customer's workspace through as well."},
		{Code: "AK-13", Title: "Authorized ranges are IPv4", Severity: always(Warning), Subject: typeCluster, check: ak13,
			Why: "AKS takes IPv4 ranges only; lists copied from the service tags hold IPv6 prefixes and are refused as a whole."},
	}
}

func isPrivate(r *Resource) (private, known bool, v Value) {
	v = r.Get("apiServerAccessProfile", "enablePrivateCluster")
	private, known = v.Truth(false)
	return
}

func authorized(r *Resource) ([]string, Value, bool) {
	v := r.Get("apiServerAccessProfile", "authorizedIPRanges")
	texts, whole := v.Texts()
	return texts, v, whole
}

func ak01(c *check) {
	for _, r := range c.g.list(typeCluster) {
		d := c.about(r)
		private, known, v := isPrivate(r)
		texts, ranges, whole := authorized(r)
		switch {
		case private && known:
			d.see("private cluster", v).pass("the API server has a private address")
		case len(texts) > 0 && !contains(texts, "0.0.0.0/0"):
			d.see(fmt.Sprintf("%d authorized ranges", len(texts)), ranges).pass("the API server is public and bounded")
		case !known || !whole:
			d.unclear(v, "whether cluster "+r.Name()+" is private", r)
		default:
			d.ends("public, from everywhere", v).fix("# a cluster becomes private at creation only\naz aks create -g "+idGroup(r.ID)+" -n "+r.Name()+" --enable-private-cluster …\n# or bound it\naz aks update -g "+idGroup(r.ID)+" -n "+r.Name()+" --api-server-authorized-ip-ranges <your ranges>",
				"resource \"azurerm_kubernetes_cluster\" \""+tfName(r.Name())+"\" {\n  private_cluster_enabled = true\n}").
				fail("the API server is public without authorized ranges")
		}
	}
}

func ak02(c *check) {
	for _, r := range c.g.list(typeCluster) {
		private, known, v := isPrivate(r)
		public := r.Get("apiServerAccessProfile", "enablePrivateClusterPublicFQDN")
		on, sure := public.Truth(false)
		switch {
		case known && !private:
			c.about(r).see("no private cluster", v).none("the cluster is not private")
		case !known || !sure || public.State() == Absent:
			c.about(r).unclear(public, "whether cluster "+r.Name()+" has a public name", r)
		case !on:
			c.about(r).see("no public name", public).pass("the private cluster has no public name")
		default:
			c.needsConsent(r, public, "private cluster with a public name",
				Fix{"az aks update -g " + idGroup(r.ID) + " -n " + r.Name() + " --disable-public-fqdn\n# or", "# private_cluster_public_fqdn_enabled = false, or"}, nil)
		}
	}
}

func ak03(c *check) {
	for _, r := range c.g.list(typeCluster) {
		v := r.Get("disableLocalAccounts")
		off, known := v.Truth(false)
		switch {
		case !known:
			c.about(r).unclear(v, "whether cluster "+r.Name()+" has local accounts", r)
		case !off:
			c.about(r).see("local accounts are on", v).pass("local accounts are on; nothing depends on a binding")
		default:
			c.needsConsent(r, v, "local accounts are off", Fix{}, nil)
		}
	}
}

func ak04(c *check) {
	for _, r := range c.g.list(typeCluster) {
		texts, v, whole := authorized(r)
		switch {
		case !whole:
			c.about(r).unclear(v, "the authorized ranges of cluster "+r.Name(), r)
		case len(texts) == 0:
			c.about(r).see("no authorized ranges", v).none("no authorized ranges")
		default:
			c.needsConsent(r, v, fmt.Sprintf("%d authorized ranges", len(texts)), Fix{}, func(d *draft, _ pair) bool { return c.serviceAllowed(d, r, texts) })
		}
	}
}

// serviceAllowed ends a draft when the authorized ranges hold those of the
// service in both paired regions, or when nobody can tell.
func (c *check) serviceAllowed(d *draft, r *Resource, texts []string) bool {
	home := region(r.Get("location"))
	if c.g.Tags == nil {
		d.unknown([]Ask{{Type: "service tags"}}, "no role binding is shown; whether the ranges hold AzureMachineLearning.%s and its pair's needs the service tag file", home)
		return true
	}
	for _, tag := range []string{home, pairedRegions[home]} {
		if tag == "" {
			continue // a region without a pair
		}
		wanted := c.g.Tags.Ranges("AzureMachineLearning." + tag)
		if len(wanted) == 0 || len(covered(wanted, prefixes(texts))) > 0 {
			return false
		}
	}
	d.pass("the ranges hold those of AzureMachineLearning in %s and %s", home, pairedRegions[home])
	return true
}

func ak05(c *check) {
	for _, r := range c.g.list(typeCluster) {
		d := c.about(r)
		id, sp := r.Get("identity", "type"), r.Get("servicePrincipalProfile", "clientId")
		switch {
		case id.State() == Known && !id.Is("None"):
			d.see("identity "+id.Text(), id).pass("managed identity")
		case sp.Is("msi"):
			d.see("service principal is msi", sp).pass("managed identity")
		case id.State() == Unknown && sp.State() != Known:
			d.unclear(id, "the identity of cluster "+r.Name(), r)
		default:
			d.ends("service principal "+sp.Text(), sp).fix("az aks update -g "+idGroup(r.ID)+" -n "+r.Name()+" --enable-managed-identity\n# node pools must be recreated afterwards",
				"resource \"azurerm_kubernetes_cluster\" \""+tfName(r.Name())+"\" {\n  identity {\n    type = \"SystemAssigned\"\n  }\n}").
				fail("the cluster runs with a service principal")
		}
	}
}

// private workspace: it has, or may have, a private endpoint.
func (e *env) hasEndpoint(r *Resource) (has, known bool) {
	if len(e.g.endpointsOf[foldID(r.ID)]) > 0 {
		return true, true
	}
	list := r.Get("privateEndpointConnections")
	if len(list.Items()) > 0 {
		return true, true
	}
	return false, list.State() == Known || e.g.complete(typeEndpoint, subscriptionScope(r.ID))
}

func ak06(c *check) {
	for _, p := range c.pairs {
		d := c.about(p.cluster, p.workspace)
		has, known := c.hasEndpoint(p.workspace)
		a, b := p.cluster.Get("location"), p.workspace.Get("location")
		d.follow([]Step{p.how}).see("cluster in "+region(a), a).see("workspace in "+region(b), b)
		switch {
		case a.State() == Known && b.State() == Known && region(a) == region(b):
			d.pass("both in %s", region(a))
		case !known:
			d.unknown([]Ask{{Type: typeEndpoint, Scope: subscriptionScope(p.workspace.ID)}}, "whether the workspace has a private endpoint is not known")
		case !has:
			d.none("the workspace has no private endpoint")
		case a.State() != Known || b.State() != Known:
			d.unclear(a, "one of the regions", nil)
		default:
			d.fix("# make the cluster in "+region(b)+"\naz aks create -g "+idGroup(p.cluster.ID)+" -n "+p.cluster.Name()+" -l "+plain(region(b))+" …",
				"resource \"azurerm_kubernetes_cluster\" \""+tfName(p.cluster.Name())+"\" {\n  location = \""+plain(region(b))+"\"\n}").
				fail("cluster in %s, workspace with a private endpoint in %s", region(a), region(b))
		}
	}
}

func ak07(c *check) {
	for _, p := range c.pairs {
		d := c.about(p.cluster, p.workspace).follow([]Step{p.how})
		a, b := idSubscription(p.cluster.ID), idSubscription(p.workspace.ID)
		switch {
		case strings.EqualFold(a, b):
			d.pass("one subscription")
		case strings.HasPrefix(a, "~") || strings.HasPrefix(b, "~"):
			d.unknown(nil, "the subscription of what is planned is not known")
		default:
			d.fix("# attach a cluster of subscription "+b+", or connect this one by Azure Arc\naz connectedk8s connect -g "+idGroup(p.workspace.ID)+" -n "+p.cluster.Name()+" --subscription "+b,
				"# a provider of subscription "+b+" for the cluster, or azurerm_arc_kubernetes_cluster").
				fail("cluster in subscription %s, workspace in %s", a, b)
		}
	}
}

func ak08(c *check) {
	for _, r := range c.g.list(typeCluster) {
		d := c.about(r)
		plugin, h := r.Get("networkProfile", "networkPlugin"), c.homesOf(r)
		d.see("network plugin "+plugin.Text(), plugin)
		var outside []string
		for _, p := range c.pools(r) {
			if p.Get("vnetSubnetID").State() == Absent {
				outside = append(outside, p.Get("name").Text())
			}
		}
		d.fix("az aks nodepool add -g "+idGroup(r.ID)+" --cluster-name "+r.Name()+" -n pool2 --vnet-subnet-id <subnet>\n# the plugin: az aks update -g "+idGroup(r.ID)+" -n "+r.Name()+" --network-plugin azure --network-plugin-mode overlay",
			"resource \"azurerm_kubernetes_cluster_node_pool\" \"pool2\" {\n  vnet_subnet_id = \"<subnet>\"\n}")
		vnets := c.clusterVNets(r)
		switch {
		case plugin.State() == Known && !plugin.Is("azure"):
			d.ends("network plugin "+plugin.Text(), plugin).fail("network plugin %s: look at the VNet in %s", plugin.Text(), r.Get("nodeResourceGroup").Text())
		case len(outside) > 0:
			d.ends("no subnet of their own: "+strings.Join(outside, ", "), r.Get("agentPoolProfiles")).fail("pools %s stand in a VNet that Azure makes", strings.Join(outside, ", "))
		case len(vnets) > 1:
			d.ends("VNets "+strings.Join(vnets, ", "), r.Get("agentPoolProfiles")).fail("the pools stand in %d VNets", len(vnets))
		case plugin.State() != Known || len(h.gaps) > 0 || len(vnets) == 0:
			d.unclear(plugin, "the plugin or a pool's subnet", r)
		default:
			d.pass("every pool in VNet %s, Azure CNI", idName(vnets[0]))
		}
	}
}

func ak09(c *check) {
	for _, r := range c.g.list(typeCluster) {
		d := c.about(r)
		power := r.Get("powerState", "code")
		var cut Value
		for _, p := range c.g.endpointsOf[foldID(r.ID)] {
			for _, conn := range connections(p) {
				s := conn.Get("privateLinkServiceConnectionState", "status")
				if s.Is("Disconnected") {
					cut = s
					d.found(p)
				}
			}
		}
		switch {
		case power.Is("Stopped"):
			d.ends("stopped", power).fix("az aks start -g "+idGroup(r.ID)+" -n "+r.Name()+"\n# then recreate private endpoints of group management, and attach the computes again", "# power state is no attribute of azurerm_kubernetes_cluster").
				fail("the cluster is stopped")
		case cut.State() == Known:
			d.ends("private endpoint Disconnected", cut).fix("# delete the private endpoint and make it again, then attach the computes again with the same names\naz network private-endpoint create -g "+idGroup(r.ID)+" -n "+r.Name()+"-management --private-connection-resource-id "+r.ID+" --group-id management --connection-name management --subnet <subnet>",
				"# terraform apply -replace=azurerm_private_endpoint.<name>").
				fail("a private endpoint of the API server is Disconnected: the cluster was stopped and started")
		case power.State() != Known:
			d.unclear(power, "whether cluster "+r.Name()+" runs", r)
		default:
			d.see("power state "+power.Text(), power).pass("running, no private endpoint cut")
		}
	}
}

func ak10(c *check) {
	for _, r := range c.g.list(typeCluster) {
		d := c.about(r)
		pools, total, known := c.pools(r), 0, true
		for _, p := range pools {
			n := p.Get("count")
			if auto, ok := p.Get("enableAutoScaling").Truth(false); ok && auto {
				n = p.Get("minCount")
			}
			v, ok := n.Number()
			known = known && ok
			total += int(v)
			d.see(fmt.Sprintf("pool %s: %s nodes at least", p.Get("name").Text(), n.Text()), n)
		}
		ha := Value{}
		for _, x := range c.mlExtensions(r) {
			ha = x.Get("configurationSettings", "inferenceRouterHA")
		}
		switch wanted, _ := ha.Truth(true); {
		case !wanted:
			d.see("inferenceRouterHA is off", ha).none("the router is not asked to be highly available")
		case !known && total < 3 || len(pools) == 0:
			d.unknown([]Ask{{Type: typeCluster, Scope: r.ID}}, "the number of nodes is not known")
		case total < 3:
			d.fix("az aks nodepool scale -g "+idGroup(r.ID)+" --cluster-name "+r.Name()+" -n <pool> --node-count 3\n# or: inferenceRouterHA=false in the extension's settings",
				"resource \"azurerm_kubernetes_cluster\" \""+tfName(r.Name())+"\" {\n  default_node_pool {\n    node_count = 3\n  }\n}").
				fail("%d nodes at least, the router wants 3", total)
		default:
			d.pass("%d nodes at least", total)
		}
	}
}

func ak11(c *check) {
	for _, r := range c.g.list(typeCluster) {
		if c.unseenPools(r) {
			continue
		}
		subnets := c.poolSubnets(r)
		if len(subnets) == 0 {
			c.about(r).none("no subnet of your own")
			continue
		}
		system, user := principals(r)
		ids := user
		if len(ids) == 0 {
			ids = []Value{system}
		}
		for _, s := range subnets {
			d := c.about(r, c.g.Resource(s))
			if ids[0].State() != Known {
				d.unclear(ids[0], "the principal of cluster "+r.Name(), r)
				continue
			}
			d.see("identity "+ids[0].Text(), ids[0]).
				fix(assignFix(ids[0].Text(), s, "Network Contributor")).
				judge(c.holds(ids[0].Text(), s, "Network Contributor", roleNetworkContributor, roleContributor, roleOwner), "the cluster may join subnet "+idName(s))
		}
	}
}

func ak12(c *check) {
	for _, r := range c.g.list(typeCluster) {
		texts, v, whole := authorized(r)
		d := c.about(r)
		if len(texts) == 0 && whole {
			d.see("no authorized ranges", v).none("no authorized ranges")
			continue
		}
		bound, known := true, len(c.pairsOf(r)) > 0
		for _, p := range c.pairsOf(r) {
			w := c.consented(p)
			bound, known = bound && w.ok, known && w.known
		}
		switch {
		case !known || !whole:
			d.unknown([]Ask{{Type: typeBinding, Scope: r.ID}}, "whether bindings cover the workspaces is not known")
		case !bound:
			d.see("not every workspace has a role binding", v).none("the ranges may be needed")
		case c.g.Tags == nil:
			d.unknown([]Ask{{Type: "service tags"}}, "which ranges are the service's needs the service tag file")
		default:
			c.superfluous(d, r, texts, v)
		}
	}
}

func (c *check) superfluous(d *draft, r *Resource, texts []string, v Value) {
	var extra []string
	service := c.g.Tags.Ranges("AzureMachineLearning")
	for _, p := range prefixes(texts) {
		if _, _, hit := overlap([]netip.Prefix{p}, service); hit && len(covered([]netip.Prefix{p}, service)) == 0 {
			extra = append(extra, p.String())
		}
	}
	if len(extra) == 0 {
		d.see("authorized ranges", v).pass("no range belongs to AzureMachineLearning")
		return
	}
	var keep []string
	for _, t := range texts {
		if !contains(extra, t) {
			keep = append(keep, plain(t))
		}
	}
	d.ends("ranges of AzureMachineLearning: "+strings.Join(extra, ", "), v).
		fix("az aks update -g "+idGroup(r.ID)+" -n "+r.Name()+" --api-server-authorized-ip-ranges "+strings.Join(keep, ","),
			"resource \"azurerm_kubernetes_cluster\" \""+tfName(r.Name())+"\" {\n  api_server_access_profile {\n    authorized_ip_ranges = [\""+strings.Join(keep, "\", \"")+"\"]\n  }\n}").
		fail("%d ranges of AzureMachineLearning are open although role bindings let the workspaces in", len(extra))
}

func ak13(c *check) {
	for _, r := range c.g.list(typeCluster) {
		texts, v, whole := authorized(r)
		d := c.about(r)
		var six []string
		for _, p := range prefixes(texts) {
			if p.Addr().Is6() {
				six = append(six, p.String())
			}
		}
		switch {
		case len(six) > 0:
			d.ends("IPv6: "+strings.Join(six, ", "), v).fix("az aks update -g "+idGroup(r.ID)+" -n "+r.Name()+" --api-server-authorized-ip-ranges <IPv4 ranges only>",
				"# authorized_ip_ranges = [for p in var.ranges : p if !strcontains(p, \":\")]").fail("%d IPv6 prefixes in the authorized ranges", len(six))
		case !whole:
			d.unclear(v, "the authorized ranges of cluster "+r.Name(), r)
		case len(texts) == 0:
			d.none("no authorized ranges")
		default:
			d.see("authorized ranges", v).pass("IPv4 only")
		}
	}
}
