package netenv

import "strings"

func rulesKV() []*Rule {
	ways := []string{"VN-05", "PE-01", "PE-02", "PE-03"}
	return []*Rule{
		{Code: "KV-01", Title: "Key vault reachable privately from the cluster", Severity: levels(Off, Error, Error), Subject: typeWorkspace, Reads: []string{typeVault, typeEndpoint, typePeering, typeSubnet}, After: ways, check: kv01,
			Why: "The vault holds the workspace's connection strings and datastore passwords. A service endpoint will do as well."},
		{Code: "KV-02", Title: "Key vault lets trusted services in", Severity: levels(Off, Error, Error), Subject: typeWorkspace, Reads: []string{typeVault}, check: kv02,
			Why: "The workspace itself comes to the vault as a trusted service."},
		{Code: "KV-03", Title: "Key vault closed by default", Severity: levels(Off, Warning, Warning), Subject: typeWorkspace, Reads: []string{typeVault}, check: kv03,
			Why: "A vault open to all networks is protected by its access policies alone."},
	}
}

func kv01(c *check) {
	for _, p := range c.pairs {
		d := c.about(p.cluster, p.workspace)
		kv := c.associated(d, p.workspace, "keyVault", typeVault)
		if kv == nil {
			continue
		}
		d.follow([]Step{p.how})
		c.eitherWay(d, p, kv, "vault", "Microsoft.KeyVault")
	}
	c.unpaired()
}

// eitherWay: a private endpoint, or a service endpoint.
func (c *check) eitherWay(d *draft, p pair, target *Resource, group, service string) {
	w := c.privately(p.cluster, target.ID, group)
	if !w.ok {
		if named, by := c.byServiceEndpoint(p.cluster, target, service); named && by.ok {
			d.judge(by, "the cluster reaches "+target.Label()+" by service endpoint")
			return
		} else if named && len(c.g.endpointsOf[foldID(target.ID)]) == 0 {
			w = by
		}
	}
	az, tf := c.endpointFix(target.ID, group, c.endpointSubnet())
	d.fix(az, tf).judge(w, "the cluster reaches "+target.Label()+" privately")
}

func kv02(c *check) {
	for _, ws := range c.g.list(typeWorkspace) {
		d := c.about(ws)
		kv := c.associated(d, ws, "keyVault", typeVault)
		if kv == nil {
			continue
		}
		v, public := kv.Get("networkAcls", "bypass"), kv.Get("publicNetworkAccess")
		switch {
		case v.Is("AzureServices"):
			d.see("bypass AzureServices", v).pass("trusted services are let in")
		case v.State() == Absent && kv.Get("networkAcls").State() == Absent && public.State() != Unknown && !public.Is("Disabled"):
			d.see("no network rules", v).pass("the vault is open")
		case v.State() != Known:
			d.unclear(v, "the bypass of "+kv.Label(), kv)
		default:
			d.ends("bypass "+v.Text(), v).fix("az keyvault update -g "+idGroup(kv.ID)+" -n "+kv.Name()+" --bypass AzureServices",
				"resource \"azurerm_key_vault\" \""+tfName(kv.Name())+"\" {\n  network_acls {\n    default_action = \"Deny\"\n    bypass         = \"AzureServices\"\n  }\n}").
				fail("trusted services are kept out")
		}
	}
}

func kv03(c *check) {
	for _, ws := range c.g.list(typeWorkspace) {
		d := c.about(ws)
		kv := c.associated(d, ws, "keyVault", typeVault)
		if kv == nil {
			continue
		}
		d.fix("az keyvault update -g "+idGroup(kv.ID)+" -n "+kv.Name()+" --bypass AzureServices --public-network-access Disabled",
			"resource \"azurerm_key_vault\" \""+tfName(kv.Name())+"\" {\n  public_network_access_enabled = false\n}").closed(kv)
	}
}

func rulesCR() []*Rule {
	ways := []string{"VN-05", "PE-01", "PE-02", "PE-03"}
	return []*Rule{
		{Code: "CR-01", Title: "Registry of the Premium tier", Severity: levels(Off, Error, Error), Subject: typeWorkspace, Reads: []string{typeRegistry}, check: cr01,
			Why: "Private endpoints and network rules exist in Premium only. (PSRule's minimum, Standard, is not enough here.)"},
		{Code: "CR-02", Title: "Registry lets trusted services in", Severity: levels(Off, Error, Error), Subject: typeWorkspace, Reads: []string{typeRegistry}, check: cr02,
			Why: "The workspace builds and pulls images as a trusted service."},
		{Code: "CR-03", Title: "Registry reachable privately from the cluster", Severity: levels(Off, Error, Error), Subject: typeWorkspace, Reads: []string{typeRegistry, typeEndpoint, typePeering, typeSubnet}, After: append(ways, "CR-01"), check: cr03,
			Why: "Pods start by pulling their image: ImagePullBackOff otherwise. The data endpoint's name must resolve, too. A service endpoint will do as well."},
		{Code: "CR-04", Title: "Registry closed", Severity: levels(Off, Warning, Warning), Subject: typeWorkspace, Reads: []string{typeRegistry}, check: cr04,
			Why: "A registry open to all networks is protected by its credentials alone."},
		{Code: "CR-05", Title: "Computes may pull images", Severity: always(Error), Subject: typeWorkspace, Reads: []string{typeRegistry, typeCompute, typeAssignment}, check: cr05,
			Why:  "Pods need the registry's admin user, or AcrPull for the compute's identity.",
			Note: "Scanners want the admin user off: AcrPull is the better way and is what the fix does."},
	}
}

