package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/trust"
)

// A watch or an exec is authorized by the API server once, when it begins. So
// that an owner who deletes the binding's ServiceAccount, its ClusterRole or its
// ClusterRoleBinding ends streams too, the API server is asked again, with the
// binding's own token (SelfSubjectAccessReview).

// reviewTimeout bounds one review. No answer is no refusal: the state's
// freshness is another clock's.
const reviewTimeout = 5 * time.Second

func (p *Proxy) recheckStreams(ctx context.Context) error {
	tick := time.NewTicker(p.c.Recheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			p.recheckOnce(ctx)
		}
	}
}

type reviewKey struct {
	binding    trust.BindingUID
	identity   string
	attributes trust.Attributes
}

// recheckOnce asks once for each different thing that streams do.
func (p *Proxy) recheckOnce(ctx context.Context) {
	groups := map[reviewKey][]*request{}
	for _, q := range p.running.streams() {
		key := reviewKey{q.binding, q.identity(), *q.attributes}
		groups[key] = append(groups[key], q)
	}
	for key, streams := range groups {
		allowed, err := p.review(ctx, key)
		if err != nil {
			p.log.WarnContext(ctx, "streams could not be checked again", "binding", string(key.binding), "error", err)
			continue
		}
		if allowed {
			continue
		}
		for _, q := range streams {
			q.handle.End(errOwner)
		}
		p.log.InfoContext(ctx, "streams ended by the cluster's own RBAC", "binding", string(key.binding), "ended", len(streams))
	}
}

// review asks the API server whether the binding's identity may still do this.
// An identity that is gone may not.
func (p *Proxy) review(ctx context.Context, key reviewKey) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	token, err := p.tokens.get(ctx, key.binding)
	if err != nil && (trust.KindOf(err) == trust.Forbidden || errors.Is(err, errMayNot)) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if now := identityOf(token); key.identity != "" && now != key.identity {
		return false, nil // it was deleted, and what stands there now is another
	}
	code, allowed, err := p.askReview(ctx, p.upstream.h2, "Bearer "+token, key.attributes)
	switch {
	case err != nil:
		return false, err
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		p.tokens.drop(key.binding, token)
		return false, nil
	case code != http.StatusCreated:
		return false, fmt.Errorf("review: HTTP %d", code)
	}
	return allowed, nil
}

// askReview posts a SelfSubjectAccessReview through rt, with authorization
// unless it is "", and returns the HTTP status and what it says.
func (p *Proxy) askReview(ctx context.Context, rt http.RoundTripper, authorization string, a trust.Attributes) (code int, allowed bool, err error) {
	body, err := json.Marshal(reviewOf(a))
	if err != nil {
		return 0, false, fmt.Errorf("review: %w", err)
	}
	u := p.upstream.base.JoinPath("apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return 0, false, fmt.Errorf("review: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return 0, false, fmt.Errorf("review: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, false, fmt.Errorf("review: %w", err)
	}
	if resp.StatusCode != http.StatusCreated {
		return resp.StatusCode, false, nil
	}
	var answer authorizationv1.SelfSubjectAccessReview
	if err := json.Unmarshal(data, &answer); err != nil {
		return 0, false, fmt.Errorf("review: %w", err)
	}
	return resp.StatusCode, answer.Status.Allowed, nil
}

func reviewOf(a trust.Attributes) authorizationv1.SelfSubjectAccessReview {
	review := authorizationv1.SelfSubjectAccessReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "authorization.k8s.io/v1", Kind: "SelfSubjectAccessReview"},
	}
	if !a.ResourceRequest {
		review.Spec.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Path: a.Path, Verb: a.Verb}
		return review
	}
	review.Spec.ResourceAttributes = &authorizationv1.ResourceAttributes{
		Namespace: a.Namespace, Verb: a.Verb, Group: a.APIGroup, Version: a.APIVersion,
		Resource: a.Resource, Subresource: a.Subresource, Name: a.Name,
	}
	return review
}
