package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
	"github.com/sallyport/sallyport/trust"
)

// asset is a kind of named and versioned bytes.
type asset struct {
	noun, typ    string // "model", "models"
	one          string // "a model"
	uri, kind    string // ARM's members
	defaultType  func(folder bool) string
	short, types string
}

var (
	modelAsset = asset{noun: "model", typ: "models", one: "a model", uri: "modelUri", kind: "modelType", defaultType: func(bool) string { return "custom_model" },
		short: "Manage models: what jobs made, by name and version.", types: "custom_model, mlflow_model or triton_model. Default: custom_model."}
	dataAsset = asset{noun: "data", typ: "data", one: "data", uri: "dataUri", kind: "dataType", defaultType: func(folder bool) string {
		if folder {
			return "uri_folder"
		}
		return "uri_file"
	}, short: "Manage data that jobs read, by name and version.", types: "uri_file or uri_folder. Default: what the path is."}
)

var assetColumns = []output.Column{{Heading: "Name", Path: "name"}, {Heading: "LatestVersion", Path: "latestVersion"}, {Heading: "Type", Path: "modelType || dataType"},
	{Heading: "Path", Path: "modelUri || dataUri"}, {Heading: "Archived", Path: "isArchived"}}

func (a *app) assetNoun(s asset) *cobra.Command {
	all := []*cobra.Command{a.assetCreate(s), a.assetShow(s), a.assetList(s), a.assetArchive(s, "archive", true), a.assetArchive(s, "restore", false)}
	if s.noun == "model" {
		all = append(all, a.modelDownload())
	}
	return a.noun(s.noun, s.short, all...)
}

// assetFile is az's YAML of a model or of data.
type assetFile struct {
	Schema      string            `json:"$schema"`
	Name        string            `json:"name"`
	Version     scalar            `json:"version"`
	Path        string            `json:"path"`
	Type        string            `json:"type"`
	Description string            `json:"description"`
	Tags        map[string]string `json:"tags"`
}

func (a *app) assetCreate(s asset) *cobra.Command {
	var n inWorkspace
	var version, path, typ, description, file string
	var tags []string
	return a.command(spec{
		use: "create", short: "Make a version of " + s.one + ", of a local file or folder or of a job's output.",
		example: "sallyport ml " + s.noun + " create -g MyResourceGroup -w MyWorkspace -n NAME --path azureml://jobs/JOB/outputs/model",
		flags: func(f *flags) {
			n.flags(f)
			f.text(&n.name, "name", "n", "Name of the "+s.noun+".")
			f.text(&version, "version", "v", "Version. Default: one more than the highest.")
			f.text(&path, "path", "p", "Local file or folder, or azureml://jobs/JOB/outputs/NAME[/paths/PATH].")
			f.text(&typ, "type", "t", s.types)
			f.text(&description, "description", "d", "Description.")
			f.text(&file, "file", "f", "The same as YAML.")
			f.many(&tags, "tags", "", "Space-separated tags: key[=value] [key[=value] ...].")
		},
		columns: assetColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			all, err := parseTags(tags)
			if err != nil {
				return nil, err
			}
			base := ""
			if file != "" {
				y, err := readAssetFile(file)
				if err != nil {
					return nil, err
				}
				first := func(flag *string, other string) {
					if *flag == "" {
						*flag = other
					}
				}
				if path == "" {
					base = filepath.Dir(file)
				}
				first(&n.name, y.Name)
				first(&version, string(y.Version))
				first(&path, y.Path)
				first(&typ, y.Type)
				first(&description, y.Description)
				if all == nil {
					all = y.Tags
				}
			}
			if n.name == "" || path == "" {
				return nil, usagef("give --name and --path, or a --file that has them")
			}
			p := texts("description", description)
			return a.putAsset(ctx, s, &n, version, relative(base, path), typ, p, all)
		},
	})
}

// relative is a path in a file: of that file's folder, if it is a path at all.
func relative(base, path string) string {
	if base == "" || filepath.IsAbs(path) || strings.Contains(path, "://") || strings.HasPrefix(path, "azureml:") {
		return path
	}
	return filepath.Join(base, path)
}

func readAssetFile(file string) (*assetFile, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, trust.Errorf(trust.Invalid, "%s cannot be read", file).Because(err)
	}
	y := new(assetFile)
	return y, readYAML(raw, y, file, "a model or data")
}