func (c *check) eachRegistry(do func(d *draft, ws, cr *Resource)) {
	for _, ws := range c.g.list(typeWorkspace) {
		d := c.about(ws)
		if cr := c.associated(d, ws, "containerRegistry", typeRegistry); cr != nil {
			do(d, ws, cr)
		}
	}
}

func cr01(c *check) {
	c.eachRegistry(func(d *draft, _, cr *Resource) {
		v := cr.Get("sku", "name")
		switch {
		case v.Is("Premium"):
			d.see("sku Premium", v).pass("Premium")
		case v.State() != Known:
			d.unclear(v, "the tier of "+cr.Label(), cr)
		default:
			d.ends("sku "+v.Text(), v).fix("az acr update -g "+idGroup(cr.ID)+" -n "+cr.Name()+" --sku Premium",
				"resource \"azurerm_container_registry\" \""+tfName(cr.Name())+"\" {\n  sku = \"Premium\"\n}").fail("the registry is %s", v.Text())
		}
	})
}

func cr02(c *check) {
	c.eachRegistry(func(d *draft, _, cr *Resource) {
		v := cr.Get("networkRuleBypassOptions")
		switch {
		case v.Is("AzureServices"):
			d.see("bypass AzureServices", v).pass("trusted services are let in")
		case v.State() == Absent:
			d.see("bypass absent: the default is AzureServices", v).pass("trusted services are let in by default")
		case v.State() == Unknown:
			d.unclear(v, "the bypass of "+cr.Label(), cr)
		default:
			d.ends("bypass "+v.Text(), v).fix("az acr update -g "+idGroup(cr.ID)+" -n "+cr.Name()+" --allow-trusted-services true",
				"resource \"azurerm_container_registry\" \""+tfName(cr.Name())+"\" {\n  network_rule_bypass_option = \"AzureServices\"\n}").fail("trusted services are kept out")
		}
	})
}

func cr03(c *check) {
	for _, p := range c.pairs {
		d := c.about(p.cluster, p.workspace)
		cr := c.associated(d, p.workspace, "containerRegistry", typeRegistry)
		if cr == nil {
			continue
		}
		d.follow([]Step{p.how})
		if w := c.privately(p.cluster, cr.ID, "registry"); w.ok && w.endpoint != nil {
			if names := endpointNames(w.endpoint); len(names) > 0 && !hasDataName(names) {
				d.follow(w.steps).ends("addresses for "+strings.Join(names, ", ")+" only", w.endpoint.Get("customDnsConfigs")).
					fix("# make the endpoint again: it registers <name>.<region>.data.azurecr.io as well\naz network private-endpoint delete --ids "+w.endpoint.ID, "# terraform apply -replace=azurerm_private_endpoint."+tfName(w.endpoint.Name())).
					fail("the endpoint has no address for the registry's data endpoint: layers are not pulled privately")
				continue
			}
		}
		c.eitherWay(d, p, cr, "registry", "Microsoft.ContainerRegistry")
	}
	c.unpaired()
}

func hasDataName(names []string) bool {
	for _, n := range names {
		if strings.Contains(strings.ToLower(n), ".data.") {
			return true
		}
	}
	return false
}

func cr04(c *check) {
	c.eachRegistry(func(d *draft, _, cr *Resource) {
		d.fix("az acr update -g "+idGroup(cr.ID)+" -n "+cr.Name()+" --public-network-enabled false",
			"resource \"azurerm_container_registry\" \""+tfName(cr.Name())+"\" {\n  public_network_access_enabled = false\n}").closed(cr)
	})
}

func cr05(c *check) {
	c.eachRegistry(func(first *draft, ws, cr *Resource) {
		admin := cr.Get("adminUserEnabled")
		if on, known := admin.Truth(false); known && on {
			first.see("the admin user is on", admin).pass("images are pulled with the admin user")
			return
		}
		list := c.kubernetesComputes(ws)
		if len(list) == 0 {
			if c.g.complete(typeCompute, ws.ID) {
				first.none("no Kubernetes compute")
			} else {
				first.unknown([]Ask{{Type: typeCompute, Scope: ws.ID}}, "the computes of the workspace are not in the input")
			}
			return
		}
		for _, x := range list {
			d := c.about(ws, cr, x).see("the admin user is off", admin)
			system, user := principals(x)
			ids := append(user, system)
			if ids[0].State() != Known {
				if t := x.Get("identity", "type"); ids[0].State() == Absent && (t.State() == Absent || t.Is("None")) {
					d.ends("compute "+x.Name()+" has no identity", t).fix("az acr update -g "+idGroup(cr.ID)+" -n "+cr.Name()+" --admin-enabled true\n# better: attach the compute again with --identity-type SystemAssigned and give it AcrPull",
						"# an identity on the compute and an azurerm_role_assignment of AcrPull for it").fail("neither admin user nor an identity that could hold AcrPull")
				} else {
					d.unclear(ids[0], "the principal of compute "+x.Name(), x)
				}
				continue
			}
			w := c.holds(ids[0].Text(), cr.ID, "AcrPull", roleAcrPull, roleAcrPush, roleContributor, roleOwner)
			d.fix(assignFix(ids[0].Text(), cr.ID, "AcrPull")).judge(w, "compute "+x.Name()+" may pull")
		}
	})
}
