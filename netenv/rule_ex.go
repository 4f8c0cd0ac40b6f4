package netenv

import (
	"maps"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/spelling"
)

func rulesEX() []*Rule {
	return []*Rule{
		{Code: "EX-01", Title: "Settings of the Azure ML extension are valid", Severity: always(Error), Subject: typeExtension, check: ex01,
			Why:  "The CLI refuses these; Terraform and ARM accept them and the installation fails after fifteen minutes.",
			Note: "Examples write sslCertKeyFile, InferenceRouterHA and slKeyPemFile; only sslKeyPemFile and inferenceRouterHA are read."},
		{Code: "EX-02", Title: "The router is private: internal load balancer, TLS, a name that resolves", Severity: levels(Off, Warning, Warning), Subject: typeExtension, Reads: []string{typeZone, typeA, typeLink}, check: ex02,
			Why: "Online endpoints answer at the router's address: public and in clear text unless told otherwise. The name is an A record, not a CNAME."},
	}
}

// extensionKeys are the settings that the extension reads; a key with a dot at
// its end stands for all below it.
var extensionKeys = []string{
	"enableTraining", "enableInference", "allowInsecureConnections", "inferenceRouterServiceType", "internalLoadBalancerProvider",
	"sslSecret", "sslCertPemFile", "sslKeyPemFile", "sslCname", "inferenceRouterHA", "clusterPurpose", "nodeSelector.",
	"installNvidiaDevicePlugin", "installDcgmExporter", "installPromOp", "installVolcano", "volcanoScheduler.", "amloperator.",
	"nginxIngress.", "cluster_name", "clusterId", "prometheus.", "domain", "location", "jobSchedulerLocation", "cluster_name_friendly",
	"servicebus.", "relayserver.", "isAKSMigration", "scoringFe.", "logAnalyticsWS", "azure_log_analytics.", "enable_https", "volumePluginDir",
	"blobfuseSysctlInstall.", "relayServerConnectionString", "inferenceLoadBalancerHA", "doamin",
}

func knownSetting(key string) bool {
	return slices.ContainsFunc(extensionKeys, func(k string) bool {
		return key == k || strings.HasSuffix(k, ".") && (strings.HasPrefix(key, k) || key == strings.TrimSuffix(k, "."))
	})
}

// meant is the known key nearest to one that is not.
func meant(key string) string { return spelling.Nearest(key, extensionKeys, len(key)/2) }

func (c *check) eachExtension(do func(d *draft, x *Resource, settings Value)) {
	for _, x := range c.g.list(typeExtension) {
		t := x.Get("extensionType")
		d := c.about(x)
		switch {
		case t.State() == Unknown || t.State() == Absent:
			d.unclear(t, "the type of extension "+x.Name(), x)
		case !t.Is("Microsoft.AzureML.Kubernetes"):
			d.see("type "+t.Text(), t).none("another extension")
		default:
			s := x.Get("configurationSettings")
			if s.State() == Unknown {
				d.unclear(s, "the settings of extension "+x.Name(), x)
				continue
			}
			do(d, x, s)
		}
	}
}

func ex01(c *check) {
	c.eachExtension(func(d *draft, x *Resource, s Value) {
		fields, secret := s.Fields(), x.Get("configurationProtectedSettings").Fields()
		reason, at := settingsProblem(fields, secret, s)
		d.fix("az k8s-extension update -g "+idGroup(x.ID)+" -c "+idName(idParent(idParent(x.ID)))+" -t managedClusters -n "+x.Name()+" --config <key>=<value>\n# protected settings that are not given again are deleted",
			"resource \"azurerm_kubernetes_cluster_extension\" \""+tfName(x.Name())+"\" {\n  configuration_settings = {\n    # see sallyport env explain EX-01\n  }\n}")
		if reason != "" {
			d.ends(reason, at).fail("%s", reason)
			return
		}
		for _, k := range []string{"enableTraining", "enableInference", "allowInsecureConnections", "inferenceRouterServiceType", "internalLoadBalancerProvider"} {
			if f := fields[k]; f.State() == Unknown {
				d.unclear(f, "setting "+k, x)
				return
			}
		}
		d.see("settings", s).pass("the settings are valid")
	})
}

