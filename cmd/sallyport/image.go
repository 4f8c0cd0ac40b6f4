package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/cmd/sallyport/image"
	"github.com/sallyport/sallyport/trust"
)

func (a *app) image() *cobra.Command {
	return a.noun("image", "Make the container images of what runs in clusters, without a container engine.", a.imageSave(), a.imagePush())
}

// imageParts is what an image is made of.
type imageParts struct {
	name, program, source, binaries, roots string
	platforms                              []string
}

func (p *imageParts) flags(f *flags) {
	f.StringVar(&p.program, "program", agentProgram, "sallyport-agent; sallyport-ml: the ML extension; sallyport-installer: what installs extensions.")
	f.text(&p.name, "name", "n", "Name and tag. Default: "+defaultImage()+", and the like.")
	f.many(&p.platforms, "platform", "", "linux/amd64 and linux/arm64. Default: both.")
	f.text(&p.source, "source", "", "Folder of Sallyport's source, to build the program with Go. Default: around this one.")
	f.text(&p.binaries, "binaries", "", "Folder with PROGRAM-linux-amd64 and PROGRAM-linux-arm64, instead of building.")
	f.text(&p.roots, "roots", "", "PEM file of the roots inside, instead of those that are pinned in the program (Mozilla's).")
}

func (a *app) imageSave() *cobra.Command {
	var p imageParts
	var file string
	return a.command(spec{
		use: "save", short: "Write the image as an OCI archive.",
		long:    "Write the image as an OCI archive, for 'ctr images import', 'docker load', 'podman load', 'kind load image-archive' and skopeo.",
		example: "sallyport image save --file sallyport-agent.tar",
		flags: func(f *flags) {
			f.need(&file, "file", "f", "The archive to write.")
			p.flags(f)
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			agent, err := a.agentImage(ctx, &p)
			if err != nil {
				return nil, err
			}
			index, err := image.Index(*agent)
			if err != nil {
				return nil, err
			}
			if err := image.Save(index, p.name, file); err != nil {
				return nil, err
			}
			digest, err := index.Digest()
			return map[string]any{"name": p.name, "digest": digest.String(), "file": file}, err
		},
	})
}

func (a *app) imagePush() *cobra.Command {
	var p imageParts
	var plain bool
	return a.command(spec{
		use: "push", short: "Push the image to a registry.",
		long:    "Push the image to a registry, with the credentials that docker and podman keep.",
		example: "sallyport image push --name registry.example.com/sallyport-agent:v1",
		flags: func(f *flags) {
			p.flags(f)
			f.flag(&plain, "plain-http", "", "The registry speaks HTTP.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			if p.name == "" {
				return nil, usagef("the following arguments are required: --name/-n")
			}
			agent, err := a.agentImage(ctx, &p)
			if err != nil {
				return nil, err
			}
			index, err := image.Index(*agent)
			if err != nil {
				return nil, err
			}
			a.busy.doing("Pushing "+p.name, "the registry has not taken everything yet")
			reference, err := image.Push(ctx, index, p.name, plain)
			if err != nil {
				return nil, trust.Errorf(trust.Unavailable, "the image was not pushed").Because(err)
			}
			return map[string]any{"name": p.name, "reference": reference}, nil
		},
	})
}

// agentImage collects what goes into the image, and builds what is not there.
func (a *app) agentImage(ctx context.Context, p *imageParts) (*image.Agent, error) {
	switch {
	case p.program != agentProgram && p.program != mlProgram && p.program != installerProgram:
		return nil, usagef("argument --program: '%s' is none of %s, %s and %s", p.program, agentProgram, mlProgram, installerProgram)
	case p.name == "" && p.program == installerProgram:
		p.name = defaultInstallerImage()
	case p.name == "" && p.program == mlProgram:
		p.name = defaultMLImage()
	case p.name == "":
		p.name = defaultImage()
	}
	var platforms []string
	for _, v := range p.platforms {
		platforms = append(platforms, commas(v)...)
	}
	if len(platforms) == 0 {
		platforms = []string{"linux/amd64", "linux/arm64"}
	}
	agent := &image.Agent{Program: p.program, Binaries: map[string][]byte{}, Version: version}
	var err error
	if p.roots != "" {
		if agent.Roots, err = os.ReadFile(p.roots); err != nil {
			return nil, trust.Errorf(trust.Invalid, "the roots %s cannot be read", p.roots).Because(err)
		}
	}
	for _, platform := range platforms {
		arch, ok := strings.CutPrefix(platform, "linux/")
		if !ok || arch != "amd64" && arch != "arm64" {
			return nil, usagef("argument --platform: '%s' is neither linux/amd64 nor linux/arm64", platform)
		}
		if p.binaries != "" {
			path := filepath.Join(p.binaries, p.program+"-linux-"+arch)
			if agent.Binaries[arch], err = os.ReadFile(path); err != nil {
				return nil, trust.Errorf(trust.Invalid, "the binary %s cannot be read", path).Because(err)
			}
			continue
		}
		a.busy.doing("Building "+p.program+" for "+platform, "go build of "+p.program+" for "+platform)
		if agent.Binaries[arch], err = buildProgram(ctx, p.source, p.program, arch); err != nil {
			return nil, err
		}
	}
	return agent, nil
}

// The programs that run in clusters.
const (
	agentProgram     = "sallyport-agent"
	mlProgram        = "sallyport-ml"
	installerProgram = "sallyport-installer" // a module of its own
)

// buildProgram compiles one for Linux with Go.
func buildProgram(ctx context.Context, source, program, arch string) ([]byte, error) {
	source, err := findSource(source)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", program+"-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, program)
	from := "./cmd/" + program
	if program == installerProgram {
		source, from = filepath.Join(source, "installer"), "."
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, from)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=-buildvcs=false")
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		e := trust.Errorf(trust.Unavailable, "%s for linux/%s was not built: %s", program, arch, strings.TrimSpace(said.String())).Because(err)
		if errors.Is(err, exec.ErrNotFound) {
			e.Hint = "install Go, or give --binaries FOLDER"
		}
		return nil, e
	}
	return os.ReadFile(out)
}

// findSource is the folder of Sallyport's module at or above dir.
func findSource(dir string) (string, error) {
	if dir == "" {
		dir = "."
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		data, err := os.ReadFile(filepath.Join(at, "go.mod"))
		if err == nil && bytes.HasPrefix(data, []byte("module github.com/sallyport/sallyport\n")) {
			return at, nil
		}
		if at == filepath.Dir(at) {
			e := trust.Errorf(trust.Precondition, "Sallyport's source is not at or above %s, so the agent cannot be built", dir)
			e.Hint = "give --source FOLDER, or --binaries FOLDER with sallyport-agent-linux-amd64 and -arm64"
			return "", e
		}
	}
}
