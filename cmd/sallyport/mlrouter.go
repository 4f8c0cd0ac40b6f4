package main

import (
	"os"
	"strings"

	"github.com/sallyport/sallyport/deploy"
	"github.com/sallyport/sallyport/trust"
)

// mlRouter are the arguments about online endpoints, under the names of Azure's
// settings for its extension.
type mlRouter struct {
	enabled, insecure, alone                                    bool
	serviceType, internal, secret, certFile, keyFile, host, url string
}

func (r *mlRouter) flags(f *flags) {
	f.flag(&r.enabled, "enable-inference", "", "Serve online endpoints: adds the router, which scores.")
	f.text(&r.serviceType, "inference-router-service-type", "", "How the router is reached: loadBalancer, nodePort or clusterIP.")
	f.text(&r.internal, "internal-load-balancer-provider", "", "azure: the load balancer has a private address.")
	f.flag(&r.insecure, "allow-insecure-connections", "", "Score without TLS: whoever is on the way can read endpoints' keys.")
	f.text(&r.secret, "ssl-secret", "", "Secret in namespace azureml with cert.pem and key.pem.")
	f.text(&r.certFile, "ssl-cert-pem-file", "", "PEM file of the certificate with its chain, instead of a Secret that is there.")
	f.text(&r.keyFile, "ssl-key-pem-file", "", "PEM file of its key. It becomes part of what is printed.")
	f.text(&r.host, "ssl-cname", "", "The name in the certificate, by which the router is reached.")
	f.flag(&r.alone, "no-inference-router-ha", "", "One router. Default: three, on three nodes.")
	f.text(&r.url, "scoring-url", "", "Where callers reach the router, when that is not its Service: https://HOST[/PATH].")
}

// options reads them. nil: no endpoints are served.
func (r *mlRouter) options() (*deploy.MLRouter, error) {
	if !r.enabled {
		if *r != (mlRouter{}) {
			e := trust.Errorf(trust.Invalid, "arguments about the router say nothing without online endpoints")
			e.Hint = "add --enable-inference"
			return nil, e
		}
		return nil, nil
	}
	out := &deploy.MLRouter{Insecure: r.insecure, Secret: r.secret, Host: r.host, URL: r.url, Alone: r.alone}
	for _, t := range []string{"LoadBalancer", "NodePort", "ClusterIP"} {
		if strings.EqualFold(t, r.serviceType) {
			out.ServiceType = t
		}
	}
	if out.ServiceType == "" {
		return nil, trust.Errorf(trust.Invalid, "--inference-router-service-type is %q: it must be loadBalancer, nodePort or clusterIP", r.serviceType)
	}
	switch {
	case strings.EqualFold(r.internal, "azure"):
		out.Internal = true
	case r.internal != "":
		return nil, trust.Errorf(trust.Invalid, "--internal-load-balancer-provider is %q: only azure is known", r.internal)
	}
	for _, f := range []struct {
		file string
		into *[]byte
	}{{r.certFile, &out.Cert}, {r.keyFile, &out.Key}} {
		if f.file == "" {
			continue
		}
		data, err := os.ReadFile(f.file)
		if err != nil {
			return nil, trust.Errorf(trust.Invalid, "%s cannot be read", f.file).Because(err)
		}
		*f.into = data
	}
	return out, nil
}
