package main

import (
	"context"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/trust"
)

// Models, data, code and environments have versions, which files name as
// NAME:VERSION or NAME@latest and commands by --version or --label. Here such
// names become ids, and only what is one segment of a path gets into one.

// versionAt is the id of a version of what has an id.
func versionAt(container, version string) (id string, ok bool) {
	return container + "/versions/" + version, arm.ValidSegment(version)
}

// versionGiven is versionAt of --version.
func versionGiven(container, version string) (string, error) {
	id, ok := versionAt(container, version)
	if !ok {
		return "", usagef("argument --version/-v: '%s' is not a version: letters, digits, '_', '-' and '.'", version)
	}
	return id, nil
}

// versionNamed reads what a file says where a version is meant, with or without
// "azureml:" before it; what is the place in the file.
func (a *app) versionNamed(ctx context.Context, what, workspace, typ, ref string) (string, error) {
	ref = strings.TrimPrefix(ref, "azureml:")
	name, version, exact := strings.Cut(ref, ":")
	if !exact {
		var latest bool
		if name, latest = strings.CutSuffix(ref, "@latest"); !latest {
			name = ""
		}
	}
	if !arm.ValidSegment(name) || exact && !arm.ValidSegment(version) {
		return "", trust.Errorf(trust.Invalid, "%s: 'azureml:%s' must read azureml:NAME:VERSION or azureml:NAME@latest", what, ref)
	}
	container := workspace + "/" + typ + "/" + name
	if !exact {
		return a.newest(ctx, container)
	}
	id, _ := versionAt(container, version)
	return id, nil
}

// newest is the id of the newest version.
func (a *app) newest(ctx context.Context, container string) (string, error) {
	got, err := a.get(ctx, container, mlVersion)
	if err != nil {
		return "", err
	}
	m, _ := got.(map[string]any)
	version := text(m["latestVersion"])
	if version == "" {
		return "", trust.Errorf(trust.NotFound, "%s has no version", container)
	}
	id, ok := versionAt(container, version)
	if !ok {
		return "", trust.Errorf(trust.Internal, "the server names a version %q", version)
	}
	return id, nil
}

// nextVersion is what a version is called that nobody gave a name.
func (a *app) nextVersion(ctx context.Context, container string) (string, error) {
	got, err := a.get(ctx, container, mlVersion)
	if notFound(err) {
		return "1", nil
	}
	if err != nil {
		return "", err
	}
	m, _ := got.(map[string]any)
	next := orText(text(m["nextVersion"]), "1")
	if !arm.ValidSegment(next) {
		return "", trust.Errorf(trust.Internal, "the server names a version %q", next)
	}
	return next, nil
}

// versioned is a version by the flags; the newest for the label latest and where
// neither is given.
type versioned struct {
	inWorkspace
	version, label string
}

func (v *versioned) flags(f *flags, what string) {
	v.named(f, what)
	f.text(&v.version, "version", "v", "Version. Default: the newest.")
	f.text(&v.label, "label", "l", "latest.")
}

func (v *versioned) versionID(ctx context.Context, a *app, typ string) (string, error) {
	id, err := v.id(ctx, a, typ)
	if err != nil {
		return "", err
	}
	if v.label != "" && v.label != "latest" || v.label != "" && v.version != "" {
		return "", usagef("argument --label/-l: give latest, or a --version")
	}
	if v.version == "" {
		return a.newest(ctx, id)
	}
	return versionGiven(id, v.version)
}
