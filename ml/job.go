package ml

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Kinds of operations on jobs.
const (
	opFollow = "ml.job.follow"
	opCancel = "ml.job.cancel"
	opRemove = "ml.job.delete"
)

// States of a job beyond those that the extension has (wire).
const (
	notStarted      = "NotStarted" // the cluster has not been told yet
	cancelRequested = "CancelRequested"
	notResponding   = wire.NotResponding // nothing is known of it now
)

func ended(state string) bool { return wire.Done(state) }

var (
	jobName     = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{0,254}$`)
	envVariable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)
)

// jobBody are the properties of a command job that mean something here.
type jobBody struct {
	JobType              string
	Command              string
	EnvironmentID        string
	ComputeID            string
	CodeID               string
	EnvironmentVariables map[string]*string
	Inputs, Outputs      map[string]json.RawMessage
	Limits               *struct {
		JobLimitsType string
		Timeout       *string
	}
	Resources *struct {
		InstanceCount *int
		InstanceType  string
		ShmSize       string
		DockerArgs    string
		Properties    map[string]json.RawMessage
	}
	Distribution *struct {
		DistributionType        string
		ProcessCountPerInstance *int
		WorkerCount             *int
		ParameterServerCount    *int
	}
	Identity      *struct{ IdentityType string }
	QueueSettings json.RawMessage
	Services      map[string]json.RawMessage
	IsArchived    bool
}

// jobPrivate is what ml keeps with a job.
type jobPrivate struct {
	ComputeID string // resource id
	Cluster   string // resource id
	Job       wire.Job
	Told      bool // the extension has it
	Cancel    bool // its end was asked for
	Status    wire.Status
	Swept     bool              `json:",omitempty"` // what it wrote was deleted, after the retention
	Reads     map[string]place  `json:",omitempty"` // by a mount's name
	Writes    map[string]string `json:",omitempty"` // types of outputs, by name
}

func readJob(r *store.Provided) (jobPrivate, error) {
	var p jobPrivate
	if err := json.Unmarshal(r.Private, &p); err != nil {
		return p, trust.Errorf(trust.Internal, "a stored job cannot be read").Because(err)
	}
	return p, nil
}

// putJob submits a job, or changes what can be changed of one: its names, tags
// and whether it is archived.
func (k *call) putJob() (*arm.Answer, error) {
	b, err := k.decode()
	if err != nil {
		return nil, err
	}
	if !jobName.MatchString(k.ID.Name()) {
		return nil, arm.BadParameter("id", "the name '%.100s' must have 1 to 255 letters, digits, '_' and '-'", k.ID.Name())
	}
	old, write, err := k.old()
	if err != nil {
		return nil, err
	}
	b.Properties, err = overlay(b.Properties, []string{"status", "services", "properties"}, nil)
	if err != nil {
		return nil, err
	}
	if old.Revision != 0 {
		return k.changeJob(old, write, b)
	}
	p, err := k.readJob(b)
	if err != nil {
		return nil, err
	}
	r := k.record(old, b)
	p.Job.UID, p.Job.Name = r.UID, k.ID.Name()
	if r.Private, err = json.Marshal(p); err != nil {
		return nil, err
	}
	op, err := k.operation(opFollow, &r)
	if err != nil {
		return nil, err
	}
	r.State, r.Operation = notStarted, op.ID
	if err := k.commit(write(r), store.Create(op)); err != nil {
		return nil, err
	}
	return k.shown(http.StatusCreated, &store.Item[store.Provided]{Value: r})
}

// changeJob takes a PUT of a job that exists.
func (k *call) changeJob(old store.Item[store.Provided], write func(store.Record) store.Op, b *body) (*arm.Answer, error) {
	free := []string{"displayName", "description", "experimentName", "tags", "isArchived"}
	was, err := overlay(old.Value.Properties, free, nil)
	if err != nil {
		return nil, err
	}
	now, err := overlay(b.Properties, free, nil)
	if err != nil {
		return nil, err
	}
	if !sameJSON(was, now) {
		return nil, arm.Errorf(trust.Conflict, arm.Conflict, "The job '%s' exists and only its displayName, description, experimentName, tags and isArchived can change. Submit another job.", k.ID.Name())
	}
	r := k.record(old, b)
	if err := k.commit(write(r)); err != nil {
		return nil, err
	}
	return k.shown(http.StatusOK, &store.Item[store.Provided]{Value: r})
}

// sameJSON compares objects; what is null or empty counts as absent.
func sameJSON(a, b json.RawMessage) bool {
	normal := func(raw json.RawMessage) string {
		var v any
		if json.Unmarshal(raw, &v) != nil {
			return string(raw)
		}
		out, err := json.Marshal(withoutEmpty(v))
		if err != nil {
			return string(raw)
		}
		return string(out)
	}
	return normal(a) == normal(b)
}

func withoutEmpty(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	for name, member := range m {
		member = withoutEmpty(member)
		if inner, ok := member.(map[string]any); member == nil || ok && len(inner) == 0 {
			delete(m, name)
		} else {
			m[name] = member
		}
	}
	return m
}

// readJob checks everything that can be checked before the cluster sees it.
func (k *call) readJob(b *body) (p jobPrivate, err error) {
	var j jobBody
	if err := json.Unmarshal(b.Properties, &j); err != nil {
		return p, arm.BadParameter("properties", "a member has the wrong type")
	}
	if err := refuse(&j); err != nil {
		return p, err
	}
	if p.Job.Image, err = k.image(j.EnvironmentID); err != nil {
		return p, err
	}
	compute, err := k.workspaceCompute("properties.computeId", j.ComputeID)
	if err != nil {
		return p, err
	}
	private, err := readCompute(&compute)
	if err != nil {
		return p, err
	}
	p.ComputeID, p.Cluster, p.Job.Compute = compute.ID, private.Cluster, compute.UID
	p.Job.Nodes = 1
	if p.Job.Environment, err = environmentVariables(j.EnvironmentVariables); err != nil {
		return p, err
	}
	if j.Limits != nil && j.Limits.Timeout != nil {
		d, err := duration(*j.Limits.Timeout)
		if err != nil {
			return p, arm.BadParameter("properties.limits.timeout", "'%.40s' is not a positive ISO 8601 duration of whole seconds, like PT1H", *j.Limits.Timeout)
		}
		p.Job.Timeout = int64(d / time.Second)
	}
	if err := jobResources(&j, &p.Job); err != nil {
		return p, err
	}
	if err := k.jobData(&j, &p); err != nil {
		return p, err
	}
	return p, jobDistribution(&j, &p.Job)
}

// workspaceCompute finds the workspace's compute that a parameter names.
func (k *call) workspaceCompute(parameter, compute string) (store.Provided, error) {
	var none store.Provided
	id, err := arm.ParseID(compute)
	if err != nil || !arm.SameID(id.Type(), Namespace+"/"+Tracked+"/"+computes) || !arm.SameID(id.Parent().String(), k.workspace.Value.ID) {
		return none, arm.BadParameter(parameter, "'%.300s' is not the id of a compute of this workspace", compute)
	}
	item, err := k.at(id)
	if trust.KindOf(err) == trust.NotFound {
		e := arm.Errorf(trust.Invalid, "ComputeNotFound", "The compute '%s' is not attached to the workspace '%s'.", id.Name(), k.workspaceName())
		e.Hint = "sallyport ml compute list -g " + k.ID.Group + " -w " + k.workspaceName() + " -o table"
		return none, e
	}
	if err != nil {
		return none, err
	}
	switch r := &item.Value; r.State {
	case arm.Succeeded:
		k.rely(&item)
		return *r, nil
	case arm.Failed:
		e := arm.Errorf(trust.Conflict, "ComputeNotAccessible", "The compute '%s' cannot be used.", id.Name())
		if r.Problem != nil {
			e.Code, e.Message, e.Hint = r.Problem.Code, e.Message+" "+r.Problem.Message, hint(r.Problem)
		}
		return none, e
	default:
		return none, pending(r.State)
	}
}

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
		return not("queueSettings", "queues are not supported")
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
		if trust.Fold(name) != "maxretries" {
			return arm.BadParameter("properties.resources.properties", "'%.64s' is not known; maxRetries is", name)
		}
		n, err := strconv.Atoi(strings.Trim(string(raw), `"`))
		if err != nil || n < 0 || n > 100 {
			return arm.BadParameter("properties.resources.properties.maxRetries", "it must be a number from 0 to 100")
		}
		out.Retries = n
	}
	return nil
}

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

