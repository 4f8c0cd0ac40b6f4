package netenv

import "strings"

// endpointVNets are the VNets in which endpoints for a target and group are.
func (e *env) endpointVNets(target, group string) (vnets []string, known bool) {
	known = true
	for _, p := range e.endpointsFor(target, group) {
		s := p.Get("subnet", "id")
		if s.State() != Known {
			known = false
			continue
		}
		vnets = append(vnets, foldID(idParent(s.Text())))
	}
	return vnets, known
}

func ws09(c *check) {
	for _, r := range c.g.list(typeWorkspace) {
		d := c.about(r)
		own, known := c.endpointVNets(r.ID, "amlworkspace")
		if len(own) == 0 {
			if has, sure := c.hasEndpoint(r); !has && sure {
				d.none("the workspace has no private endpoint")
			} else {
				d.unknown([]Ask{{Type: typeEndpoint, Scope: subscriptionScope(r.ID)}}, "where the workspace's private endpoints are is not known")
			}
			continue
		}
		var apart string
		others := 0
		for _, o := range []struct{ key, group string }{{"storageAccount", "blob"}, {"storageAccount", "file"}, {"keyVault", "vault"}, {"containerRegistry", "registry"}} {
			vnets, sure := c.endpointVNets(r.Get(o.key).Text(), o.group)
			others += len(vnets)
			known = known && sure
			shared := len(vnets) == 0
			for _, v := range vnets {
				shared = shared || contains(own, v)
			}
			if !shared {
				apart = o.key + " (" + o.group + ") in VNet " + idName(vnets[0])
			}
		}
		az, tf := c.endpointFix(r.ID, "amlworkspace", "<subnet of the other endpoints' VNet>")
		switch {
		case apart != "":
			d.ends("workspace endpoint in VNet "+idName(own[0])+", "+apart, r.self()).fix(az, tf).fail("no workspace endpoint in the VNet of %s", apart)
		case !known || others == 0 && !c.g.complete(typeEndpoint, subscriptionScope(r.ID)):
			d.unknown([]Ask{{Type: typeEndpoint, Scope: subscriptionScope(r.ID)}}, "where the private endpoints are is not known")
		case others == 0:
			d.none("storage, vault and registry have no private endpoints")
		default:
			d.see("endpoints in VNet "+idName(own[0]), r.self()).pass("the workspace shares the VNet of the endpoints around it")
		}
	}
}

func ws10(c *check) {
	for _, r := range c.g.list(typeWorkspace) {
		d := c.about(r)
		vnets, _ := c.endpointVNets(r.ID, "amlworkspace")
		if open := r.Get("publicNetworkAccess"); open.State() != Unknown && !open.Is("Disabled") {
			d.see("public access is on", open).none("people come in publicly")
			continue
		}
		if len(vnets) == 0 {
			if has, sure := c.hasEndpoint(r); !has && sure {
				d.none("the workspace has no private endpoint (WS-02)")
			} else {
				d.unknown([]Ask{{Type: typeEndpoint, Scope: subscriptionScope(r.ID)}}, "where the workspace's private endpoint is is not known")
			}
			continue
		}
		door, whole, unseen := c.door(vnets)
		switch {
		case door != nil:
			d.found(door).pass("people come in through %s", door.Label())
		case !whole:
			d.unknown([]Ask{{Type: typeVNet, Scope: unseen}, {Type: typeVM, Scope: subscriptionScope(r.ID)}}, "VNet %s and what stands in it are not wholly in the input", idName(unseen))
		default:
			d.ends("no bastion, gateway or jump box in VNet "+idName(vnets[0])+" or its peers", c.g.Resource(vnets[0]).self()).
				fix("az network vnet subnet create -g "+idGroup(vnets[0])+" --vnet-name "+idName(vnets[0])+" -n AzureBastionSubnet --address-prefixes <free range>/26\naz network bastion create -g "+idGroup(vnets[0])+" -n bastion --vnet-name "+idName(vnets[0])+" --public-ip-address <public ip>",
					"resource \"azurerm_bastion_host\" \"bastion\" {\n  ip_configuration {\n    name                 = \"bastion\"\n    subnet_id            = azurerm_subnet.bastion.id\n    public_ip_address_id = azurerm_public_ip.bastion.id\n  }\n}").
				fail("nobody outside the network can open the workspace")
		}
	}
}

// door finds where people come into VNets or their direct peers: a bastion's or
// gateway's subnet, or a machine.
func (e *env) door(vnets []string) (door *Resource, whole bool, unseen string) {
	whole = true
	near := map[string]bool{}
	for _, v := range vnets {
		near[v] = true
		for _, p := range e.g.below(v, typePeering) {
			near[foldID(p.Get("remoteVirtualNetwork", "id").Text())] = true
		}
	}
	for v := range near {
		if e.g.Resource(v) == nil || !e.g.complete(typeSubnet, v) {
			if whole || v < unseen {
				unseen = v
			}
			whole = false
		}
		for _, s := range e.g.below(v, typeSubnet) {
			if n := strings.ToLower(s.Name()); (n == "azurebastionsubnet" || n == "gatewaysubnet") && (door == nil || s.ID < door.ID) {
				door = s
			}
		}
	}
	return door, whole, unseen
}
