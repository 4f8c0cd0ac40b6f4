package netenv

import "strings"

func rulesST() []*Rule {
	ways := []string{"VN-05", "PE-01", "PE-02", "PE-03"}
	return []*Rule{
		{Code: "ST-01", Title: "Private endpoints of the workspace's storage in the cluster's reach", Severity: levels(Off, Error, Error), Subject: typeWorkspace, Reads: []string{typeStorage, typeEndpoint, typePeering, typeSubnet}, After: ways, check: st01,
			Why:  "Models, code snapshots and logs lie there: without a way the jobs and the router's downloads fail.",
			Note: "AML-Kubernetes asks for all four sub-resources; queue and table are needed for batch scoring and ParallelRun only and are warnings."},
		{Code: "ST-02", Title: "Storage lets the workspace itself in", Severity: levels(Off, Error, Error), Subject: typeWorkspace, Reads: []string{typeStorage}, check: st02,
			Why: "The service reaches a closed account only as a trusted service, or when the workspace is named as resource instance."},
		{Code: "ST-03", Title: "Storage closed by default", Severity: levels(Off, Warning, Warning), Subject: typeWorkspace, Reads: []string{typeStorage}, check: st03,
			Why: "An account open to all networks makes its private endpoints decoration."},
		{Code: "ST-04", Title: "Studio: workspace and storage endpoints in one VNet", Severity: levels(Off, Off, Warning), Subject: typeWorkspace, Reads: []string{typeStorage, typeEndpoint}, check: st04,
			Why: "The studio previews data only when both endpoints are in the same VNet."},
		{Code: "ST-05", Title: "Further datastores are reachable", Severity: levels(Off, Error, Error), Subject: typeWorkspace, Reads: []string{typeDatastore, typeStorage, typeEndpoint}, After: ways, check: st05,
			Why: "Jobs that mount them hang until they time out."},
		{Code: "ST-06", Title: "Service endpoints: rule and subnet match", Severity: levels(Off, Error, Error), Subject: typeWorkspace, Reads: []string{typeStorage, typeSubnet}, check: st06,
			Why: "A network rule for a subnet without Microsoft.Storage matches nothing; so does a rule for another subnet."},
		{Code: "ST-07", Title: "Shared key off: computes have identities", Severity: always(Warning), Subject: typeWorkspace, Reads: []string{typeStorage, typeCompute}, check: st07,
			Why: "Without account keys a job reads data with the compute's identity: \"Give either an account key or SAS token\" otherwise."},
	}
}

// storageOf a workspace; ends the draft when it cannot be judged.
func (c *check) associated(d *draft, ws *Resource, key, typ string) *Resource {
	v := ws.Get(key)
	switch v.State() {
	case Unknown:
		d.unclear(v, key+" of workspace "+ws.Name(), ws)
		return nil
	case Absent:
		d.see("no "+key, v).none("the workspace has no %s", noun(typ))
		return nil
	}
	r := c.g.Resource(v.Text())
	if r == nil {
		d.see(key, v).unknown([]Ask{{Type: typ, Scope: v.Text()}}, "%s is not in the input", label(v.Text()))
		return nil
	}
	d.f.Resources = append(d.f.Resources, r.ID)
	return r
}

