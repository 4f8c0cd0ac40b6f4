package ml

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/bucket"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Assets are bytes by a name and a version, which never changes: code that jobs
// run, data that they read, models that they made.
const (
	codes  = "codes"
	data   = "data"
	models = "models"
)

// Bounds of an upload. Azure's of code are 300 MB and 2,000 files; a whole upload
// is described in one request.
const maxUploadFiles = 2000

// assetBody are the properties of an asset's version that mean something here.
type assetBody struct {
	CodeURI, DataURI, ModelURI string
	DataType, ModelType        string
	IsArchived                 bool
}

// assetPrivate is what ml keeps with an asset's version.
type assetPrivate struct {
	Place place
}

// uri of the body, and the property that it is.
func (b *assetBody) uri(typ string) (property, uri string) {
	switch typ {
	case codes:
		return "properties.codeUri", b.CodeURI
	case data:
		return "properties.dataUri", b.DataURI
	}
	return "properties.modelUri", b.ModelURI
}

// assetType is the type of the asset that a version's call is about.
func (k *call) assetType() string {
	typ, _, _ := strings.Cut(k.kind, "/")
	return typ
}

// putAsset makes a version of an asset, or changes its description and tags.
func (k *call) putAsset() (*arm.Answer, error) {
	b, err := k.decode()
	if err != nil {
		return nil, err
	}
	container, typ := k.ID.Parent(), k.assetType()
	for _, n := range []string{container.Name(), k.ID.Name()} {
		if !assetName.MatchString(n) {
			return nil, arm.BadParameter("name", "'%.100s' must have 1 to 255 letters, digits, '_', '-' and '.'", n)
		}
	}
	var a assetBody
	if err := json.Unmarshal(b.Properties, &a); err != nil {
		return nil, arm.BadParameter("properties", "a member has the wrong type")
	}
	property, uri := a.uri(typ)
	old, write, err := k.old()
	if err != nil {
		return nil, err
	}
	status, copied := http.StatusCreated, place{}
	r := k.record(old, b)
	if old.Revision != 0 {
		var was assetBody
		if err := json.Unmarshal(old.Value.Properties, &was); err != nil {
			return nil, trust.Errorf(trust.Internal, "a stored asset cannot be read").Because(err)
		}
		if _, before := was.uri(typ); before != uri {
			return nil, arm.Errorf(trust.Conflict, arm.Conflict, "Version %s of '%s' names %s and cannot name anything else. Make a new version.", k.ID.Name(), container.Name(), before)
		}
		status = http.StatusOK
	} else if copied, err = k.fillAsset(&r, typ, &a, property, uri); err != nil {
		return nil, err
	}
	r.State = arm.Succeeded
	ops, err := k.containerOf(container, typ)
	if err != nil {
		return nil, err
	}
	if err := k.commit(append(ops, write(r))...); err != nil {
		if errors.Is(err, store.ErrConflict) && len(copied.Layers) > 0 { // nothing was stored
			k.dropCopy(copied)
		}
		return nil, err
	}
	return k.shown(status, &store.Item[store.Provided]{Value: r})
}

// fillAsset finds a new version's bytes. A model of a job's output gets a copy of
// its own, which is returned: jobs are deleted, models stay.
func (k *call) fillAsset(r *store.Provided, typ string, a *assetBody, property, uri string) (copied place, err error) {
	if err := assetKind(typ, a); err != nil {
		return copied, err
	}
	if uri == "" {
		return copied, arm.BadParameter(property, "it is missing")
	}
	p, err := k.resolve(property, uri)
	if err != nil {
		return copied, err
	}
	private := assetPrivate{Place: p}
	if typ == models && strings.HasPrefix(uri, jobsURI) {
		k.relied = nil // what is copied may go, and the job's state may change
		if private, err = k.copyModel(r.UID, p); err != nil {
			return copied, err
		}
		copied = private.Place
	}
	r.Private, err = json.Marshal(private)
	return copied, err
}

