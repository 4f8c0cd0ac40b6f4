package mlext

// Taints of nodes that a cluster's owner keeps for machine learning (Azure Machine
// Learning, "Reference for configuring Kubernetes cluster", taints and
// tolerations). The value of the first three is TaintValue, that of the others a
// name, in lower case: those of resources count in any case, and taints do not.
const (
	TaintAll       = "ml.azure.com/amlarc"          // all pods of the extension and of workspaces
	TaintSystem    = "ml.azure.com/amlarc-system"   // the extension's only
	TaintWorkload  = "ml.azure.com/amlarc-workload" // workspaces' only
	TaintGroup     = "ml.azure.com/resource-group"  // those of one group's workspaces
	TaintWorkspace = "ml.azure.com/workspace"
	TaintCompute   = "ml.azure.com/compute" // by the name that its workspace gave it
	TaintValue     = "true"
)
