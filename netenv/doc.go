// Package netenv judges the secure network environment around Azure Machine
// Learning on AKS: it reads facts (ARM JSON, az and az ml output, Resource
// Graph, ARM templates, Terraform plans, live probes) into one graph of
// clusters, workspaces, storage, vaults, registries, networks, private
// endpoints, DNS zones and role assignments, and applies pure rules that answer
// pass, fail or unknown with the path through the graph as evidence.
//
// It owns the readers, the graph, the rules, the reports and the fixes. It does
// not own how facts are fetched (package probe looks from inside a cluster, the
// az command lines of Collection are run by the caller), it changes nothing
// anywhere, and it imports nothing else of this module, so that it can be used
// as a library and as a step in other people's pipelines.
package netenv