func assetKind(typ string, a *assetBody) error {
	switch typ {
	case data:
		switch trust.Fold(a.DataType) {
		case "uri_file", "uri_folder":
			return nil
		}
		return arm.BadParameter("properties.dataType", "'%.40s' is not supported; uri_file and uri_folder are", a.DataType)
	case models:
		switch trust.Fold(a.ModelType) {
		case "", "custom_model", "mlflow_model", "triton_model":
			return nil
		}
		return arm.BadParameter("properties.modelType", "'%.40s' is not supported; custom_model, mlflow_model and triton_model are", a.ModelType)
	}
	return nil
}

// maxCopy bounds a model's files; copying is how many are copied at once.
const (
	maxCopy = 2000
	copying = 16
)

// copyModel copies in the store. What it leaves when it fails is taken away.
func (k *call) copyModel(uid string, from place) (assetPrivate, error) {
	prefix, err := k.prefix()
	if err != nil {
		return assetPrivate{}, err
	}
	to := place{Layers: []string{prefix + inModels + "/" + uid + "/"}, File: from.File}
	if err := k.copyAll(from, to.Layers[0]); err != nil {
		k.dropCopy(to)
		return assetPrivate{}, err
	}
	return assetPrivate{Place: to}, nil
}

func (k *call) copyAll(from place, to string) error {
	group, ctx := errgroup.WithContext(k.ctx)
	group.SetLimit(copying)
	n := 0
	for after := ""; ; {
		page, next, err := k.files(ctx, from, after, wire.MaxFiles)
		if n += len(page); err == nil && n > maxCopy {
			err = arm.BadParameter("properties.modelUri", "it has more than %d files", maxCopy)
		}
		if err != nil {
			return cmp.Or(group.Wait(), err) // a copy that failed ends the listing
		}
		for _, f := range page {
			group.Go(func() error { return k.Storage.Copy(ctx, f.key, to+f.path) })
		}
		if after = next; next == "" {
			return group.Wait()
		}
	}
}

// dropWithin is how long a request waits for the deletion of what it has copied
// in vain; the sweep deletes the rest.
const dropWithin = 30 * time.Second

func (k *call) dropCopy(p place) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(k.ctx), dropWithin)
	defer cancel()
	if err := k.Storage.Delete(ctx, p.Layers[0]); err != nil {
		k.Log.WarnContext(ctx, "a copy that is not used not deleted yet", "prefix", p.Layers[0], "error", err)
	}
}

// containerOf are the changes that make an asset's name exist.
func (k *call) containerOf(container arm.ID, typ string) ([]store.Op, error) {
	parent, err := store.Get[store.Provided](k.ctx, k.Store, store.ProvidedKey(container.String()))
	if err != nil && trust.KindOf(err) != trust.NotFound {
		return nil, err
	}
	if parent.Value.Parent == k.workspace.Created && parent.Revision != 0 {
		return []store.Op{store.Guard(parent.Value.Key(), parent.Revision)}, nil
	}
	// None, or one of an earlier workspace.
	made := store.Provided{ID: container.String(), Type: Namespace + "/" + Tracked + "/" + typ, UID: uuid.NewString(), Parent: k.workspace.Created,
		Properties: json.RawMessage(`{"isArchived":false}`), State: arm.Succeeded, Stamp: store.Stamp{}.Touched(&k.Caller, k.Now())}
	if parent.Revision == 0 {
		return []store.Op{store.Create(made)}, nil
	}
	return []store.Op{store.Update(made, parent.Revision)}, nil
}

// asset finds the bytes of an asset's version by its id.
func (k *call) asset(property, ref string) (place, error) {
	bad := func(format string, args ...any) error { return arm.BadParameter(property, format, args...) }
	id, err := arm.ParseID(ref)
	if err != nil {
		return place{}, bad("'%.300s' is not a resource id", ref)
	}
	known := false
	for _, typ := range []string{codes, data, models} {
		known = known || arm.SameID(id.Type(), Namespace+"/"+Tracked+"/"+typ+"/"+versions)
	}
	if !known || workspaceOf(ref) != trust.Fold(k.workspace.Value.ID) {
		return place{}, bad("'%.300s' is not the version of a code, a data or a model of this workspace", ref)
	}
	item, err := k.at(id)
	if trust.KindOf(err) == trust.NotFound {
		return place{}, bad("version %s of '%s' does not exist", id.Name(), id.Parent().Name())
	}
	if err != nil {
		return place{}, err
	}
	k.rely(&item)
	var p assetPrivate
	if err := json.Unmarshal(item.Value.Private, &p); err != nil {
		return place{}, trust.Errorf(trust.Internal, "a stored asset cannot be read").Because(err)
	}
	return p.Place, nil
}

