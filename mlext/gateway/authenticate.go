package gateway

import (
	"context"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

// authenticate says which workspace calls: exactly one token, of this
// installation's authority and tenant, for this cluster's extension, that names
// a workspace as its resource.
func (g *Gateway) authenticate(ctx context.Context, h http.Header) (mlext.Owner, error) {
	given := h.Values(wire.TokenHeader)
	if len(given) != 1 || given[0] == "" {
		return mlext.Owner{}, trust.Errorf(trust.Unauthenticated, "send one workspace token in the header %s", wire.TokenHeader)
	}
	ring, _ := g.keys.current()
	claims, err := ring.Verify(ctx, given[0])
	if err != nil {
		return mlext.Owner{}, err
	}
	if claims.Audience != g.Audience {
		return mlext.Owner{}, trust.Errorf(trust.Unauthenticated, "the token is for %.200q, this extension is %s", claims.Audience, g.Audience)
	}
	if trust.Fold(claims.Text("tid")) != trust.Fold(g.Tenant) {
		return mlext.Owner{}, trust.Errorf(trust.Unauthenticated, "the token is of another tenant")
	}
	o := mlext.Owner{Workspace: trust.Fold(claims.Text("xms_mirid")), Object: claims.Text("oid")}
	if o.Object == "" || !isWorkspace(o.Workspace) {
		return mlext.Owner{}, trust.Errorf(trust.Forbidden, "only workspaces (%s) may call this extension, the token is for %.200q", wire.WorkspaceType, o.Workspace)
	}
	return o, nil
}

// isWorkspace reads a folded resource id.
func isWorkspace(id string) bool {
	parts := strings.Split(id, "/") // "", subscriptions, s, resourcegroups, g, providers, ns, workspaces, w
	if len(parts) != 9 || parts[0] != "" || parts[1] != "subscriptions" || parts[3] != "resourcegroups" || parts[5] != "providers" {
		return false
	}
	for _, p := range parts[1:] {
		if p == "" {
			return false
		}
	}
	return parts[6]+"/"+parts[7] == trust.Fold(wire.WorkspaceType)
}
