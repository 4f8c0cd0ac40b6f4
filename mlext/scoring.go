package mlext

import (
	"cmp"
	"fmt"
	"net"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/sallyport/sallyport/mlext/wire"
)

// Annotations of the router's Service, the owner's to set.
const (
	ScoringURL  = "ml.sallyport.dev/scoring-url"  // where callers reach the router, when it is not the Service itself
	ScoringHost = "ml.sallyport.dev/scoring-host" // the name in the router's certificate
)

// ScoringBase is the URL at which callers reach the router, read from its
// Service: what the owner says; else the load balancer's address, by the
// certificate's name if there is one; else the cluster's own address, which only
// the cluster reaches. "" with the reason if there is none yet.
func ScoringBase(s *corev1.Service) (base, why string) {
	if u := strings.TrimRight(s.Annotations[ScoringURL], "/"); u != "" {
		return u, ""
	}
	if len(s.Spec.Ports) == 0 {
		return "", fmt.Sprintf("the Service %s has no port", wire.Namespace+"/"+s.Name)
	}
	port := s.Spec.Ports[0]
	number, host := port.Port, s.Spec.ClusterIP
	switch s.Spec.Type {
	case corev1.ServiceTypeLoadBalancer:
		host = ""
		for _, i := range s.Status.LoadBalancer.Ingress {
			if host = cmp.Or(i.Hostname, i.IP); host != "" {
				break
			}
		}
		if host == "" {
			return "", fmt.Sprintf("the load balancer of Service %s has no address yet: kubectl get service -n %s %s", s.Name, wire.Namespace, s.Name)
		}
	case corev1.ServiceTypeNodePort:
		if s.Annotations[ScoringHost] == "" {
			return "", fmt.Sprintf("the Service %s is a NodePort (%d): say where callers reach it, by its annotation %s", s.Name, port.NodePort, ScoringURL)
		}
		number = port.NodePort
	}
	if name := s.Annotations[ScoringHost]; name != "" {
		host = name
	}
	if host == "" || host == corev1.ClusterIPNone {
		return "", fmt.Sprintf("the Service %s has no address", s.Name)
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if scheme := port.Name; scheme == "http" && number == 80 || scheme == "https" && number == 443 {
		return scheme + "://" + host, ""
	}
	return port.Name + "://" + net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(int(number))), ""
}
