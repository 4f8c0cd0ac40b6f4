// Package arm is the dialect of Azure Resource Manager's API: resource ids, the
// error envelope and its codes, api-versions, request ids and standard headers,
// paging, conditional requests, the documents and headers of long-running
// operations, and the reading of bodies.
//
// It is a codec: no I/O, no store, no clock of its own. What a resource means
// and who may touch it is package control's business. Sources: the Azure
// Resource Manager RPC (Azure/azure-resource-manager-rpc) and recorded traffic
// of the live service.
package arm