// showJob puts what became of the job where Azure's clients look: status, and
// the bag of strings "properties".
func showJob(r *store.Provided, set map[string]any) error {
	p, err := readJob(r)
	if err != nil {
		return err
	}
	set["status"], set["jobType"] = r.State, "Command"
	more := map[string]string{}
	put := func(name, value string) {
		if value != "" {
			more[name] = value
		}
	}
	put("StartTimeUtc", arm.Time(p.Status.Started))
	put("EndTimeUtc", arm.Time(p.Status.Ended))
	put("statusCode", p.Status.Code)
	put("statusReason", p.Status.Reason)
	put("statusCommand", p.Status.Command)
	if r.Problem != nil {
		more["statusCode"], more["statusReason"] = r.Problem.Code, r.Problem.Message
		delete(more, "statusCommand")
		put("statusCommand", hint(r.Problem))
	}
	for name, value := range p.Status.Metrics {
		put("metrics."+name, strconv.FormatFloat(value, 'g', -1, 64))
	}
	for _, n := range p.Status.Nodes {
		at := "node-" + strconv.Itoa(n.Index)
		put(at+".host", n.Host)
		put(at+".attempt", strconv.Itoa(n.Attempt))
		if n.ExitCode != nil {
			put(at+".exitCode", strconv.Itoa(int(*n.ExitCode)))
		}
		put(at+".reason", n.Reason)
	}
	set["properties"] = more
	return nil
}

