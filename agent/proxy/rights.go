package proxy

import (
	"context"
	"fmt"
	"net/http"

	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

// forbidden is what this agent's own identity must not be able to do. A token
// that can do any of it is worth more to a thief than the design says.
var forbidden = []trust.Attributes{
	{Verb: "*", APIGroup: "*", Resource: "*", ResourceRequest: true},
	{Verb: "impersonate", Resource: "users", ResourceRequest: true},
	{Verb: "impersonate", Resource: "groups", ResourceRequest: true},
	{Verb: "impersonate", Resource: "serviceaccounts", ResourceRequest: true},
	{Verb: "get", Resource: "secrets", ResourceRequest: true},
	{Verb: "list", Resource: "secrets", ResourceRequest: true},
	{Verb: "get", Resource: "secrets", Namespace: rbac.BindingsNamespace, ResourceRequest: true},
	{Verb: "create", Resource: "secrets", Namespace: rbac.BindingsNamespace, ResourceRequest: true},
	{Verb: "create", Resource: "pods", ResourceRequest: true},
	{Verb: "create", Resource: "serviceaccounts", Namespace: rbac.BindingsNamespace, ResourceRequest: true},
	{Verb: "create", Resource: "serviceaccounts", Subresource: "token", ResourceRequest: true},
	{Verb: "create", Resource: "serviceaccounts", Subresource: "token", Namespace: "kube-system", ResourceRequest: true},
	{Verb: "create", Resource: "serviceaccounts", Subresource: "token", Namespace: rbac.SystemNamespace, ResourceRequest: true},
	{Verb: "bind", APIGroup: "rbac.authorization.k8s.io", Resource: "clusterroles", ResourceRequest: true},
	{Verb: "escalate", APIGroup: "rbac.authorization.k8s.io", Resource: "clusterroles", ResourceRequest: true},
	{Verb: "create", APIGroup: "rbac.authorization.k8s.io", Resource: "clusterrolebindings", ResourceRequest: true},
	{Verb: "create", APIGroup: "rbac.authorization.k8s.io", Resource: "rolebindings", Namespace: rbac.BindingsNamespace, ResourceRequest: true},
}

// CheckRights asks the API server what this agent's own identity may do, and
// fails if that is more, or less, than making tokens of bindings.
func (p *Proxy) CheckRights(ctx context.Context) error {
	needed := trust.Attributes{Verb: "create", Resource: "serviceaccounts", Subresource: "token", Namespace: rbac.BindingsNamespace, ResourceRequest: true}
	switch may, err := p.may(ctx, needed); {
	case err != nil:
		return err
	case !may:
		return trust.Errorf(trust.Forbidden, "this agent may not create tokens in namespace %s: apply the manifest that `sallyport cluster connect` prints", rbac.BindingsNamespace)
	}
	for _, a := range forbidden {
		switch may, err := p.may(ctx, a); {
		case err != nil:
			return err
		case may:
			return trust.Errorf(trust.Forbidden, "this agent refuses to run with a right that it does not need: its ServiceAccount may %s", describe(a))
		}
	}
	return nil
}

func describe(a trust.Attributes) string {
	what := a.Verb + " " + a.Resource
	if a.Subresource != "" {
		what += "/" + a.Subresource
	}
	if a.APIGroup != "" {
		what += " of " + a.APIGroup
	}
	if a.Namespace != "" {
		return what + " in namespace " + a.Namespace
	}
	return what + " in every namespace"
}

// may asks as the agent itself.
func (p *Proxy) may(ctx context.Context, a trust.Attributes) (bool, error) {
	code, allowed, err := p.askReview(ctx, p.c.Agent, "", a)
	if err != nil {
		return false, fmt.Errorf("check rights: %w", err)
	}
	if code != http.StatusCreated {
		return false, fmt.Errorf("check rights: HTTP %d", code)
	}
	return allowed, nil
}
