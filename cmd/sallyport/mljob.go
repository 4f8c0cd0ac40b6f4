package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
	"github.com/sallyport/sallyport/trust"
)

var jobColumns = []output.Column{{Heading: "Name", Path: "name"}, {Heading: "Status", Path: "status"}, {Heading: "Compute", Path: "computeId"},
	{Heading: "Reason", Path: "properties.statusReason"}}

func (a *app) mlJob() *cobra.Command {
	return a.noun("job", "Run command jobs.",
		a.jobCreate(), a.jobList(), a.childShow("show", "Show a job.", "job", "jobs", jobColumns), a.jobStream(), a.jobCancel(),
		a.jobArchive("archive", "Hide a job from lists.", true), a.jobArchive("restore", "Show an archived job in lists again.", false),
		a.jobDownload())
}

// jobFile is a command job as az's YAML has it. What is not done here is read,
// so that it can be refused by name.
type jobFile struct {
	Schema               string            `json:"$schema"`
	Type                 string            `json:"type"`
	Name                 string            `json:"name"`
	DisplayName          string            `json:"display_name"`
	ExperimentName       string            `json:"experiment_name"`
	Description          string            `json:"description"`
	Command              string            `json:"command"`
	Code                 string            `json:"code"`
	Environment          json.RawMessage   `json:"environment"`
	EnvironmentVariables map[string]scalar `json:"environment_variables"`
	Compute              string            `json:"compute"`
	Resources            *struct {
		InstanceType  string         `json:"instance_type"`
		InstanceCount *int           `json:"instance_count"`
		ShmSize       string         `json:"shm_size"`
		DockerArgs    string         `json:"docker_args"`
		Properties    map[string]any `json:"properties"`
	} `json:"resources"`
	Limits *struct {
		Timeout int64 `json:"timeout"` // seconds
	} `json:"limits"`
	RetrySettings *struct {
		MaxRetries int `json:"max_retries"`
	} `json:"retry_settings"`
	Distribution *struct {
		Type                    string `json:"type"`
		ProcessCountPerInstance *int   `json:"process_count_per_instance"`
		WorkerCount             *int   `json:"worker_count"`
		ParameterServerCount    *int   `json:"parameter_server_count"`
	} `json:"distribution"`
	Inputs        map[string]any    `json:"inputs"`
	Outputs       map[string]any    `json:"outputs"`
	Identity      map[string]any    `json:"identity"`
	QueueSettings map[string]any    `json:"queue_settings"`
	Services      map[string]any    `json:"services"`
	Tags          map[string]string `json:"tags"`
}

// scalar is a YAML value that is meant as text.
type scalar string

// UnmarshalJSON takes text, numbers and booleans.
func (s *scalar) UnmarshalJSON(raw []byte) error {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		*s = scalar(text)
		return nil
	}
	if len(raw) > 0 && (raw[0] == '{' || raw[0] == '[') {
		return fmt.Errorf("a value must be text, a number or a boolean")
	}
	*s = scalar(raw)
	return nil
}

func readJobFile(path string) (*jobFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, trust.Errorf(trust.Invalid, "the job file cannot be read").Because(err)
	}
	var kind struct{ Type string }
	if err := yaml.Unmarshal(data, &kind); err != nil {
		return nil, trust.Errorf(trust.Invalid, "%s is not YAML", path).Because(err)
	}
	if kind.Type != "" && kind.Type != "command" {
		return nil, trust.Errorf(trust.Unsupported, "%s: a job of type %s is not supported; command jobs are run", path, kind.Type)
	}
	j := new(jobFile)
	if err := yaml.UnmarshalStrict(data, j); err != nil {
		return nil, trust.Errorf(trust.Invalid, "%s does not read as a command job", path).Because(err)
	}
	if j.Command == "" || len(j.Environment) == 0 || j.Compute == "" {
		return nil, trust.Errorf(trust.Invalid, "%s: a command job needs command, environment and compute", path)
	}
	return j, nil
}