// cancelJob asks for a job's end. Its Location says when it has come.
func (k *call) cancelJob() (*arm.Answer, error) {
	item, err := k.find()
	if err != nil {
		return nil, err
	}
	r := item.Value
	if ended(r.State) {
		return &arm.Answer{Status: http.StatusOK}, nil
	}
	op, err := k.operation(opCancel, &r)
	if err != nil {
		return nil, err
	}
	p, err := readJob(&r)
	if err != nil {
		return nil, err
	}
	p.Cancel = true // whoever follows the job tells the cluster, however late
	if r.Private, err = json.Marshal(p); err != nil {
		return nil, err
	}
	if r.State != notResponding { // which stays true until it is heard of
		r.State = cancelRequested
	}
	if err := k.commit(store.Update(r, item.Revision), store.Create(op)); err != nil {
		return nil, err
	}
	return k.accepted(&op), nil
}

// deleteJob removes a job, and what of it is in the cluster.
func (k *call) deleteJob() (*arm.Answer, error) {
	item, err := k.find()
	if trust.KindOf(err) == trust.NotFound {
		return &arm.Answer{Status: http.StatusNoContent}, nil
	}
	if err == nil {
		err = k.conditions(item.Revision)
	}
	if err != nil {
		return nil, err
	}
	op, err := k.operation(opRemove, &item.Value)
	if err != nil {
		return nil, err
	}
	if err := k.commit(store.Guard(item.Value.Key(), item.Revision), store.Create(op)); err != nil {
		return nil, err
	}
	return k.accepted(&op), nil
}

// logsBody asks for the list of a job's log files, or for a piece of one.
type logsBody struct {
	File   string // "node-0/attempt-0"; "": the list
	Offset int64
	Wait   int // seconds to wait for more, at most wire.MaxWait
}

// jobLogs hands a question about logs on to the cluster.
func (k *call) jobLogs() (*arm.Answer, error) {
	item, err := k.find()
	if err != nil {
		return nil, err
	}
	var b logsBody
	if len(k.Body) > 0 {
		if err := arm.Decode(k.Body, &b); err != nil {
			return nil, err
		}
	}
	p, err := readJob(&item.Value)
	if err != nil {
		return nil, err
	}
	if !p.Told {
		return &arm.Answer{Status: http.StatusOK, Body: map[string]any{"files": []wire.LogFile{}, "status": item.Value.State}}, nil
	}
	if b.File == "" {
		files, err := k.listLogs(&p)
		if err != nil {
			return nil, err
		}
		body := map[string]any{"files": files, "status": item.Value.State}
		if k.Storage != nil {
			body["trust"] = k.Storage.CA
		}
		return &arm.Answer{Status: http.StatusOK, Body: body}, nil
	}
	e, err := k.reach(k.ctx, &k.workspace, p.Cluster)
	if err != nil {
		return nil, err
	}
	if !logFile.MatchString(b.File) {
		return nil, arm.BadParameter("file", "'%.60s' does not read node-0/attempt-0", b.File)
	}
	var part wire.LogPart
	path := fmt.Sprintf("/jobs/%s/logs/%s?offset=%d&wait=%d", p.Job.UID, b.File, max(b.Offset, 0), min(max(b.Wait, 0), wire.MaxWait))
	if err := e.call(k.ctx, http.MethodGet, path, nil, &part); err != nil {
		return nil, err
	}
	return &arm.Answer{Status: http.StatusOK, Body: part}, nil
}

// listLogs are the logs that the cluster has, and those that the workspace's
// store has: either may have lost what the other one keeps.
func (k *call) listLogs(p *jobPrivate) ([]wire.LogFile, error) {
	kept, err := k.keptLogs(k.ctx, &k.workspace.Value, p)
	if err != nil {
		return nil, err
	}
	files := []wire.LogFile{}
	e, err := k.reach(k.ctx, &k.workspace, p.Cluster)
	if err == nil {
		err = e.call(k.ctx, http.MethodGet, "/jobs/"+p.Job.UID+"/logs", nil, &files)
	}
	if err != nil && len(kept) == 0 {
		return nil, err
	}
	for _, f := range kept {
		i := slices.IndexFunc(files, func(o wire.LogFile) bool { return o.Name == f.Name })
		if i < 0 {
			files = append(files, f)
		} else if files[i].Done {
			files[i].URL = f.URL
		}
	}
	slices.SortFunc(files, func(a, b wire.LogFile) int {
		return cmp.Or(len(a.Name)-len(b.Name), strings.Compare(a.Name, b.Name))
	})
	return files, nil
}

var logFile = regexp.MustCompile(`^node-\d{1,6}/attempt-\d{1,6}$`)