// putAsset uploads what is local and makes the version. Without one given it
// takes the next, and again the next if somebody else was faster.
func (a *app) putAsset(ctx context.Context, s asset, n *inWorkspace, version, path, typ string, p map[string]any, tags map[string]string) (any, error) {
	id, err := n.id(ctx, a, s.typ)
	if err != nil {
		return nil, err
	}
	if version != "" {
		if _, err := versionGiven(id, version); err != nil {
			return nil, err
		}
	}
	p[s.uri], p[s.kind] = path, typ
	if !strings.HasPrefix(path, "azureml:") {
		uri, folder, err := a.upload(ctx, id+"/versions/"+orText(version, "new"), path)
		if err != nil {
			return nil, err
		}
		p[s.uri] = uri
		if typ == "" {
			p[s.kind] = s.defaultType(folder)
		}
	} else if typ == "" {
		p[s.kind] = s.defaultType(true)
	}
	body := map[string]any{"properties": p}
	if tags != nil {
		body["tags"] = tags
	}
	for try := 0; ; try++ {
		v := version
		if v == "" {
			if v, err = a.nextVersion(ctx, id); err != nil {
				return nil, err
			}
		}
		c, err := a.session()
		if err != nil {
			return nil, err
		}
		a.busy.doing("Creating "+s.noun+" "+n.name+":"+v, "")
		r := client.Request{Method: http.MethodPut, Path: id + "/versions/" + v, Version: mlVersion, Body: body}
		if version == "" {
			r.Header = http.Header{"If-None-Match": {"*"}}
		}
		res, err := c.Do(ctx, r)
		var refused *client.Error
		if version == "" && try < 5 && errors.As(err, &refused) && (refused.Status == http.StatusPreconditionFailed || refused.Status == http.StatusConflict) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return flat(res.Body)
	}
}

func orText(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func (a *app) assetShow(s asset) *cobra.Command {
	var v versioned
	return a.command(spec{
		use: "show", short: "Show a version of " + s.one + ".", example: "sallyport ml " + s.noun + " show -g MyResourceGroup -w MyWorkspace -n NAME --version 1",
		flags: func(f *flags) { v.flags(f, s.noun) }, columns: assetColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := v.versionID(ctx, a, s.typ)
			if err != nil {
				return nil, err
			}
			return a.get(ctx, id, mlVersion)
		},
	})
}

func (a *app) assetList(s asset) *cobra.Command {
	var n inWorkspace
	var archived, all bool
	return a.command(spec{
		use: "list", short: "List names, or with --name the versions of one.", example: "sallyport ml " + s.noun + " list -g MyResourceGroup -w MyWorkspace -o table",
		flags: func(f *flags) {
			n.flags(f)
			f.text(&n.name, "name", "n", "Name, to list its versions.")
			f.flag(&archived, "archived-only", "", "Archived ones only.")
			f.flag(&all, "include-archived", "", "Archived ones too.")
		},
		columns: assetColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.id(ctx, a, s.typ)
			if err != nil {
				return nil, err
			}
			if n.name != "" {
				id += "/versions"
			}
			v, err := a.list(ctx, id, mlVersion)
			if err != nil {
				return nil, err
			}
			return unarchived(v, archived, all), nil
		},
	})
}

func (a *app) assetArchive(s asset, use string, archived bool) *cobra.Command {
	var n inWorkspace
	var version string
	return a.command(spec{
		use: use, short: map[bool]string{true: "Hide " + s.one + " from lists.", false: "Show archived " + strings.TrimPrefix(s.one, "a ") + " in lists again."}[archived],
		example: "sallyport ml " + s.noun + " " + use + " -g MyResourceGroup -w MyWorkspace -n NAME --version 1",
		flags: func(f *flags) {
			n.named(f, s.noun)
			f.text(&version, "version", "v", "Version. Default: the name with all its versions.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.id(ctx, a, s.typ)
			if err != nil {
				return nil, err
			}
			if version != "" {
				if id, err = versionGiven(id, version); err != nil {
					return nil, err
				}
			}
			return nil, a.setArchived(ctx, id, n.name, archived)
		},
	})
}

func (a *app) modelDownload() *cobra.Command {
	var v versioned
	var path string
	return a.command(spec{
		use: "download", short: "Write a model's files into a folder.", example: "sallyport ml model download -g MyResourceGroup -w MyWorkspace -n NAME --version 1 --download-path .",
		flags: func(f *flags) {
			v.flags(f, "model")
			f.text(&path, "download-path", "p", "Folder; a folder of the model's name is made in it. Default: this one.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := v.versionID(ctx, a, "models")
			if err != nil {
				return nil, err
			}
			return a.fetch(ctx, id, map[string]any{}, filepath.Join(path, v.name))
		},
	})
}
