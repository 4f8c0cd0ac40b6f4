package ml

import (
	"encoding/json"
	"net/http"
	"regexp"
	"time"

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