// byServiceEndpoint says whether a network rule of a target names one of the
// cluster's subnets, and whether that subnet has the service's endpoint.
func (e *env) byServiceEndpoint(cluster, target *Resource, service string) (named bool, w way) {
	acls := "networkAcls"
	if sameType(target.Type, typeRegistry) {
		acls = "networkRuleSet"
	}
	rules := map[string]Value{}
	for _, v := range target.Get(acls, "virtualNetworkRules").Items() {
		for _, key := range []string{"id", "virtualNetworkResourceId"} {
			if id := v.Get(key); id.State() == Known {
				rules[foldID(id.Text())] = id
			}
		}
	}
	if len(rules) == 0 {
		return false, way{}
	}
	w = yes()
	for _, h := range e.homesOf(cluster).subnets {
		at, there := rules[foldID(h.subnet)]
		if !there {
			return true, no("the network rules of "+target.Label()+" do not name subnet "+idName(h.subnet), append(w.steps, Step{Text: "subnet " + idName(h.subnet) + " is not named", Resource: h.subnet, Source: target.Get(acls, "virtualNetworkRules").Source(), Broken: true})...)
		}
		w.steps = append(w.steps, Step{Text: "network rule for subnet " + idName(h.subnet), Resource: target.ID, Source: at.Source()})
		s := e.g.Resource(h.subnet)
		if s == nil {
			return true, maybe([]Ask{{Type: typeVNet, Scope: h.vnet}}, "subnet "+idName(h.subnet)+" is not in the input", w.steps...)
		}
		has := false
		list := s.Get("serviceEndpoints")
		for _, ep := range list.Items() {
			has = has || ep.Get("service").Is(service) || strings.HasPrefix(fold(ep.Get("service").Text()), fold(service)+".") || ep.Is(service)
		}
		if !has && list.State() == Unknown {
			return true, maybe([]Ask{{Type: typeVNet, Scope: h.vnet}}, "the service endpoints of subnet "+s.Name()+" are not known", w.steps...)
		}
		if !has {
			return true, no("subnet "+s.Name()+" has no service endpoint "+service, append(w.steps, Step{Text: "subnet " + s.Name() + " without " + service, Resource: s.ID, Source: list.Source(), Broken: true})...)
		}
		w.steps = append(w.steps, Step{Text: "subnet " + s.Name() + " with " + service, Resource: s.ID, Source: list.Source()})
	}
	if gaps := e.homesOf(cluster); len(gaps.gaps) > 0 {
		return true, maybe(gaps.asks, gaps.gaps[0], w.steps...)
	}
	return true, w
}

func st01(c *check) {
	for _, p := range c.pairs {
		first := c.about(p.cluster, p.workspace)
		st := c.associated(first, p.workspace, "storageAccount", typeStorage)
		if st == nil {
			continue
		}
		if named, _ := c.byServiceEndpoint(p.cluster, st, "Microsoft.Storage"); named && len(c.g.endpointsOf[foldID(st.ID)]) == 0 {
			first.none("the account is reached by service endpoint (ST-06)")
			continue
		}
		groups := []string{"blob", "file", "queue", "table"}
		if hns, _ := st.Get("isHnsEnabled").Truth(false); hns {
			groups = append(groups, "dfs")
		}
		for _, g := range groups {
			d := c.about(p.cluster, p.workspace, st).follow([]Step{p.how})
			if g == "queue" || g == "table" {
				d.grave(Warning)
			}
			az, tf := c.endpointFix(st.ID, g, c.endpointSubnet())
			d.fix(az, tf).judge(c.privately(p.cluster, st.ID, g), "the cluster reaches "+g+" of "+st.Name()+" privately")
		}
	}
	c.unpaired()
}

func st02(c *check) {
	for _, ws := range c.g.list(typeWorkspace) {
		d := c.about(ws)
		st := c.associated(d, ws, "storageAccount", typeStorage)
		if st == nil {
			continue
		}
		acls, bypass := st.Get("networkAcls"), st.Get("networkAcls", "bypass")
		for _, rule := range st.Get("networkAcls", "resourceAccessRules").Items() {
			if id := rule.Get("resourceId"); sameID(id.Text(), ws.ID) {
				d.see("the workspace is a resource instance", id)
				acls = Value{}
				break
			}
		}
		trusted := strings.Contains(fold(bypass.Text()), "azureservices")
		list, _ := bypass.Texts()
		for _, b := range list {
			trusted = trusted || strings.Contains(fold(b), "azureservices")
		}
		switch {
		case acls.view == nil:
			d.pass("the workspace is let in by name")
		case trusted:
			d.see("bypass "+strings.Join(list, " "), bypass).pass("trusted services are let in")
		case acls.State() == Absent || bypass.State() == Absent:
			d.see("no network rules, or no bypass among them: the default is AzureServices", bypass).pass("trusted services are let in by default")
		case bypass.State() == Unknown:
			d.unclear(bypass, "the bypass of "+st.Label(), st)
		default:
			d.ends("bypass "+bypass.Text(), bypass).fix("az storage account update -g "+idGroup(st.ID)+" -n "+st.Name()+" --bypass AzureServices",
				"resource \"azurerm_storage_account\" \""+tfName(st.Name())+"\" {\n  network_rules {\n    default_action = \"Deny\"\n    bypass         = [\"AzureServices\"]\n  }\n}").
				fail("neither trusted services nor the workspace are let in")
		}
	}
}