// body is the job as ARM takes it.
func (j *jobFile) body(workspace, environment string) map[string]any {
	p := texts("displayName", j.DisplayName, "experimentName", j.ExperimentName, "description", j.Description, "codeId", j.Code)
	p["jobType"], p["command"], p["environmentId"] = "Command", j.Command, environment
	p["computeId"] = j.Compute
	if !strings.HasPrefix(j.Compute, "/") {
		p["computeId"] = workspace + "/computes/" + strings.TrimPrefix(j.Compute, "azureml:")
	}
	if len(j.EnvironmentVariables) > 0 {
		p["environmentVariables"] = j.EnvironmentVariables
	}
	r := map[string]any{}
	if j.Resources != nil {
		r = texts("instanceType", j.Resources.InstanceType, "shmSize", j.Resources.ShmSize, "dockerArgs", j.Resources.DockerArgs)
		if j.Resources.InstanceCount != nil {
			r["instanceCount"] = *j.Resources.InstanceCount
		}
	}
	more := map[string]any{}
	if j.Resources != nil {
		maps.Copy(more, j.Resources.Properties)
	}
	if j.RetrySettings != nil {
		more["maxRetries"] = j.RetrySettings.MaxRetries
	}
	if len(more) > 0 {
		r["properties"] = more
	}
	if len(r) > 0 {
		p["resources"] = r
	}
	if j.Limits != nil {
		p["limits"] = map[string]any{"jobLimitsType": "Command", "timeout": fmt.Sprintf("PT%dS", j.Limits.Timeout)}
	}
	if d := j.Distribution; d != nil {
		kind := map[string]string{"pytorch": "PyTorch", "tensorflow": "TensorFlow", "mpi": "Mpi"}[strings.ToLower(d.Type)]
		if kind == "" {
			kind = d.Type
		}
		m := map[string]any{"distributionType": kind}
		for name, n := range map[string]*int{"processCountPerInstance": d.ProcessCountPerInstance, "workerCount": d.WorkerCount, "parameterServerCount": d.ParameterServerCount} {
			if n != nil {
				m[name] = *n
			}
		}
		p["distribution"] = m
	}
	for name, m := range map[string]map[string]any{"inputs": j.Inputs, "outputs": j.Outputs, "services": j.Services, "queueSettings": j.QueueSettings} {
		if len(m) > 0 {
			p[name] = m // the server says why it does not take them
		}
	}
	if kind, ok := j.Identity["type"].(string); ok {
		p["identity"] = map[string]any{"identityType": kind}
	}
	if len(j.Tags) > 0 {
		p["tags"] = j.Tags
	}
	return map[string]any{"properties": p}
}

// environmentID finds or makes the environment that a job names.
func (a *app) environmentID(ctx context.Context, workspace string, raw json.RawMessage) (string, error) {
	var name string
	if json.Unmarshal(raw, &name) != nil {
		var inline struct {
			Image string          `json:"image"`
			Build json.RawMessage `json:"build"`
			Conda json.RawMessage `json:"conda_file"`
		}
		if err := json.Unmarshal(raw, &inline); err != nil || inline.Image == "" || len(inline.Build) > 0 || len(inline.Conda) > 0 {
			return "", trust.Errorf(trust.Invalid, "environment: name an image; images are not built here")
		}
		return a.anonymous(ctx, workspace, inline.Image)
	}
	if strings.HasPrefix(name, "/") {
		return name, nil
	}
	name, prefixed := strings.CutPrefix(name, "azureml:")
	if !prefixed {
		return a.anonymous(ctx, workspace, name)
	}
	if base, ok := strings.CutSuffix(name, "@latest"); ok {
		v, err := a.get(ctx, workspace+"/environments/"+base, mlVersion)
		if err != nil {
			return "", err
		}
		latest, _ := v.(map[string]any)["latestVersion"].(string)
		if latest == "" {
			return "", trust.Errorf(trust.NotFound, "the environment %s has no version", base)
		}
		return workspace + "/environments/" + base + "/versions/" + latest, nil
	}
	base, version, ok := strings.Cut(name, ":")
	if !ok {
		return "", trust.Errorf(trust.Invalid, "environment: 'azureml:%s' must read azureml:NAME:VERSION or azureml:NAME@latest", name)
	}
	return workspace + "/environments/" + base + "/versions/" + version, nil
}

// anonymous is an image without a name of its own, as az has it: one version
// per image.
func (a *app) anonymous(ctx context.Context, workspace, image string) (string, error) {
	sum := sha256.Sum256([]byte(image))
	id := workspace + "/environments/CliV2AnonymousEnvironment/versions/" + hex.EncodeToString(sum[:16])
	_, err := a.begin(ctx, "Naming the image", client.Request{Method: http.MethodPut, Path: id, Version: mlVersion,
		Body: map[string]any{"properties": map[string]any{"image": image, "isAnonymous": true}}})
	return id, err
}