// uploadBody describes what somebody is about to upload.
type uploadBody struct {
	PendingUploadType string
	Files             []wire.File
}

// startUpload signs URLs for what is not there yet of an upload, and says what
// the whole is called.
func (k *call) startUpload() (*arm.Answer, error) {
	if k.Storage == nil {
		return nil, noStore("files")
	}
	var b uploadBody
	if err := arm.Decode(k.Body, &b); err != nil {
		return nil, err
	}
	prefix, err := k.prefix()
	if err != nil {
		return nil, err
	}
	if len(b.Files) == 0 || len(b.Files) > maxUploadFiles {
		return nil, arm.BadParameter("files", "an upload has 1 to %d files, each with path, size and sha256", maxUploadFiles)
	}
	for _, f := range b.Files {
		if f.SHA256 == "" || path.Clean(f.Path) != f.Path {
			return nil, arm.BadParameter("files", "'%.200s' needs a plain path and a sha256", f.Path)
		}
		if f.Size > wire.MaxFileSize {
			return nil, arm.BadParameter("files", "'%.200s' has %d bytes: a file has at most 5 GiB (%d bytes). Split it", f.Path, f.Size, int64(wire.MaxFileSize))
		}
	}
	name, err := k.holdUpload(uploadHash(b.Files))
	if err != nil {
		return nil, err
	}
	at := prefix + inUploads + "/" + name + "/"
	have := map[string]int64{}
	for after := ""; ; {
		all, next, err := k.Storage.List(k.ctx, at, after, 1000)
		if err != nil {
			return nil, err
		}
		for _, o := range all {
			have[strings.TrimPrefix(o.Key, at)] = o.Size
		}
		if after = next; next == "" {
			break
		}
	}
	out := []wire.SignedFile{}
	for _, f := range b.Files {
		if size, there := have[f.Path]; there && size == f.Size {
			continue // its hash was checked when it was written
		}
		u, header, err := k.Storage.Put(k.ctx, at+f.Path, bucket.Upload{Size: f.Size, SHA256: f.SHA256}, urlLife)
		if err != nil {
			return nil, err
		}
		out = append(out, wire.SignedFile{File: f, URL: u, Header: header})
	}
	return &arm.Answer{Status: http.StatusOK, Body: map[string]any{"pendingUploadId": name, "uri": uploadURI + name, "files": out, "trust": k.Storage.CA}}, nil
}

// filesBody asks for a page of files.
type filesBody struct {
	Output string // of a job
	After  string
}

// getFiles signs URLs to read an asset's version, or a job's output.
func (k *call) getFiles() (*arm.Answer, error) {
	if k.Storage == nil {
		return nil, noStore("files")
	}
	item, err := k.find()
	if err != nil {
		return nil, err
	}
	var b filesBody
	if len(k.Body) > 0 {
		if err := arm.Decode(k.Body, &b); err != nil {
			return nil, err
		}
	}
	var p place
	if k.is(jobs) {
		p, err = k.jobOutput("output", k.ID.Name(), b.Output)
	} else {
		p, err = k.asset("id", item.Value.ID)
	}
	if err != nil {
		return nil, err
	}
	page, next, err := k.files(k.ctx, p, b.After, wire.MaxFiles)
	if err != nil {
		return nil, err
	}
	signed, err := k.signed(k.ctx, page)
	return &arm.Answer{Status: http.StatusOK, Body: map[string]any{"files": signed, "next": next, "trust": k.Storage.CA}}, err
}