func st03(c *check) {
	for _, ws := range c.g.list(typeWorkspace) {
		d := c.about(ws)
		st := c.associated(d, ws, "storageAccount", typeStorage)
		if st == nil {
			continue
		}
		d.fix("az storage account update -g "+idGroup(st.ID)+" -n "+st.Name()+" --default-action Deny",
			"resource \"azurerm_storage_account\" \""+tfName(st.Name())+"\" {\n  public_network_access_enabled = false\n}").closed(st)
	}
}

// closed ends a draft about a target's default.
func (d *draft) closed(r *Resource) {
	shut, known, v := isClosed(r)
	switch {
	case shut:
		d.see("closed: "+v.Text(), v).pass("%s is closed by default", r.Label())
	case !known:
		d.unclear(v, "whether "+r.Label()+" is closed", r)
	default:
		d.ends("open to all networks", v).fail("%s is open to all networks", r.Label())
	}
}

func st04(c *check) {
	for _, ws := range c.g.list(typeWorkspace) {
		d := c.about(ws)
		st := c.associated(d, ws, "storageAccount", typeStorage)
		if st == nil {
			continue
		}
		own, a := c.endpointVNets(ws.ID, "amlworkspace")
		blobs, b := c.endpointVNets(st.ID, "blob")
		shared := ""
		for _, v := range blobs {
			if contains(own, v) {
				shared = v
			}
		}
		has, sure := c.hasEndpoint(ws)
		hasSt, sureSt := c.hasEndpoint(st)
		az, tf := c.endpointFix(st.ID, "blob", "<a subnet of the workspace endpoint's VNet>")
		switch {
		case shared != "":
			d.see("both endpoints in VNet "+idName(shared), st.self()).pass("one VNet")
		case !a || !b || len(own) == 0 && (has || !sure) || len(blobs) == 0 && (hasSt || !sureSt):
			d.unknown([]Ask{{Type: typeEndpoint, Scope: subscriptionScope(ws.ID)}}, "where the private endpoints are is not known")
		case len(own) == 0 || len(blobs) == 0:
			d.none("one of the two has no private endpoint (WS-02, ST-01)")
		default:
			d.ends("workspace in VNet "+idName(own[0])+", storage in VNet "+idName(blobs[0]), st.self()).fix(az, tf).fail("the endpoints are in different VNets")
		}
	}
}

func st05(c *check) {
	for _, p := range c.pairs {
		stores := c.g.below(p.workspace.ID, typeDatastore)
		if len(stores) == 0 && !c.g.complete(typeDatastore, p.workspace.ID) {
			c.about(p.cluster, p.workspace).unknown([]Ask{{Type: typeDatastore, Scope: p.workspace.ID}}, "the datastores of the workspace are not in the input")
			continue
		}
		further := 0
		for _, s := range stores {
			account := s.Get("accountName")
			if account.State() != Known || strings.EqualFold(account.Text(), idName(p.workspace.Get("storageAccount").Text())) {
				continue
			}
			further++
			c.datastore(p, s, account)
		}
		if further == 0 {
			c.about(p.cluster, p.workspace).none("no datastore beside the workspace's own account")
		}
	}
	c.unpaired()
}

func (c *check) datastore(p pair, s *Resource, account Value) {
	d := c.about(p.cluster, p.workspace, s).see("account "+account.Text(), account)
	st := c.g.accounts[strings.ToLower(account.Text())]
	if st == nil {
		d.unknown([]Ask{{Type: typeStorage, Scope: subscriptionScope(p.workspace.ID)}}, "storage account %s is not in the input", account.Text())
		return
	}
	group := "blob"
	kind := fold(s.Get("datastoreType").Text() + s.Get("type").Text())
	if strings.Contains(kind, "azurefile") {
		group = "file"
	} else if strings.Contains(kind, "datalakegen2") {
		group = "dfs"
	}
	if shut, known, _ := isClosed(st); !shut && known && len(c.g.endpointsOf[foldID(st.ID)]) == 0 {
		d.found(st).none("the account is public")
		return
	}
	if named, w := c.byServiceEndpoint(p.cluster, st, "Microsoft.Storage"); named {
		d.judge(w, "reached by service endpoint")
		return
	}
	az, tf := c.endpointFix(st.ID, group, c.endpointSubnet())
	d.fix(az, tf).judge(c.privately(p.cluster, st.ID, group), "the cluster reaches "+group+" of "+st.Name()+" privately")
}

