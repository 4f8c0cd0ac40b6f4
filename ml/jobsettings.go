package ml

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

// refuse names what is not done here. Nothing of a job is silently left out.
func refuse(j *jobBody) error {
	not := func(property, format string, args ...any) error {
		return arm.BadParameter("properties."+property, format, args...)
	}
	switch {
	case trust.Fold(j.JobType) != "command":
		return not("jobType", "'%.40s' is not supported; jobs of type Command are run", j.JobType)
	case strings.TrimSpace(j.Command) == "":
		return not("command", "it is empty")
	case len(j.Command) > 64<<10:
		return not("command", "it has more than 65,536 bytes")
	case given(j.QueueSettings):
		return not("queueSettings", "jobTier and priority are of Azure's own computes and mean nothing on a cluster. A queue of the cluster's (Kueue) is named by resources.properties, '%s'", wire.QueueLabel)
	case len(j.Services) > 0:
		return not("services", "interactive services are not supported")
	case j.Identity != nil && j.Identity.IdentityType != "":
		return not("identity", "a job runs without an identity of its own")
	case j.Resources != nil && j.Resources.DockerArgs != "":
		return not("resources.dockerArgs", "arguments of a container engine are not passed on")
	}
	return nil
}

func given(raw json.RawMessage) bool {
	return len(raw) > 0 && string(raw) != "null" && string(raw) != "{}"
}

const (
	maxNodes   = 1000
	maxWorkers = 100 // with TensorFlow: each has a Service
)

func jobResources(j *jobBody, out *wire.Job) error {
	r := j.Resources
	if r == nil {
		return nil
	}
	if r.InstanceCount != nil {
		if *r.InstanceCount < 1 || *r.InstanceCount > maxNodes {
			return arm.BadParameter("properties.resources.instanceCount", "%d is not between 1 and %d", *r.InstanceCount, maxNodes)
		}
		out.Nodes = *r.InstanceCount
	}
	if out.InstanceType = r.InstanceType; out.InstanceType != "" && !instanceName.MatchString(out.InstanceType) {
		return arm.BadParameter("properties.resources.instanceType", "'%.64s' is not an instance type's name", r.InstanceType)
	}
	if r.ShmSize != "" {
		if !shmPattern.MatchString(r.ShmSize) {
			return arm.BadParameter("properties.resources.shmSize", "'%.40s' must be a number followed by b, k, m or g", r.ShmSize)
		}
		// Docker's units are powers of two.
		unit := map[byte]string{'b': "", 'k': "Ki", 'm': "Mi", 'g': "Gi"}[r.ShmSize[len(r.ShmSize)-1]|0x20]
		out.ShmSize = r.ShmSize[:len(r.ShmSize)-1] + unit
		if q, err := resource.ParseQuantity(out.ShmSize); err != nil || q.Sign() <= 0 {
			return arm.BadParameter("properties.resources.shmSize", "'%.40s' is no size", r.ShmSize)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Properties)) {
		raw := r.Properties[name]
		switch trust.Fold(name) {
		case "maxretries":
			n, err := strconv.Atoi(strings.Trim(string(raw), `"`))
			if err != nil || n < 0 || n > 100 {
				return arm.BadParameter("properties.resources.properties.maxRetries", "it must be a number from 0 to 100")
			}
			out.Retries = n
		case wire.QueueLabel:
			if json.Unmarshal(raw, &out.Queue) != nil || !queueName.MatchString(out.Queue) {
				return arm.BadParameter("properties.resources.properties."+wire.QueueLabel, "%.80s is not the name of a queue: at most 63 lower-case letters, digits, '-' and '.'", raw)
			}
		default:
			return arm.BadParameter("properties.resources.properties", "'%.64s' is not known; maxRetries and %s are", name, wire.QueueLabel)
		}
	}
	return nil
}

// queueName is a LocalQueue's name that a label can hold.
var queueName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

var shmPattern = regexp.MustCompile(`^[0-9]{1,9}[bkmgBKMG]$`)

func jobDistribution(j *jobBody, out *wire.Job) error {
	d := j.Distribution
	if d == nil || d.DistributionType == "" {
		return nil
	}
	switch trust.Fold(d.DistributionType) {
	case "pytorch":
		if n := d.ProcessCountPerInstance; n != nil && *n != 1 {
			return arm.BadParameter("properties.distribution.processCountPerInstance", "%d processes in a node are not started: use 1, and more nodes, or a command that starts them", *n)
		}
		out.Distribution = "PyTorch"
	case "tensorflow":
		if n := d.ParameterServerCount; n != nil && *n != 0 {
			return arm.BadParameter("properties.distribution.parameterServerCount", "parameter servers are not supported; all nodes are workers")
		}
		if n := d.WorkerCount; n != nil && *n != 0 && *n != out.Nodes {
			return arm.BadParameter("properties.distribution.workerCount", "%d workers do not fit %d nodes", *n, out.Nodes)
		}
		if out.Nodes > maxWorkers {
			return arm.BadParameter("properties.resources.instanceCount", "%d nodes are more than the %d that TensorFlow gets an address each for", out.Nodes, maxWorkers)
		}
		out.Distribution = "TensorFlow"
	default:
		return arm.BadParameter("properties.distribution.distributionType", "'%.40s' is not supported; PyTorch and TensorFlow are", d.DistributionType)
	}
	return nil
}
