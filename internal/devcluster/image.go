package devcluster

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"
	"time"
)

// Image is a container image of one layer, made without a container engine. A
// pod uses it by Name with imagePullPolicy Never (or IfNotPresent with a tag)
// after [Cluster.LoadImage].
type Image struct {
	Name       string // with a tag, such as "dev.sallyport.test/tool:1"
	Files      []ImageFile
	Entrypoint []string
	Env        []string // NAME=value
	User       string   // a uid; empty is root
	WorkingDir string
}

// ImageFile is one file of an image: the content of From, or Data, or a
// symbolic link to Link.
type ImageFile struct {
	Path string // absolute, in the image
	From string // file of this machine
	Data []byte
	Link string
	Mode int64 // permission bits; 0 is 0755
}

// ProgramImage is an image of one static binary; args follow it in the
// entrypoint.
func ProgramImage(name, binary string, args ...string) Image {
	return Image{
		Name:       name,
		Files:      []ImageFile{{Path: "/program", From: binary}},
		Entrypoint: append([]string{"/program"}, args...),
	}
}

// imageConfig is the part of an image's configuration that matters here (OCI
// image specification, config.md).
type imageConfig struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Config       struct {
		User       string   `json:"User,omitempty"`
		Env        []string `json:"Env,omitempty"`
		Entrypoint []string `json:"Entrypoint,omitempty"`
		WorkingDir string   `json:"WorkingDir,omitempty"`
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// WriteTar writes the image to file in the form of "docker save", which
// containerd imports. The same files make the same image.
func (i Image) WriteTar(file string) (err error) {
	if i.Name == "" || len(i.Entrypoint) == 0 {
		return errors.New("write image: it needs a name and an entrypoint")
	}
	layer, err := os.CreateTemp(path.Dir(file), ".layer-*")
	if err != nil {
		return fmt.Errorf("write image %s: %w", i.Name, err)
	}
	defer os.Remove(layer.Name())
	defer layer.Close()
	digest := sha256.New()
	if err := i.writeLayer(io.MultiWriter(layer, digest)); err != nil {
		return fmt.Errorf("write image %s: %w", i.Name, err)
	}
	out, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("write image %s: %w", i.Name, err)
	}
	err = i.writeArchive(out, layer, "sha256:"+hex.EncodeToString(digest.Sum(nil)))
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("write image %s: %w", i.Name, errors.Join(err, os.Remove(file)))
	}
	return nil
}

func (i Image) writeArchive(w io.Writer, layer *os.File, diffID string) error {
	var cfg imageConfig
	cfg.Architecture, cfg.OS = runtime.GOARCH, "linux"
	cfg.Config.User, cfg.Config.Env = i.User, i.Env
	cfg.Config.Entrypoint, cfg.Config.WorkingDir = i.Entrypoint, i.WorkingDir
	cfg.RootFS.Type, cfg.RootFS.DiffIDs = "layers", []string{diffID}
	config, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{
		"Config": "config.json", "RepoTags": []string{i.Name}, "Layers": []string{"layer.tar"},
	}})
	if err != nil {
		return err
	}
	size, err := layer.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return err
	}
	out := tar.NewWriter(w)
	for _, f := range []struct {
		name string
		size int64
		r    io.Reader
	}{
		{"config.json", int64(len(config)), strings.NewReader(string(config))},
		{"layer.tar", size, layer},
		{"manifest.json", int64(len(manifest)), strings.NewReader(string(manifest))},
	} {
		if err := out.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: f.size}); err != nil {
			return err
		}
		if _, err := io.Copy(out, f.r); err != nil {
			return err
		}
	}
	return out.Close()
}

func (i Image) writeLayer(w io.Writer) error {
	out := tar.NewWriter(w)
	made := map[string]bool{"/": true, ".": true}
	dir := func(p string, mode int64) error {
		if made[p] {
			return nil
		}
		made[p] = true
		return out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(p, "/") + "/", Mode: mode, ModTime: epoch})
	}
	if err := dir("/tmp", 0o1777); err != nil {
		return err
	}
	for _, f := range i.Files {
		p := path.Clean("/" + f.Path)
		for n, c := range p { // every folder above it, from the top
			if c == '/' && n > 0 {
				if err := dir(p[:n], 0o755); err != nil {
					return err
				}
			}
		}
		if err := f.write(out, strings.TrimPrefix(p, "/")); err != nil {
			return err
		}
	}
	return out.Close()
}

// epoch is the time of every file, so that an image depends on content only.
var epoch = time.Unix(0, 0)

func (f ImageFile) write(out *tar.Writer, name string) error {
	h := &tar.Header{Name: name, Mode: f.Mode, ModTime: epoch, Size: int64(len(f.Data))}
	if h.Mode == 0 {
		h.Mode = 0o755
	}
	switch {
	case f.Link != "":
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
		return out.WriteHeader(h)
	case f.From == "":
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		_, err := out.Write(f.Data)
		return err
	}
	from, err := os.Open(f.From)
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	h.Size = info.Size()
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(out, from)
	return err
}
