package main

import (
	"context"
	"crypto/rand"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/trust"
)

// data fills in a job's code, inputs and outputs: what is local is uploaded, and
// short names become ids. base is the folder of the job's file.
func (j *jobFile) data(ctx context.Context, a *app, workspace, base string, p map[string]any) error {
	if j.Code != "" {
		id, err := a.codeID(ctx, workspace, relative(base, j.Code))
		if err != nil {
			return err
		}
		p["codeId"] = id
	}
	inputs := map[string]any{}
	for name, v := range j.Inputs {
		in, err := a.jobInput(ctx, workspace, base, name, v)
		if err != nil {
			return err
		}
		inputs[name] = in
	}
	if len(inputs) > 0 {
		p["inputs"] = inputs
	}
	outputs := map[string]any{}
	for name, v := range j.Outputs {
		m, ok := v.(map[string]any)
		if !ok && v != nil {
			return trust.Errorf(trust.Invalid, "outputs.%s: it must have a type, like {type: uri_folder}", name)
		}
		out := map[string]any{"jobOutputType": orText(text(m["type"]), "uri_folder"), "mode": armMode(text(m["mode"]))}
		if path := text(m["path"]); path != "" {
			out["uri"] = path // the server says why it does not take it
		}
		if asset := text(m["name"]); asset != "" {
			out["assetName"] = asset
		}
		outputs[name] = out
	}
	if len(outputs) > 0 {
		p["outputs"] = outputs
	}
	return nil
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

// armMode is ARM's word for az's.
func armMode(mode string) string {
	known := map[string]string{"": "", "ro_mount": "ReadOnlyMount", "rw_mount": "ReadWriteMount", "download": "Download", "upload": "Upload", "direct": "Direct"}
	if m, ok := known[strings.ToLower(mode)]; ok {
		return m
	}
	return mode
}

func (a *app) codeID(ctx context.Context, workspace, code string) (string, error) {
	if ref, short := strings.CutPrefix(code, "azureml:"); short {
		return a.versionNamed(ctx, "code", workspace, "codes", ref)
	}
	name := strings.ToLower(rand.Text())
	uri, folder, err := a.upload(ctx, workspace+"/codes/"+name+"/versions/1", code)
	if err != nil {
		return "", err
	}
	if !folder {
		uri = uri[:strings.LastIndexByte(uri, '/')]
	}
	// The content's hash is its name: the same code is one version.
	id := workspace + "/codes/" + uri[strings.LastIndexByte(uri, '/')+1:] + "/versions/1"
	_, err = a.begin(ctx, "Naming the code", client.Request{Method: http.MethodPut, Path: id, Version: mlVersion,
		Body: map[string]any{"properties": map[string]any{"codeUri": uri, "isAnonymous": true}}})
	return id, err
}

func (a *app) jobInput(ctx context.Context, workspace, base, name string, v any) (any, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return map[string]any{"jobInputType": "literal", "value": v}, nil
	}
	typ, path := strings.ToLower(text(m["type"])), text(m["path"])
	if path == "" {
		return nil, trust.Errorf(trust.Invalid, "inputs.%s: it has no path", name)
	}
	in := map[string]any{"jobInputType": orText(typ, "uri_folder"), "mode": armMode(text(m["mode"]))}
	assets := "data"
	if strings.HasSuffix(typ, "_model") {
		assets = "models"
	}
	switch ref, short := strings.CutPrefix(path, "azureml:"); {
	case strings.HasPrefix(path, "azureml://"), strings.HasPrefix(path, "/subscriptions/"):
		in["uri"] = path
	case short:
		id, err := a.versionNamed(ctx, "inputs."+name, workspace, assets, ref)
		if err != nil {
			return nil, err
		}
		in["uri"] = id
	default:
		uri, folder, err := a.upload(ctx, workspace+"/data/"+strings.ToLower(rand.Text())+"/versions/1", relative(base, path))
		if err != nil {
			return nil, err
		}
		if in["uri"] = uri; folder && typ == "uri_file" {
			return nil, trust.Errorf(trust.Invalid, "inputs.%s: %s is a folder, not a file", name, filepath.Clean(path))
		}
		if typ == "" && !folder {
			in["jobInputType"] = "uri_file"
		}
	}
	return in, nil
}