func (a *app) jobCreate() *cobra.Command {
	var n inWorkspace
	var file string
	var stream bool
	return a.command(spec{
		use: "create", short: "Submit a command job.",
		long: `Submit a command job, written in the YAML of az's command jobs: command, environment,
environment_variables, compute, resources (instance_type, instance_count, shm_size),
limits.timeout, retry_settings.max_retries, distribution (pytorch, tensorflow), tags.
A command without anything that only a shell understands is run as it is, so an image
needs no shell. What is not supported is refused by name.`,
		example: "sallyport ml job create -f job.yml -g MyResourceGroup -w MyWorkspace --stream",
		flags: func(f *flags) {
			f.need(&file, "file", "f", "The job's YAML.")
			n.flags(f)
			f.text(&n.name, "name", "n", "Name of the job. Default: the file's, or one that is made up.")
			f.flag(&stream, "stream", "s", "Show the logs until it ends.")
		},
		columns: jobColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			j, err := readJobFile(file)
			if err != nil {
				return nil, err
			}
			if n.name == "" {
				n.name = j.Name
			}
			if n.name == "" {
				n.name = strings.ToLower(rand.Text()[:14])
			}
			workspace, err := a.workspaceID(ctx, n.group, n.workspace)
			if err != nil {
				return nil, err
			}
			id, err := n.id(ctx, a, "jobs")
			if err != nil {
				return nil, err
			}
			if _, err := a.arm.Get(ctx, id, mlVersion); err == nil {
				return nil, trust.Errorf(trust.Exists, "the job %s exists; give another --name", n.name)
			} else if !notFound(err) {
				return nil, err
			}
			environment, err := a.environmentID(ctx, workspace, j.Environment)
			if err != nil {
				return nil, err
			}
			raw, err := a.begin(ctx, "Submitting "+n.name, client.Request{Method: http.MethodPut, Path: id, Version: mlVersion, Body: j.body(workspace, environment)})
			if err != nil || !stream {
				if err != nil {
					return nil, err
				}
				return flat(raw)
			}
			return nil, a.stream(ctx, id)
		},
	})
}

func (a *app) jobList() *cobra.Command {
	var n inWorkspace
	var archived, all bool
	return a.command(spec{
		use: "list", short: "List the jobs of a workspace.", example: "sallyport ml job list -g MyResourceGroup -w MyWorkspace -o table",
		flags: func(f *flags) {
			n.flags(f)
			f.flag(&archived, "archived-only", "", "Archived jobs only.")
			f.flag(&all, "include-archived", "", "Archived jobs too.")
		},
		columns: jobColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.id(ctx, a, "jobs")
			if err != nil {
				return nil, err
			}
			v, err := a.list(ctx, id, mlVersion)
			if err != nil {
				return nil, err
			}
			return slices.DeleteFunc(v.([]any), func(one any) bool {
				m, _ := one.(map[string]any)
				is, _ := m["isArchived"].(bool)
				return !all && is != archived
			}), nil
		},
	})
}

func (a *app) jobStream() *cobra.Command {
	var n inWorkspace
	return a.command(spec{
		use: "stream", short: "Show a job's logs while it runs, until it ends.", example: "sallyport ml job stream -g MyResourceGroup -w MyWorkspace -n JOB",
		flags: func(f *flags) { n.named(f, "job") },
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.id(ctx, a, "jobs")
			if err != nil {
				return nil, err
			}
			return nil, a.stream(ctx, id)
		},
	})
}

type logFiles struct {
	Files []struct {
		Name string
		Done bool
	}
	Status string
}

type logPart struct {
	Content string
	Next    int64
	Done    bool
}

func (a *app) logs(ctx context.Context, id string, ask, into any) error {
	c, err := a.session()
	if err != nil {
		return err
	}
	res, err := c.Do(ctx, client.Request{Method: http.MethodPost, Path: id + "/getLogs", Version: mlVersion, Body: ask})
	if err != nil {
		return err
	}
	return json.Unmarshal(res.Body, into)
}

// stream prints a job's logs as they come, each line with its node where there
// are several. A job that did not complete is an error.
func (a *app) stream(ctx context.Context, id string) error {
	at, open, done := map[string]int64{}, map[string]bool{}, map[string]bool{}
	printer := &lines{a: a, rest: map[string]string{}}
	for {
		job, err := a.get(ctx, id, mlVersion)
		if err != nil {
			return err
		}
		m, _ := job.(map[string]any)
		status, _ := m["status"].(string)
		more, _ := m["properties"].(map[string]any)
		reason, _ := more["statusReason"].(string)
		if status == "NotResponding" {
			return trust.Errorf(trust.Unavailable, "nothing is known of the job now: %s", reason)
		}
		var files logFiles
		if err := a.logs(ctx, id, map[string]any{}, &files); err != nil {
			return err
		}
		for _, f := range files.Files {
			if !done[f.Name] {
				open[f.Name] = true
			}
		}
		printer.several = len(files.Files) > 1
		got := false
		for _, name := range slices.Sorted(maps.Keys(open)) {
			wait := 0
			if len(open) == 1 && !ended(status) {
				wait = 10
			}
			var part logPart
			if err := a.logs(ctx, id, map[string]any{"file": name, "offset": at[name], "wait": wait}, &part); err != nil {
				return err
			}
			got = got || part.Content != "" || wait > 0
			printer.add(name, part.Content)
			if at[name] = part.Next; part.Done {
				printer.end(name)
				delete(open, name)
				done[name] = true
			}
		}
		if ended(status) && len(open) == 0 {
			return verdict(status, more)
		}
		if len(files.Files) == 0 {
			a.busy.doing("Waiting for the job, "+status, reason)
		}
		if !got {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(500 * time.Millisecond):
			}
		}
	}
}

