package proxy

import (
	"context"
	"fmt"
	"net/http"

	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

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
	for _, a := range rbac.Forbidden(rbac.ProxyAccount) {
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
