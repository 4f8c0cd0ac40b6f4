package control

import (
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mandate"
)

// Types of resources, in ARM's spelling.
const (
	subscriptionType = "Microsoft.Resources/subscriptions"
	groupType        = "Microsoft.Resources/resourceGroups"
	clusterType      = "Microsoft.ContainerService/managedClusters"
	bindingType      = clusterType + "/trustedAccessRoleBindings"
	armRoleType      = "Microsoft.ContainerService/locations/trustedAccessRoles"
	ownRoleType      = "Sallyport.Access/trustedAccessRoles"
	connectionType   = "Sallyport.Access/connections"
)

// retryAfter is what clients are told to wait between two looks at an
// operation. Without it az and the SDKs wait 30 s.
const retryAfter = time.Second

const freshBound = mandate.FreshBound

// table is every route of the ARM API. The first that fits a path counts, so
// those that name a type stand before those that take any.
func (c *Control) table() []*route {
	all := slices.Concat(
		c.statusRoutes(),
		c.subscriptionRoutes(),
		c.providerRoutes(),
		c.featureRoutes(),
		c.groupRoutes(),
		c.roleRoutes(),
		c.operationRoutes(),
		c.eventRoutes(),
		c.definitionRoutes(),
		c.assignmentRoutes(),
		c.connectionRoutes(),
		c.bindingRoutes(),
		c.extensionRoutes(),
		c.poolRoutes(),
		c.clusterRoutes(),
		c.userRoutes(),
		c.groupSourceRoutes(),
		c.federatedRoutes(),
		c.secretRoutes(),
		c.certificateRoutes(),
		c.mountRoutes(),
		c.sourceRoutes(),
	)
	for _, rt := range all {
		rt.segments = strings.Split(strings.TrimPrefix(rt.pattern, "/"), "/")
	}
	return all
}

// clusterOf is the cluster that an id is or lies in.
func clusterOf(id arm.ID) arm.ID {
	if len(id.Chain) == 0 {
		return id
	}
	p := id.Chain[0]
	id.Chain = []arm.Provider{{Namespace: p.Namespace, Types: p.Types[:1:1], Names: p.Names[:1:1]}}
	return id
}
