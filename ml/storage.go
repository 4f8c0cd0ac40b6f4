package ml

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/bucket"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// How keys in the store begin: everything of a workspace lies below its
// workspaceId, which is new at each creation.
//
//	<workspace>/uploads/<name of the upload>/<path>
//	<workspace>/jobs/<uid>/outputs/<name>/<node>/<pod>/<path>
//	<workspace>/jobs/<uid>/logs/<node>/<attempt>~<pod>
//	<workspace>/models/<uid>/<path>
const (
	inUploads = "uploads"
	inJobs    = "jobs"
	inModels  = "models"
)

// urlLife is how long a signed URL is good for.
const urlLife = 15 * time.Minute

// Forms of URIs: what was uploaded from somebody's machine, as az writes it, and
// what a job wrote.
const (
	uploadURI = "azureml://datastores/workspaceblobstore/paths/LocalUpload/"
	jobsURI   = "azureml://jobs/"
)

// noStore says what works without one.
func noStore(property string) error {
	e := arm.Errorf(trust.Conflict, "WorkspaceStorageNotConfigured", "No store is configured for workspaces, so nothing can be read or kept for '%s'. Without one, volume claims work: one in the compute's namespace with the label ml.azure.com/pvc=true and the annotation ml.azure.com/mountpath is mounted in jobs.", property)
	e.Target, e.Hint = property, "have the server's operator set 'storage' in sallyportd's configuration"
	return e
}

// place is where bytes lie that something reads. Of several layers, which are the
// nodes of a job, the first one that has a file counts.
type place struct {
	Layers []string `json:"layers"`         // prefixes, each ending with a slash
	File   string   `json:"file,omitempty"` // of a single file: its path below the layers
}

// found is a file of a place.
type found struct {
	path, key string
	size      int64
}

// storagePrefix is where everything of a workspace lies.
func storagePrefix(w *store.Source) (string, error) {
	var p struct{ WorkspaceID string }
	if json.Unmarshal(w.Properties, &p) != nil || len(p.WorkspaceID) != 36 {
		return "", trust.Errorf(trust.Internal, "the workspace %s has no workspaceId", w.ID)
	}
	return p.WorkspaceID + "/", nil
}

func (k *call) prefix() (string, error) { return storagePrefix(&k.workspace.Value) }

// within is a place's file or folder below it, which must be there.
func (m *ML) within(ctx context.Context, p place, path string) (place, error) {
	path = strings.Trim(path, "/")
	if path == "" {
		return p, nil
	}
	if err := bucket.ValidKey(path); err != nil {
		return p, err
	}
	var below place
	for _, layer := range p.Layers {
		all, _, err := m.Storage.List(ctx, layer+path, "", 1)
		if err != nil {
			return p, err
		}
		if len(all) == 1 && all[0].Key == layer+path {
			at := layer + path
			i := strings.LastIndexByte(at, '/')
			return place{Layers: []string{at[:i+1]}, File: at[i+1:]}, nil
		}
		if all, _, err = m.Storage.List(ctx, layer+path+"/", "", 1); err != nil {
			return p, err
		}
		if len(all) > 0 {
			below.Layers = append(below.Layers, layer+path+"/")
		}
	}
	if len(below.Layers) == 0 {
		return p, trust.Errorf(trust.NotFound, "there is no file or folder %q", path)
	}
	return below, nil
}

// layersAtOnce is how many layers are listed at once.
const layersAtOnce = 16