func settingsProblem(fields, secret map[string]Value, s Value) (string, Value) {
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		if !knownSetting(k) {
			m := meant(k)
			return "no setting " + k + cond(m != "", ": did you mean "+m+"?", ""), fields[k]
		}
	}
	on := func(k string, def bool) bool { b, known := fields[k].Truth(def); return b && known }
	has := func(k string) bool { return fields[k].State() != Absent || secret[k].place != nil }
	training, inference := fields["enableTraining"], fields["enableInference"]
	if !on("enableTraining", false) && !on("enableInference", false) && training.State() != Unknown && inference.State() != Unknown {
		return "neither enableTraining nor enableInference is on", s
	}
	if !on("enableInference", false) {
		return "", s
	}
	router := fields["inferenceRouterServiceType"]
	if router.State() == Absent {
		return "inference needs inferenceRouterServiceType", s
	}
	if router.State() == Known && !contains([]string{"loadBalancer", "nodePort", "clusterIP"}, router.Text()) {
		return "inferenceRouterServiceType is none of loadBalancer, nodePort, clusterIP", router
	}
	if lb := fields["internalLoadBalancerProvider"]; lb.State() == Known && lb.Text() != "" {
		if !lb.Is("azure") {
			return "internalLoadBalancerProvider takes azure only", lb
		}
		if router.Is("nodePort") {
			return "internalLoadBalancerProvider excludes nodePort", lb
		}
	}
	if on("allowInsecureConnections", false) || fields["allowInsecureConnections"].State() == Unknown {
		return "", s
	}
	if has("sslCertPemFile") != has("sslKeyPemFile") {
		return "sslCertPemFile and sslKeyPemFile go together", s
	}
	if !has("sslSecret") && !has("sslCertPemFile") && secret["scoringFe.sslCert"].place == nil {
		return "inference needs sslSecret or a certificate, or allowInsecureConnections", s
	}
	if !has("sslCname") {
		return "TLS needs sslCname", s
	}
	return "", s
}

func ex02(c *check) {
	c.eachExtension(func(d *draft, x *Resource, s Value) {
		f := s.Fields()
		if b, known := f["enableInference"].Truth(false); known && !b {
			d.see("inference is off", f["enableInference"]).none("no router")
			return
		}
		insecure, _ := f["allowInsecureConnections"].Truth(false)
		router, lb, cname := f["inferenceRouterServiceType"], f["internalLoadBalancerProvider"], f["sslCname"]
		d.fix("az k8s-extension update -g "+idGroup(x.ID)+" -c "+idName(idParent(idParent(x.ID)))+" -t managedClusters -n "+x.Name()+" --config internalLoadBalancerProvider=azure allowInsecureConnections=False sslSecret=<secret> sslCname=<name>\naz network private-dns record-set a add-record -g "+idGroup(x.ID)+" -z <zone> -n <name> -a <router's address>",
			"resource \"azurerm_kubernetes_cluster_extension\" \""+tfName(x.Name())+"\" {\n  configuration_settings = {\n    internalLoadBalancerProvider = \"azure\"\n  }\n}")
		switch {
		case router.Is("loadBalancer") && !lb.Is("azure"):
			d.ends("a public load balancer", router).fail("the router's load balancer has a public address")
			return
		case insecure:
			d.ends("allowInsecureConnections", f["allowInsecureConnections"]).fail("the router takes plain HTTP")
			return
		case cname.State() != Known:
			d.unclear(cname, "sslCname", x)
			return
		}
		c.routerName(d, cname)
	})
}

// routerName looks for the A record of the router's name.
func (c *check) routerName(d *draft, cname Value) {
	name := strings.ToLower(cname.Text())
	d.see("sslCname "+name, cname)
	for _, z := range c.g.list(typeZone) {
		record, ok := strings.CutSuffix(name, "."+strings.ToLower(z.Name()))
		if !ok {
			continue
		}
		r := c.g.Resource(z.ID + "/A/" + record)
		switch {
		case r == nil && c.g.complete(typeA, z.ID):
			d.found(z).ends("no record "+record, z.self()).fail("zone %s has no A record %s", z.Name(), record)
		case r == nil:
			d.unknown([]Ask{{Type: typeA, Scope: z.ID}}, "the records of zone %s are not in the input", z.Name())
		case len(c.g.below(z.ID, typeLink)) == 0 && c.g.complete(typeLink, z.ID):
			d.found(r).ends("the zone has no link", z.self()).fail("zone %s is linked to no VNet", z.Name())
		case len(c.g.below(z.ID, typeLink)) == 0:
			d.unknown([]Ask{{Type: typeLink, Scope: z.ID}}, "the links of zone %s are not in the input", z.Name())
		default:
			d.found(r).pass("%s has an A record in a linked zone", name)
		}
		return
	}
	d.unknown([]Ask{{Type: typeZone}}, "no private zone of the input holds %s; it may be public or elsewhere", name)
}
