package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/deploy"
	"github.com/sallyport/sallyport/extension"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/mlext"
)

// healthReport is the ConfigMap in which Azure's extension has the reports of its
// health checks, too.
const healthReport = "arcml-healthcheck"

// Codes of Azure's health check (Azure Machine Learning, "Troubleshoot the
// extension"), those whose causes can be here. Below E45000 nothing is installed.
const (
	codeUnknown      = "E40000"
	codeLoadBalancer = "E40001" // no load balancer gave the router an address
	codeNodes        = "E40002" // not enough nodes for what is asked
	codeInternal     = "E40003" // the same as E40001, of an internal load balancer
	codeNoRouter     = "E40004" // the router's Deployment is gone
	codeRouter       = "E40005" // the router did not come up
	codeReplicas     = "E40006" // the cluster makes none of the router's pods
	codeTLS          = "E40007" // certificate and key of the router
	codeUnhealthy    = "E45001" // a part of the extension does not run
	codeOthersRole   = "E45004" // the router's Role is there, and another's
	codeOthersRouter = "E45005" // the same of its Deployment
	codePanic        = "E49999"
)

// finding is one thing that a check found wrong.
type finding struct{ checker, code, message string }

func problemOf(found []finding) *mandate.ExtensionProblem {
	return &mandate.ExtensionProblem{Code: found[0].code, Message: found[0].message}
}

func statusesOf(found []finding) []mandate.ExtensionStatus {
	var all []mandate.ExtensionStatus
	for _, f := range found {
		all = append(all, mandate.ExtensionStatus{Code: f.code, Level: "Error", Message: f.message})
	}
	return all
}

// checks are what is looked at before anything is changed.
func (r *releases) checks(ctx context.Context, a *accepted, nodes int) (found []finding) {
	defer func() {
		if p := recover(); p != nil {
			found = append(found, finding{"checker", codePanic, fmt.Sprintf("The health check itself failed: %v.", p)})
		}
	}()
	s := a.typ.ChartValues(a.settings)
	if on, _ := s["enableInference"].(bool); !on {
		return nil
	}
	if ha, _ := s["inferenceRouterHA"].(bool); ha && nodes > 0 && nodes < extension.RouterNodes {
		found = append(found, finding{"clusterresource", codeNodes, fmt.Sprintf("inferenceRouterHA runs %d replicas of the router on as many nodes, and the cluster has %d ready: set inferenceRouterHA to False, or add nodes.", extension.RouterNodes, nodes)})
	}
	name, _ := s["sslSecret"].(string)
	if cert, _ := s["sslCert"].(string); name == "" || cert != "" {
		return found // a certificate among the settings was checked with them
	}
	cname, _ := s["sslCname"].(string)
	if why := r.checkSecret(ctx, a.place, name, cname); why != "" {
		found = append(found, finding{"inferencev1", codeTLS, why})
	}
	return found
}

// checkSecret says what is wrong with a Secret that holds the router's
// certificate; "" if nothing is.
func (r *releases) checkSecret(ctx context.Context, namespace, name, cname string) string {
	secret, err := r.kube.typed.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Sprintf("The Secret %s of setting sslSecret is not in namespace %s: kubectl create secret generic %s -n %s --from-file=cert.pem --from-file=key.pem", name, namespace, name, namespace)
	case err != nil:
		return fmt.Sprintf("The Secret %s of setting sslSecret cannot be read: %s.", name, cut(err.Error()))
	}
	cert, key := secret.Data["cert.pem"], secret.Data["key.pem"]
	if len(cert) == 0 || len(key) == 0 {
		return fmt.Sprintf("The Secret %s of setting sslSecret must have the keys cert.pem and key.pem.", name)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Sprintf("Certificate and key in Secret %s do not belong together, or one cannot be read; the key must have no passphrase.", name)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return fmt.Sprintf("The first certificate in Secret %s, which must be the server's, cannot be read.", name)
	}
	if cname != "" && leaf.VerifyHostname(cname) != nil {
		return fmt.Sprintf("The certificate in Secret %s is not for %s, which sslCname says.", name, cname)
	}
	return ""
}

// diagnose says why a release did not come up, by what its namespace shows; at
// least one finding.
func (r *releases) diagnose(ctx context.Context, a *accepted, failure error) (found []finding) {
	text := hidden(failure.Error(), a.Extension)
	defer func() {
		if p := recover(); p != nil {
			found = []finding{{"checker", codePanic, fmt.Sprintf("The health check itself failed: %v. What it was to explain: %s.", p, text)}}
		}
	}()
	if strings.Contains(text, "invalid ownership metadata") || strings.Contains(text, "cannot be imported into the current release") {
		code := codeUnknown
		if strings.Contains(text, mlext.RouterAccount) || strings.Contains(text, mlext.RouterService) {
			if code = codeOthersRouter; strings.Contains(text, "Role") {
				code = codeOthersRole
			}
		}
		return []finding{{"helmchart", code, "An object of the extension's name is there already, and belongs to somebody else: " + text + "."}}
	}
	found, err := r.unhealthy(ctx, a.place, releaseName(&a.Extension))
	if err != nil || len(found) == 0 {
		found = []finding{{"helmchart", codeUnknown, "Helm could not do it: " + text + "."}}
	}
	return found
}