// files lists a page of a place, by path. Each layer is asked for one page.
func (m *ML) files(ctx context.Context, p place, after string, limit int) (page []found, next string, err error) {
	if p.File != "" {
		all, _, err := m.Storage.List(ctx, p.Layers[0]+p.File, "", 1)
		if err != nil || len(all) == 0 || all[0].Key != p.Layers[0]+p.File || after != "" {
			return nil, "", err
		}
		return []found{{p.File, all[0].Key, all[0].Size}}, "", nil
	}
	more := false
	for some := range slices.Chunk(p.Layers, layersAtOnce) {
		group, ctx := errgroup.WithContext(ctx)
		pages, cut := make([][]found, len(some)), make([]bool, len(some))
		for i, layer := range some {
			group.Go(func() (err error) {
				pages[i], cut[i], err = m.layer(ctx, layer, after, limit)
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return nil, "", err
		}
		for i := range some {
			// What a page of a layer leaves out comes after all that is on it, and so
			// after the first limit of all layers.
			page = union(page, pages[i])
			more = more || cut[i] || len(page) > limit
			page = page[:min(len(page), limit)]
		}
	}
	if more && len(page) > 0 {
		next = page[len(page)-1].path
	}
	return page, next, nil
}

func (m *ML) layer(ctx context.Context, layer, after string, limit int) (page []found, more bool, err error) {
	if after != "" {
		after = layer + after
	}
	all, next, err := m.Storage.List(ctx, layer, after, limit)
	for _, o := range all {
		page = append(page, found{strings.TrimPrefix(o.Key, layer), o.Key, o.Size})
	}
	return page, next != "", err
}

// union are the files of two lists by path; of two of one path that of the
// first.
func union(a, b []found) []found {
	out := make([]found, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch c := strings.Compare(a[0].path, b[0].path); {
		case c < 0:
			out, a = append(out, a[0]), a[1:]
		case c > 0:
			out, b = append(out, b[0]), b[1:]
		default:
			out, a, b = append(out, a[0]), a[1:], b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// signed adds URLs to read files by.
func (m *ML) signed(ctx context.Context, all []found) ([]wire.SignedFile, error) {
	out := make([]wire.SignedFile, 0, len(all))
	for _, f := range all {
		u, err := m.Storage.Get(ctx, f.key, urlLife)
		if err != nil {
			return nil, err
		}
		out = append(out, wire.SignedFile{File: wire.File{Path: f.path, Size: f.size}, URL: u})
	}
	return out, nil
}

// isHash tells whether an upload may have that name.
func isHash(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == sha256.Size
}

// uploadHash is what the content of an upload is known by: the hash of its files,
// in the order of their paths.
func uploadHash(files []wire.File) string {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b wire.File) int { return strings.Compare(a.Path, b.Path) })
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%s %d %s\n", f.SHA256, f.Size, strconv.Quote(f.Path))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// resolve finds what a URI or the id of an asset names, within the workspace.
// property is for messages.
func (k *call) resolve(property, uri string) (place, error) {
	if k.Storage == nil {
		return place{}, noStore(property)
	}
	bad := func(format string, args ...any) error { return arm.BadParameter(property, format, args...) }
	prefix, err := k.prefix()
	if err != nil {
		return place{}, err
	}
	var p place
	rest := ""
	switch {
	case strings.HasPrefix(uri, uploadURI):
		name, path, _ := strings.Cut(strings.TrimPrefix(uri, uploadURI), "/")
		if !isHash(name) {
			return p, bad("'%.200s' names no upload", uri)
		}
		if err := k.held(name); trust.KindOf(err) == trust.NotFound {
			return p, bad("'%.200s' has no files here: they were never uploaded, or deleted since nothing named them. Upload them again", uri)
		} else if err != nil {
			return p, err
		}
		p, rest = place{Layers: []string{prefix + inUploads + "/" + name + "/"}}, path
	case strings.HasPrefix(uri, jobsURI):
		name, tail, _ := strings.Cut(strings.TrimPrefix(uri, jobsURI), "/")
		output, path, _ := strings.Cut(strings.TrimPrefix(tail, "outputs/"), "/")
		if p, err = k.jobOutput(property, name, output); err != nil {
			return p, err
		}
		rest = strings.TrimPrefix(strings.TrimPrefix(path, "paths"), "/")
	case strings.HasPrefix(uri, "/"):
		return k.asset(property, uri)
	default:
		return p, bad("'%.200s' cannot be read: name an upload, an asset of this workspace, or %s<job>/outputs/<name>/paths/<path>", uri, jobsURI)
	}
	if p, err = k.within(k.ctx, p, rest); trust.KindOf(err) == trust.NotFound || trust.KindOf(err) == trust.Invalid {
		return p, bad("'%.300s': there is nothing at this path", uri)
	}
	if err != nil {
		return p, err
	}
	if all, _, err := k.files(k.ctx, p, "", 1); err != nil {
		return p, err
	} else if len(all) == 0 {
		return p, bad("'%.300s' has no files", uri)
	}
	return p, nil
}

// jobOutput is what a job of the workspace wrote as one of its outputs: by each
// node, in its last attempt.
func (k *call) jobOutput(property, name, output string) (place, error) {
	id := k.workspace.Value.ID + "/" + jobs + "/" + name
	parsed, err := arm.ParseID(id)
	if err != nil {
		return place{}, arm.BadParameter(property, "'%.100s' is not a job's name", name)
	}
	item, err := k.at(parsed)
	if trust.KindOf(err) == trust.NotFound {
		return place{}, arm.BadParameter(property, "there is no job '%.100s' in this workspace", name)
	}
	if err != nil {
		return place{}, err
	}
	j, err := readJob(&item.Value)
	if err != nil {
		return place{}, err
	}
	k.rely(&item)
	if j.Swept {
		return place{}, arm.BadParameter(property, "what the job '%.100s' wrote was deleted: it is kept for %s after its end", name, k.Retention)
	}
	if _, there := j.Writes[output]; !there {
		return place{}, arm.BadParameter(property, "the job '%.100s' has no output '%.100s'", name, output)
	}
	prefix, err := k.prefix()
	if err != nil {
		return place{}, err
	}
	return outputPlace(prefix, &j, output), nil
}

func outputPlace(prefix string, j *jobPrivate, output string) place {
	nodes := slices.Clone(j.Status.Nodes)
	slices.SortFunc(nodes, func(a, b wire.Node) int { return a.Index - b.Index })
	p := place{}
	for _, n := range nodes {
		p.Layers = append(p.Layers, fmt.Sprintf("%s%s/%s/outputs/%s/%d/%s/", prefix, inJobs, j.Job.UID, output, n.Index, n.Pod))
	}
	return p
}
