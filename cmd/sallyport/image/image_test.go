package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func sample() Agent {
	return Agent{Program: "sallyport-agent", Binaries: map[string][]byte{"amd64": []byte("binary for amd64"), "arm64": []byte("binary for arm64")}, Roots: []byte("roots"), Version: "v1"}
}

// files unpacks a tar.
func files(t *testing.T, r io.Reader) map[string]*tar.Header {
	t.Helper()
	found := map[string]*tar.Header{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		found[h.Name] = h
	}
}

func TestPushedImageIsWhatTheAgentsRun(t *testing.T) {
	server := httptest.NewServer(registry.New())
	defer server.Close()
	at := strings.TrimPrefix(server.URL, "http://") + "/sallyport-agent:v1"
	index, err := Index(sample())
	if err != nil {
		t.Fatal(err)
	}
	reference, err := Push(t.Context(), index, at, true)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(reference, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		img, err := remote.Image(ref, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: arch}))
		if err != nil {
			t.Fatal(err)
		}
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.Architecture != arch || config.Config.User != "65532:65532" || config.Config.Entrypoint[0] != "/sallyport-agent" {
			t.Errorf("%s: %s as %s runs %q", arch, config.Architecture, config.Config.User, config.Config.Entrypoint)
		}
		layers, err := img.Layers()
		if err != nil || len(layers) != 1 {
			t.Fatalf("%d layers, %v", len(layers), err)
		}
		content, err := layers[0].Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		found := files(t, content)
		content.Close()
		if h := found["sallyport-agent"]; h == nil || h.Mode != 0o755 || h.Size != int64(len("binary for "+arch)) {
			t.Errorf("%s: agent is %+v", arch, h)
		}
		if found["etc/ssl/certs/ca-certificates.crt"] == nil || found["etc/ssl/"] == nil {
			t.Errorf("%s: roots are missing", arch)
		}
	}
}

func TestSavedImageIsTheSameEachTime(t *testing.T) {
	dir := t.TempDir()
	save := func(file string, a Agent) []byte {
		index, err := Index(a)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, file)
		if err := Save(index, "example.com/sallyport-agent:v1", path); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	one, two := save("one.tar", sample()), save("two.tar", sample())
	if !bytes.Equal(one, two) {
		t.Error("the same binaries made two images")
	}
	other := sample()
	other.Binaries["arm64"] = []byte("another")
	if bytes.Equal(one, save("three.tar", other)) {
		t.Error("other binaries made the same image")
	}
	found := files(t, bytes.NewReader(one))
	if found["oci-layout"] == nil || found["index.json"] == nil {
		t.Fatalf("the archive holds no layout")
	}
	var index struct {
		Manifests []struct{ Annotations map[string]string }
	}
	for tr := tar.NewReader(bytes.NewReader(one)); ; {
		h, err := tr.Next()
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == "index.json" {
			if err := json.NewDecoder(tr).Decode(&index); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if len(index.Manifests) != 1 || index.Manifests[0].Annotations["io.containerd.image.name"] != "example.com/sallyport-agent:v1" {
		t.Errorf("index %+v", index)
	}
	if rest, err := filepath.Glob(filepath.Join(dir, ".image-*")); err != nil || len(rest) > 0 {
		t.Errorf("left behind: %v %v", rest, err)
	}
}