func st06(c *check) {
	for _, p := range c.pairs {
		d := c.about(p.cluster, p.workspace)
		st := c.associated(d, p.workspace, "storageAccount", typeStorage)
		if st == nil {
			continue
		}
		rules := st.Get("networkAcls", "virtualNetworkRules")
		named, w := c.byServiceEndpoint(p.cluster, st, "Microsoft.Storage")
		switch {
		case rules.State() == Unknown:
			d.unclear(rules, "the network rules of "+st.Label(), st)
		case !named:
			d.see("no network rule for a subnet", rules).none("no service endpoints in use")
		case !w.ok && w.known && c.privately(p.cluster, st.ID, "blob").ok:
			d.none("the rules name other subnets; the cluster has a private endpoint (ST-01)")
		default:
			d.fix(serviceEndpointFix(c, p.cluster, st, "Microsoft.Storage")).judge(w, "the cluster reaches the account by service endpoint")
		}
	}
	c.unpaired()
}

func serviceEndpointFix(c *check, cluster, target *Resource, service string) (string, string) {
	subnet := "<subnet id>"
	if h := c.homesOf(cluster).subnets; len(h) > 0 {
		subnet = plain(h[0].subnet)
	}
	command := map[string]string{"Microsoft.Storage": "az storage account network-rule add -g %g --account-name %n --subnet ", "Microsoft.KeyVault": "az keyvault network-rule add -g %g -n %n --subnet "}[service]
	command = strings.NewReplacer("%g", idGroup(target.ID), "%n", target.Name()).Replace(command)
	return "az network vnet subnet update --ids " + subnet + " --service-endpoints " + service + "\n" + command + subnet,
		"resource \"azurerm_subnet\" \"" + tfName(idName(subnet)) + "\" {\n  service_endpoint {\n    service = \"" + service + "\"\n  }\n}\n# and " + subnet + " among the virtual_network_subnet_ids of " + target.Name()
}

func st07(c *check) {
	for _, ws := range c.g.list(typeWorkspace) {
		d := c.about(ws)
		st := c.associated(d, ws, "storageAccount", typeStorage)
		if st == nil {
			continue
		}
		v := st.Get("allowSharedKeyAccess")
		allowed, known := v.Truth(true)
		if !known {
			d.unclear(v, "whether "+st.Label()+" takes shared keys", st)
			continue
		}
		if allowed {
			d.see("shared keys are allowed", v).none("jobs use account keys")
			continue
		}
		list := c.kubernetesComputes(ws)
		if len(list) == 0 && !c.g.complete(typeCompute, ws.ID) {
			d.unknown([]Ask{{Type: typeCompute, Scope: ws.ID}}, "the computes of the workspace are not in the input")
			continue
		}
		for _, x := range list {
			d := c.about(ws, st, x).see("shared keys are off", v)
			t := x.Get("identity", "type")
			switch {
			case t.State() == Known && !t.Is("None"):
				d.see("identity "+t.Text(), t).pass("compute %s has an identity", x.Name())
			case t.State() == Unknown:
				d.unclear(t, "the identity of compute "+x.Name(), x)
			default:
				d.ends("no identity", t).fix("az ml compute detach -g "+idGroup(ws.ID)+" -w "+ws.Name()+" -n "+x.Name()+"\naz ml compute attach -g "+idGroup(ws.ID)+" -w "+ws.Name()+" -n "+x.Name()+" --type Kubernetes --identity-type SystemAssigned --resource-id "+plain(x.Get("resourceId").Text()),
					"resource \"azapi_resource\" \""+tfName(x.Name())+"\" {\n  identity {\n    type = \"SystemAssigned\"\n  }\n}").fail("compute %s has no identity and shared keys are off", x.Name())
			}
		}
		if len(list) == 0 {
			d.none("no Kubernetes compute")
		}
	}
}
