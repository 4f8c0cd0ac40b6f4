package extension

import (
	"crypto/tls"
	"crypto/x509"
	"strings"

	"github.com/sallyport/sallyport/trust"
)

const azureOnly = "it is about Azure's own infrastructure, which is not there"

// azureML is Azure ML's extension, as Sallyport has it: what runs jobs and
// endpoints in a cluster for an ML workspace.
func azureML() Type {
	const (
		noRelay   = "there is no relay: agents dial the server"
		noVolcano = "jobs are Kubernetes Jobs, no scheduler is installed"
		noProm    = "metrics are served for whatever Prometheus the cluster has"
		noNginx   = "no ingress controller is installed"
		noGPU     = "no GPU plugin is installed; install the vendor's operator and leave this false"
	)
	t := Type{
		Name: "Microsoft.AzureML.Kubernetes", Version: "1.0.0", Trains: []string{"stable", "preview"}, ReleaseNamespace: "azureml", Fixed: true,
		Consent: " --namespace NAMESPACE",
		Settings: []Setting{
			{Key: "enableTraining", Kind: Bool, Default: "False"},
			{Key: "enableInference", Kind: Bool, Default: "False"},
			{Key: "allowInsecureConnections", Kind: Bool, Default: "False"},
			{Key: "inferenceRouterServiceType", Kind: Choice, Choices: []string{"loadBalancer", "nodePort", "clusterIP"}},
			{Key: "internalLoadBalancerProvider", Kind: Choice, Choices: []string{"azure"}},
			{Key: "sslSecret", Kind: DNSName},
			{Key: "sslCertPemFile", Kind: PEM, Protected: true, Value: "sslCert"},
			{Key: "sslKeyPemFile", Kind: PEM, Protected: true, Value: "sslKey"},
			{Key: "scoringFe.sslCert", Kind: PEM, Protected: true, Value: "sslCert"},
			{Key: "scoringFe.sslKey", Kind: PEM, Protected: true, Value: "sslKey"},
			{Key: "sslCname", Kind: DNSName},
			{Key: "inferenceRouterHA", Kind: Bool, Default: "True"},
			{Key: "clusterPurpose", Kind: Choice, Choices: []string{"DevTest", "FastProd"}, Default: "FastProd", Effect: NoEffect, Why: "how many replicas there are is inferenceRouterHA's, and their sizes are the same for both"},
			{Key: "nodeSelector.*"},
			{Key: "cluster_name", Filled: true}, {Key: "clusterId", Filled: true}, {Key: "cluster_name_friendly", Filled: true},
			{Key: "domain", Filled: true}, {Key: "location", Filled: true}, {Key: "jobSchedulerLocation", Filled: true},

			{Key: "installNvidiaDevicePlugin", Kind: Bool, Default: "False", Effect: RefusedOn, Why: noGPU},
			{Key: "installDcgmExporter", Kind: Bool, Default: "False", Effect: RefusedOn, Why: noGPU},
			{Key: "installPromOp", Kind: Bool, Default: "True", Effect: NoEffect, Why: noProm},
			{Key: "installVolcano", Kind: Bool, Default: "True", Effect: NoEffect, Why: noVolcano},
			{Key: "volcanoScheduler.*", Effect: NoEffect, Why: noVolcano},
			{Key: "amloperator.*", Effect: NoEffect, Why: noVolcano},
			{Key: "nginxIngress.*", Effect: NoEffect, Why: noNginx},
			{Key: "prometheus.*", Effect: NoEffect, Why: noProm},
			{Key: "servicebus.enabled", Kind: Bool, Effect: NoEffect, Why: noRelay},
			{Key: "relayserver.enabled", Kind: Bool, Effect: NoEffect, Why: noRelay},
			{Key: "relayserver.*", Effect: NoEffect, Why: noRelay},
			{Key: "relayServerConnectionString", Protected: true, Effect: Refused, Why: noRelay + ", so nothing needs this secret"},
			{Key: "serviceBusConnectionString", Protected: true, Effect: Refused, Why: noRelay + ", so nothing needs this secret"},
			{Key: "isAKSMigration", Kind: Bool, Effect: NoEffect, Why: azureOnly},
			{Key: "scoringFe.namespace", Kind: DNSName, Effect: NoEffect, Why: azureOnly},
			{Key: "scoringFe.enableUpgrade", Kind: Bool, Effect: NoEffect, Why: azureOnly},
			{Key: "logAnalyticsWS", Effect: NoEffect, Why: azureOnly},
			{Key: "azure_log_analytics.*", Effect: NoEffect, Why: azureOnly},
			{Key: "enable_https", Kind: Bool, Effect: NoEffect, Why: "calls inside the cluster always use TLS"},
			{Key: "volumePluginDir", Effect: NoEffect, Why: azureOnly},
			{Key: "blobfuseSysctlInstall.enabled", Kind: Bool, Effect: NoEffect, Why: azureOnly},
		},
		mistaken: map[string]string{"sslcertkeyfile": "sslKeyPemFile", "slkeypemfile": "sslKeyPemFile"},
		// What az fills in, and what Terraform's users miss.
		fill: func(c Cluster) map[string]string {
			return map[string]string{"cluster_name": c.ID, "clusterId": c.ID, "cluster_name_friendly": c.Name,
				"domain": c.Location, "location": c.Location, "jobSchedulerLocation": c.Location}
		},
		suggest: azureMLSuggestions,
		keep:    func(key string) bool { return strings.HasPrefix(key, "nodeSelector.") },
	}
	t.check = func(v Values) ([]Warning, error) { return azureMLRules(&t, v) }
	return t
}