// ownedBy tells whether an object is of a release, as Helm marks it.
func ownedBy(o metav1.Object, release string) bool {
	return o.GetAnnotations()["meta.helm.sh/release-name"] == release
}

// unwell is what of a release does not run, and does not come up by itself at once,
// as what is moved to another node does.
func (r *releases) unwell(ctx context.Context, namespace, release string) ([]finding, error) {
	deadline := time.Now().Add(r.grace)
	for {
		found, err := r.unhealthy(ctx, namespace, release)
		if err != nil || len(found) == 0 || time.Now().After(deadline) {
			return found, err
		}
		timer := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		case <-timer.C:
		}
	}
}

// unhealthy is what of a release does not run.
func (r *releases) unhealthy(ctx context.Context, namespace, release string) ([]finding, error) {
	var found []finding
	routed := false // the router's Service is there
	services, err := r.kube.typed.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{})
	if err == nil {
		for i := range services.Items {
			s := &services.Items[i]
			if !ownedBy(s, release) {
				continue
			}
			routed = routed || s.Name == mlext.RouterService
			if s.Spec.Type != corev1.ServiceTypeLoadBalancer || len(s.Status.LoadBalancer.Ingress) > 0 {
				continue
			}
			code, why := codeLoadBalancer, "nothing in the cluster has given it an address: set inferenceRouterServiceType to nodePort or clusterIP"
			if s.Annotations[deploy.AzureInternal] == "true" {
				code, why = codeInternal, "nothing in the cluster has given it a private address, which Azure's load balancers do for the setting internalLoadBalancerProvider: set inferenceRouterServiceType to nodePort or clusterIP, or leave internalLoadBalancerProvider out"
			}
			found = append(found, finding{"service", code, fmt.Sprintf("Service %s is of type LoadBalancer, and %s.", s.Name, why)})
		}
	}
	deployments, err := r.kube.typed.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the extension's Deployments: %w", err)
	}
	for i := range deployments.Items {
		d := &deployments.Items[i]
		routed = routed && !(d.Name == mlext.RouterAccount && ownedBy(d, release))
		if !ownedBy(d, release) || d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas == d.Status.Replicas && d.Status.AvailableReplicas >= wantedOf(d) {
			continue
		}
		code, why := r.explain(ctx, d)
		switch router := d.Name == mlext.RouterAccount; {
		case router && code == codeUnhealthy:
			code = codeRouter
		case !router && code == codeReplicas:
			code = codeUnhealthy
		}
		found = append(found, finding{"info", code, fmt.Sprintf("Deployment %s has %d of %d replicas: %s.", d.Name, d.Status.AvailableReplicas, wantedOf(d), why)})
	}
	if routed {
		found = append(found, finding{"inferencev1", codeNoRouter, fmt.Sprintf("The router's Service %s is there, and its Deployment %s is not: somebody has deleted it. An update of the extension makes it again.", mlext.RouterService, mlext.RouterAccount)})
	}
	return found, nil
}

func wantedOf(d *appsv1.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

// explain says why a Deployment's pods do not run, in the words of the scheduler
// or the kubelet.
func (r *releases) explain(ctx context.Context, d *appsv1.Deployment) (code, why string) {
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return codeUnhealthy, cut(err.Error())
	}
	pods, err := r.kube.typed.CoreV1().Pods(d.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return codeUnhealthy, cut(err.Error())
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
				return codeNodes, "pod " + p.Name + " finds no node: " + strings.TrimSuffix(cut(c.Message), ".")
			}
		}
		for _, s := range p.Status.ContainerStatuses {
			switch {
			case s.State.Waiting != nil && s.State.Waiting.Reason != "ContainerCreating":
				return codeUnhealthy, fmt.Sprintf("pod %s waits: %s %s", p.Name, s.State.Waiting.Reason, strings.TrimSuffix(cut(s.State.Waiting.Message), "."))
			case s.LastTerminationState.Terminated != nil && !s.Ready:
				t := s.LastTerminationState.Terminated
				return codeUnhealthy, fmt.Sprintf("pod %s ended with exit code %d, %s", p.Name, t.ExitCode, t.Reason)
			}
		}
	}
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
			return codeReplicas, strings.TrimSuffix(cut(c.Message), ".")
		}
	}
	if len(pods.Items) == 0 {
		return codeUnhealthy, "it has no pods yet"
	}
	return codeUnhealthy, "its pods are not ready yet"
}

// health looks at what is installed, so that the state stays true while the
// installer runs.
func (r *releases) health(ctx context.Context, x mandate.Extension, was mandate.ExtensionState) mandate.ExtensionState {
	if !was.Present || was.Problem != nil && was.Problem.Code != codeUnhealthy {
		return was
	}
	state := was
	found, err := r.unhealthy(ctx, place(&x), releaseName(&x))
	if err != nil {
		r.log.Warn("not looked at", "name", x.Name, "error", err)
		return was
	}
	state.Problem = nil
	state.Statuses = nil
	for _, s := range was.Statuses {
		if s.Level != "Error" {
			state.Statuses = append(state.Statuses, s)
		}
	}
	if len(found) > 0 {
		found[0].code = codeUnhealthy
		state.Problem, state.Statuses = problemOf(found), append(state.Statuses, statusesOf(found)...)
	}
	return state
}
