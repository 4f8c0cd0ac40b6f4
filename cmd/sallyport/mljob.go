package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
	"github.com/sallyport/sallyport/mlext/wire"
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

func (a *app) jobCreate() *cobra.Command {
	var n inWorkspace
	var file string
	var stream bool
	return a.command(spec{
		use: "create", short: "Submit a command job.",
		long: `Submit a command job, written in the YAML of az's command jobs: command, environment,
environment_variables, compute, resources (instance_type, instance_count, shm_size),
limits.timeout, retry_settings.max_retries, distribution (pytorch, tensorflow), tags,
code, inputs and outputs. What is local (code, and paths of inputs, from the file's
folder) is uploaded, without what .amlignore or else .gitignore names.
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
			exists := trust.Errorf(trust.Exists, "the job %s exists; give another --name", n.name)
			if _, err := a.arm.Get(ctx, id, mlVersion); err == nil {
				return nil, exists
			} else if !notFound(err) {
				return nil, err
			}
			environment, err := a.environmentID(ctx, workspace, j.Environment)
			if err != nil {
				return nil, err
			}
			body := j.body(workspace, environment)
			if err := j.data(ctx, a, workspace, filepath.Dir(file), body["properties"].(map[string]any)); err != nil {
				return nil, err
			}
			raw, err := a.begin(ctx, "Submitting "+n.name, client.Request{Method: http.MethodPut, Path: id, Version: mlVersion, Body: body, Header: ifNone()})
			if err != nil {
				return nil, made(err, exists)
			}
			if !stream {
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
			return unarchived(v, archived, all), nil
		},
	})
}

// unarchived leaves out of a list what was archived, or everything else.
func unarchived(v any, only, all bool) any {
	return slices.DeleteFunc(v.([]any), func(one any) bool {
		m, _ := one.(map[string]any)
		is, _ := m["isArchived"].(bool)
		return !all && is != only
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
			return nil, a.setArchived(ctx, id, n.name, archived)
		},
	})
}

// setArchived sends a resource back with nothing but that changed.
func (a *app) setArchived(ctx context.Context, id, name string, archived bool) error {
	_, err := a.amend(ctx, "Changing "+name, id, mlVersion, false, func(was json.RawMessage) (any, error) {
		var one struct {
			Properties map[string]any    `json:"properties"`
			Tags       map[string]string `json:"tags,omitempty"`
		}
		if err := json.Unmarshal(was, &one); err != nil {
			return nil, err
		}
		if one.Properties == nil {
			one.Properties = map[string]any{}
		}
		one.Properties["isArchived"] = archived
		return one, nil
	})
	return err
}

func (a *app) jobDownload() *cobra.Command {
	var n inWorkspace
	var path, name string
	var all bool
	return a.command(spec{
		use: "download", short: "Write a job's logs, or what it wrote, into a folder.",
		long: `Write a job's logs into <folder>/<job>/logs; with --output-name what it wrote as that
output into <folder>/<job>/named-outputs/<output>, and with --all everything. Of each
node the last attempt counts.`,
		example: "sallyport ml job download -g MyResourceGroup -w MyWorkspace -n JOB --all --download-path .",
		flags: func(f *flags) {
			n.named(f, "job")
			f.text(&path, "download-path", "p", "Folder; a folder of the job's name is made in it. Default: this one.")
			f.text(&name, "output-name", "", "Name of an output.")
			f.flag(&all, "all", "", "Logs and all outputs.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.id(ctx, a, "jobs")
			if err != nil {
				return nil, err
			}
			to := filepath.Join(path, n.name)
			if name != "" {
				return a.fetch(ctx, id, map[string]any{"output": name}, filepath.Join(to, "named-outputs", name))
			}
			written, err := a.saveLogs(ctx, id, filepath.Join(to, "logs"))
			if err != nil || !all {
				return written, err
			}
			job, err := a.get(ctx, id, mlVersion)
			if err != nil {
				return nil, err
			}
			outputs, _ := job.(map[string]any)["outputs"].(map[string]any)
			for _, output := range slices.Sorted(maps.Keys(outputs)) {
				if !filepath.IsLocal(output) {
					return nil, trust.Errorf(trust.Invalid, "the server names an output %q", output)
				}
				more, err := a.fetch(ctx, id, map[string]any{"output": output}, filepath.Join(to, "named-outputs", output))
				if err != nil {
					return nil, err
				}
				written = append(written, more...)
			}
			return written, nil
		},
	})
}

// saveLogs writes a job's logs: those that are in the workspace's store from
// there, the others as the cluster has them.
func (a *app) saveLogs(ctx context.Context, id, to string) ([]any, error) {
	var others []string
	written, err := a.download(ctx, to, func(ctx context.Context, after string) (page signedFiles, err error) {
		var files logFiles
		if err := a.logs(ctx, id, map[string]any{}, &files); err != nil {
			return page, err
		}
		page.Trust, others = files.Trust, nil
		for _, f := range files.Files {
			if f.URL == "" {
				others = append(others, f.Name)
			} else if path := f.Name + ".log"; path > after {
				page.Files = append(page.Files, wire.SignedFile{File: wire.File{Path: path, Size: f.Size}, URL: f.URL})
			}
		}
		slices.SortFunc(page.Files, func(a, b wire.SignedFile) int { return strings.Compare(a.Path, b.Path) })
		return page, nil
	})
	for _, name := range others {
		if err != nil {
			return written, err
		}
		if !filepath.IsLocal(name) {
			return nil, trust.Errorf(trust.Invalid, "the server names a log %q, which lies outside the folder", name)
		}
		at := filepath.Join(to, filepath.FromSlash(name)+".log")
		if err = os.MkdirAll(filepath.Dir(at), 0o755); err == nil {
			err = a.saveLog(ctx, id, name, at)
		}
		written = append(written, at)
	}
	return written, err
}

func (a *app) saveLog(ctx context.Context, id, name, to string) error {
	out, err := os.CreateTemp(filepath.Dir(to), "."+filepath.Base(to)+".*.partial")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
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
			break
		}
		offset = part.Next
	}
	if err := errors.Join(out.Chmod(0o644), out.Close()); err != nil {
		return err
	}
	return os.Rename(out.Name(), to)
}