// RouterNodes is how many nodes a router with high availability needs: one for
// each of its replicas.
const RouterNodes = 3

// azureMLSuggestions are what az settles for its users when a cluster is small.
func azureMLSuggestions(c Cluster, given func(string) string) map[string]string {
	if c.Nodes == 0 || c.Nodes >= RouterNodes || !isTrue(given("enableInference")) {
		return nil
	}
	return map[string]string{"inferenceRouterHA": "False", "clusterPurpose": "DevTest"}
}

func azureMLRules(t *Type, v Values) ([]Warning, error) {
	on := func(key string) bool { return isTrue(v.value(t, key)) }
	if !on("enableTraining") && !on("enableInference") {
		e := bad(plainAt, "at least one of enableTraining and enableInference must be true")
		e.Hint = "--config enableTraining=True"
		return nil, e
	}
	service := trust.Fold(v.value(t, "inferenceRouterServiceType"))
	if v.given("internalLoadBalancerProvider") && service != "" && service != "loadbalancer" {
		return nil, bad(plainAt+".internalLoadBalancerProvider", "it cannot go with inferenceRouterServiceType %s", v.value(t, "inferenceRouterServiceType"))
	}
	warnings, certificate, err := certificateOf(t, v)
	if err != nil || !on("enableInference") {
		return warnings, err
	}
	switch secure := certificate || v.given("sslSecret"); {
	case service == "":
		return nil, bad(plainAt+".inferenceRouterServiceType", "it is required with enableInference: loadBalancer, nodePort or clusterIP")
	case !secure && !on("allowInsecureConnections"):
		e := bad(plainAt, "inference needs a certificate, or allowInsecureConnections true")
		e.Hint = "set sslSecret and sslCname, or scoringFe.sslCert and scoringFe.sslKey among the protected settings and sslCname"
		return nil, e
	case secure && !v.given("sslCname"):
		return nil, bad(plainAt+".sslCname", "it is required with a certificate: the name that clients call the endpoints by")
	}
	return warnings, nil
}

// certificateOf checks the certificate among the settings: that it and its key
// are both there, belong together, and are for sslCname.
func certificateOf(t *Type, v Values) (warnings []Warning, there bool, err error) {
	cert, certKey := either(t, v, "scoringFe.sslCert", "sslCertPemFile")
	key, keyKey := either(t, v, "scoringFe.sslKey", "sslKeyPemFile")
	if cert == "" && key == "" {
		return nil, false, nil
	}
	if cert == "" || key == "" {
		return nil, false, bad(protectedAt, "a certificate and its key go together: give both of scoringFe.sslCert and scoringFe.sslKey, or none")
	}
	certPEM, err1 := pemOf(cert)
	keyPEM, err2 := pemOf(key)
	if err1 != nil || err2 != nil {
		return nil, false, bad(protectedAt, "the certificate or its key is not in PEM")
	}
	if strings.Contains(string(keyPEM), "ENCRYPTED") {
		return nil, false, bad(protectedAt+"."+keyKey, "the key is protected by a passphrase; give it without one")
	}
	pair, bad1 := tls.X509KeyPair(certPEM, keyPEM)
	if bad1 != nil {
		return nil, false, bad(protectedAt+"."+certKey, "the certificate and the key do not belong together, or one cannot be read")
	}
	leaf, bad2 := x509.ParseCertificate(pair.Certificate[0])
	if bad2 != nil {
		return nil, false, bad(protectedAt+"."+certKey, "the first certificate, which must be the server's, cannot be read")
	}
	if cname := v.value(t, "sslCname"); cname != "" && leaf.VerifyHostname(cname) != nil {
		return nil, false, bad(plainAt+".sslCname", "the certificate is not for '%s'", cut(cname))
	}
	if v.given("sslSecret") {
		warnings = append(warnings, Warning{"SettingWithoutEffect", "The setting sslSecret has no effect: the certificate among the protected settings counts."})
	}
	return warnings, true, nil
}

// either is the value of the first key that was given, and that key.
func either(t *Type, v Values, keys ...string) (value, key string) {
	for _, k := range keys {
		if v.given(k) {
			return v.value(t, k), k
		}
	}
	return "", keys[0]
}