func ended(status string) bool {
	return status == "Completed" || status == "Failed" || status == "Canceled"
}

func verdict(status string, more map[string]any) error {
	if status == "Completed" {
		return nil
	}
	code, _ := more["statusCode"].(string)
	reason, _ := more["statusReason"].(string)
	return trust.Errorf(trust.Conflict, "the job ended as %s (%s): %s", status, code, reason)
}

// lines prints whole lines of several files.
type lines struct {
	a       *app
	several bool
	rest    map[string]string
}

func (l *lines) add(file, text string) {
	if text == "" {
		return
	}
	text = l.rest[file] + text
	i := strings.LastIndexByte(text, '\n') + 1
	l.rest[file] = text[i:]
	l.print(file, text[:i])
}

func (l *lines) end(file string) {
	if rest := l.rest[file]; rest != "" {
		l.print(file, rest+"\n")
	}
	delete(l.rest, file)
}

func (l *lines) print(file, text string) {
	if text == "" {
		return
	}
	l.a.busy.pause(func() {
		for line := range strings.Lines(text) {
			if l.several {
				line = "[" + file + "] " + line
			}
			fmt.Fprint(l.a.out, line)
		}
	})
}

func (a *app) jobCancel() *cobra.Command {
	var n inWorkspace
	var noWait bool
	return a.command(spec{
		use: "cancel", short: "End a job.", example: "sallyport ml job cancel -g MyResourceGroup -w MyWorkspace -n JOB",
		flags: func(f *flags) {
			n.named(f, "job")
			f.flag(&noWait, "no-wait", "", "Do not wait until it has ended.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.id(ctx, a, "jobs")
			if err != nil {
				return nil, err
			}
			c, err := a.session()
			if err != nil {
				return nil, err
			}
			o, err := c.Begin(ctx, client.Request{Method: http.MethodPost, Path: id + "/cancel", Version: mlVersion})
			if err != nil || noWait {
				return nil, err
			}
			_, err = a.wait(ctx, "Canceling "+n.name, o)
			return nil, err
		},
	})
}

func (a *app) jobArchive(use, short string, archived bool) *cobra.Command {
	var n inWorkspace
	return a.command(spec{
		use: use, short: short, example: "sallyport ml job " + use + " -g MyResourceGroup -w MyWorkspace -n JOB",
		flags: func(f *flags) { n.named(f, "job") },
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.id(ctx, a, "jobs")
			if err != nil {
				return nil, err
			}
			c, err := a.session()
			if err != nil {
				return nil, err
			}
			raw, err := c.Get(ctx, id, mlVersion)
			if err != nil {
				return nil, err
			}
			var job struct {
				Properties map[string]any `json:"properties"`
			}
			if err := json.Unmarshal(raw, &job); err != nil {
				return nil, err
			}
			job.Properties["isArchived"] = archived
			_, err = a.begin(ctx, "Changing "+n.name, client.Request{Method: http.MethodPut, Path: id, Version: mlVersion, Body: job})
			return nil, err
		},
	})
}

func (a *app) jobDownload() *cobra.Command {
	var n inWorkspace
	var path string
	return a.command(spec{
		use: "download", short: "Write a job's logs into a folder.", example: "sallyport ml job download -g MyResourceGroup -w MyWorkspace -n JOB --download-path .",
		flags: func(f *flags) {
			n.named(f, "job")
			f.text(&path, "download-path", "p", "Folder; a folder of the job's name is made in it. Default: this one.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.id(ctx, a, "jobs")
			if err != nil {
				return nil, err
			}
			var files logFiles
			if err := a.logs(ctx, id, map[string]any{}, &files); err != nil {
				return nil, err
			}
			written := []any{}
			for _, f := range files.Files {
				if !filepath.IsLocal(f.Name) {
					return nil, trust.Errorf(trust.Invalid, "the server names a log %q, which lies outside the folder", f.Name)
				}
				to := filepath.Join(path, n.name, "logs", filepath.FromSlash(f.Name)+".log")
				if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
					return nil, err
				}
				if err := a.saveLog(ctx, id, f.Name, to); err != nil {
					return nil, err
				}
				written = append(written, to)
			}
			return written, nil
		},
	})
}

func (a *app) saveLog(ctx context.Context, id, name, to string) error {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	for offset := int64(0); ; {
		var part logPart
		if err := a.logs(ctx, id, map[string]any{"file": name, "offset": offset}, &part); err != nil {
			return err
		}
		if _, err := out.WriteString(part.Content); err != nil {
			return err
		}
		if part.Next == offset {
			return out.Close()
		}
		offset = part.Next
	}
}
