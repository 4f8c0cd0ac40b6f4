// Package image makes the agents' OCI images without a container engine, saves
// them as an archive and pushes them to a registry.
//
// It owns the images' content and form. Which binaries go in is the caller's
// business. Images of the same binaries have the same digest.
package image

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Agent is what goes into an image.
type Agent struct {
	Program  string            // sallyport-agent, sallyport-ml
	Binaries map[string][]byte // by architecture: amd64, arm64
	Roots    []byte            // PEM: the system's roots inside; empty: those linked into the agent
	Version  string
}

// user runs the agent: nobody in particular, and not root.
const user = "65532:65532"

// epoch dates everything, so that an image depends on its content alone.
var epoch = time.Unix(0, 0).UTC()

// Index makes one image per architecture, under one index.
func Index(a Agent) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var architectures []string
	for arch := range a.Binaries {
		architectures = append(architectures, arch)
	}
	slices.Sort(architectures)
	for _, arch := range architectures {
		img, err := a.image(arch)
		if err != nil {
			return nil, fmt.Errorf("make image for %s: %w", arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	return index, nil
}

func (a Agent) image(arch string) (v1.Image, error) {
	files := []file{{a.Program, 0o755, a.Binaries[arch]}, {"etc/passwd", 0o644, []byte("sallyport:x:65532:65532::/:/sbin/nologin\n")}}
	if len(a.Roots) > 0 {
		files = append(files, file{"etc/ssl/certs/ca-certificates.crt", 0o644, a.Roots})
	}
	content, err := archive(files)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{Layer: layer, MediaType: types.OCILayer, History: v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "sallyport image"}})
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", arch, v1.Time{Time: epoch}
	config.Config = v1.Config{
		User: user, Entrypoint: []string{"/" + a.Program}, WorkingDir: "/", Env: []string{"PATH=/"},
		Labels: map[string]string{"org.opencontainers.image.title": a.Program, "org.opencontainers.image.version": a.Version, "org.opencontainers.image.licenses": "Apache-2.0"},
	}
	return mutate.ConfigFile(img, config)
}

type file struct {
	path string
	mode int64
	data []byte
}

// archive is a tar of files with their folders, all of root and of no time.
func archive(files []file) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	made := map[string]bool{}
	for _, f := range files {
		for i, c := range f.path {
			dir := f.path[:i+1]
			if c != '/' || made[dir] {
				continue
			}
			made[dir] = true
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: epoch}); err != nil {
				return nil, err
			}
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.path, Mode: f.mode, Size: int64(len(f.data)), ModTime: epoch}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Save writes an index as an OCI archive: a tar of an image layout, which
// `ctr images import`, `docker load`, `podman load`, `kind load image-archive`
// and skopeo read.
func Save(index v1.ImageIndex, reference, path string) error {
	ref, err := name.NewTag(reference)
	if err != nil {
		return fmt.Errorf("image name: %w", err)
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".image-*")
	if err != nil {
		return fmt.Errorf("save image: %w", err)
	}
	defer os.RemoveAll(dir)
	out, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = out.AppendIndex(index, layout.WithAnnotations(map[string]string{
			"io.containerd.image.name": ref.Name(), "org.opencontainers.image.ref.name": ref.TagStr()}))
	}
	if err != nil {
		return fmt.Errorf("save image: %w", err)
	}
	var files []file
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		files = append(files, file{filepath.ToSlash(rel), 0o644, data})
		return err
	})
	if err != nil {
		return fmt.Errorf("save image: %w", err)
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	data, err := archive(files)
	if err != nil {
		return fmt.Errorf("save image: %w", err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return fmt.Errorf("save image: %w", err)
	}
	return nil
}

// Push writes an index to a registry, with the credentials that docker and
// podman keep. It returns the reference by digest.
func Push(ctx context.Context, index v1.ImageIndex, reference string, plainHTTP bool) (string, error) {
	var options []name.Option
	if plainHTTP {
		options = append(options, name.Insecure)
	}
	ref, err := name.NewTag(reference, options...)
	if err != nil {
		return "", fmt.Errorf("image name: %w", err)
	}
	if err := remote.WriteIndex(ref, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	digest, err := index.Digest()
	if err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	return ref.Context().Digest(digest.String()).String(), nil
}
