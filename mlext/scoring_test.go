package mlext

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestScoringBase(t *testing.T) {
	service := func(kind corev1.ServiceType, port string, number int32, annotations map[string]string, ingress ...corev1.LoadBalancerIngress) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: RouterService, Annotations: annotations},
			Spec:   corev1.ServiceSpec{Type: kind, ClusterIP: "10.0.0.7", Ports: []corev1.ServicePort{{Name: port, Port: number, NodePort: 30080}}},
			Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: ingress}}}
	}
	for name, c := range map[string]struct {
		service   *corev1.Service
		want, why string
	}{
		"what the owner says":   {service(corev1.ServiceTypeNodePort, "https", 443, map[string]string{ScoringURL: "https://score.example/ml/"}), "https://score.example/ml", ""},
		"address":               {service(corev1.ServiceTypeLoadBalancer, "http", 80, nil, corev1.LoadBalancerIngress{IP: "203.0.113.9"}), "http://203.0.113.9", ""},
		"the second address":    {service(corev1.ServiceTypeLoadBalancer, "http", 80, nil, corev1.LoadBalancerIngress{}, corev1.LoadBalancerIngress{IP: "203.0.113.9"}), "http://203.0.113.9", ""},
		"IPv6":                  {service(corev1.ServiceTypeLoadBalancer, "https", 443, nil, corev1.LoadBalancerIngress{IP: "2001:db8::1"}), "https://[2001:db8::1]", ""},
		"IPv6, another port":    {service(corev1.ServiceTypeLoadBalancer, "http", 8080, nil, corev1.LoadBalancerIngress{IP: "2001:db8::1"}), "http://[2001:db8::1]:8080", ""},
		"the load balancer's":   {service(corev1.ServiceTypeLoadBalancer, "http", 8080, nil, corev1.LoadBalancerIngress{Hostname: "lb.example"}), "http://lb.example:8080", ""},
		"the certificate's":     {service(corev1.ServiceTypeLoadBalancer, "https", 443, map[string]string{ScoringHost: "ml.example"}, corev1.LoadBalancerIngress{IP: "203.0.113.9"}), "https://ml.example", ""},
		"no address yet":        {service(corev1.ServiceTypeLoadBalancer, "https", 443, map[string]string{ScoringHost: "ml.example"}), "", "no address yet"},
		"which node":            {service(corev1.ServiceTypeNodePort, "http", 80, nil), "", "say where"},
		"a node by name":        {service(corev1.ServiceTypeNodePort, "http", 80, map[string]string{ScoringHost: "node.example"}), "http://node.example:30080", ""},
		"the cluster's address": {service(corev1.ServiceTypeClusterIP, "http", 80, nil), "http://10.0.0.7", ""},
	} {
		got, why := ScoringBase(c.service)
		if got != c.want || !strings.Contains(why, c.why) || (got == "") != (why != "") {
			t.Errorf("%s: %q, %q, want %q, %q", name, got, why, c.want, c.why)
		}
	}
}
