package ml

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sallyport/sallyport/bucket"
	"github.com/sallyport/sallyport/bucket/folder"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// stored is a world with a store of ours, on real TLS.
type stored struct {
	*world
	hc *http.Client
	// beside, if set, is called before (when is "before") and after each request to
	// the store.
	beside atomic.Pointer[func(when string, r *http.Request)]
}

func newStored(t *testing.T) *stored {
	t.Helper()
	s, err := folder.New(folder.Config{Dir: t.TempDir(), Bucket: "b", Region: "r", AccessKeyID: "k", SecretKey: "s", Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	made := &stored{}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := made.beside.Load(); f != nil {
			(*f)("before", r)
			defer (*f)("after", r)
		}
		s.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	b, err := bucket.Open(bucket.Config{Endpoint: server.URL, Region: "r", Bucket: "b", PathStyle: true, AccessKeyID: "k", SecretKey: "s", CA: string(ca)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	made.world, made.hc = newWorldWith(t, b).scene(), server.Client()
	return made
}

func (s *stored) send(method string, f wire.SignedFile, body string) string {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, f.URL, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for k, v := range f.Header {
		req.Header.Set(k, v)
	}
	res, err := s.hc.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		s.t.Fatalf("%s %s: %s %s %v", method, f.Path, res.Status, got, err)
	}
	return string(got)
}

func described(path, content string) wire.File {
	sum := sha256.Sum256([]byte(content))
	return wire.File{Path: path, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}
}

// files of an answer of ARM.
func (s *stored) files(r *reply) (all []wire.SignedFile) {
	s.t.Helper()
	raw, err := json.Marshal(r.body["files"])
	if err != nil || json.Unmarshal(raw, &all) != nil {
		s.t.Fatalf("files %s: %v", raw, err)
	}
	return all
}

// upload does what the command line does.
func (s *stored) upload(at string, contents map[string]string) string {
	s.t.Helper()
	var all []wire.File
	for path, content := range contents {
		all = append(all, described(path, content))
	}
	r := s.must(200, "POST", at+"/startPendingUpload", map[string]any{"files": all})
	for _, f := range s.files(r) {
		s.send(http.MethodPut, f, contents[f.Path])
	}
	if again := s.must(200, "POST", at+"/startPendingUpload", map[string]any{"files": all}); len(s.files(again)) != 0 || again.at("uri") != r.at("uri") {
		s.t.Errorf("uploaded once more: %v", again.body)
	}
	return r.at("uri").(string)
}

// ask is what a pod gets through the extension.
func (s *stored) ask(a wire.Ask) wire.Answer {
	s.t.Helper()
	a.ID = uuid.NewString()
	s.mu.Lock()
	s.asks = append(s.asks, a)
	s.wake()
	s.mu.Unlock()
	var got wire.Answer
	s.until("the pod is answered", func() bool {
		return s.locked(func() (there bool) { got, there = s.answers[a.ID]; return there })
	})
	return got
}

func TestAJobsBytes(t *testing.T) {
	s := newStored(t)
	code := s.upload(workspace+"/codes/new/versions/1", map[string]string{"train.py": "print(1)", "lib/a.py": "pass"})
	data := s.upload(workspace+"/data/points/versions/1", map[string]string{"points.csv": "1,2\n"})
	s.must(201, "PUT", workspace+"/codes/c/versions/1", props("codeUri", code))
	s.must(201, "PUT", workspace+"/data/points/versions/1", props("dataUri", data+"/points.csv", "dataType", "uri_file"))
	if r := s.call("PUT", workspace+"/data/points/versions/1", props("dataUri", code, "dataType", "uri_file")); trust.KindOf(r.err) != trust.Conflict {
		t.Errorf("a version was changed: %v", r.err)
	}
	job := workspace + "/jobs/j"
	s.must(201, "PUT", job, command("codeId", workspace+"/codes/c/versions/1",
		"command", "python train.py ${{inputs.data}} $[[--rate ${{inputs.rate}}]] $[[--x ${{inputs.none}}]] --out ${{outputs.model}}",
		"inputs", map[string]any{"data": map[string]any{"jobInputType": "uri_file", "uri": workspace + "/data/points/versions/1"}, "rate": map[string]any{"jobInputType": "literal", "value": "0.1"}},
		"outputs", map[string]any{"model": map[string]any{"jobOutputType": "uri_folder"}}))
	p := s.privateOf(job)
	if want := "python train.py /mnt/azureml/inputs/data/points.csv --rate 0.1  --out /mnt/azureml/outputs/model"; p.Job.Command != want || p.Job.WorkDir != codePath {
		t.Errorf("command %q in %q", p.Job.Command, p.Job.WorkDir)
	}
	var mounts []string
	for _, m := range p.Job.Mounts {
		mounts = append(mounts, fmt.Sprint(m.Name, m.Way, m.Writable, m.Live))
	}
	if diff := cmp.Diff([]string{"code read true false", "inputs.data read false false", "outputs.model write false true"}, spaced(mounts)); diff != "" {
		t.Error(diff)
	}
	if p.Job.Environment["AZURE_ML_INPUT_data"] != "/mnt/azureml/inputs/data/points.csv" {
		t.Errorf("environment %v", p.Job.Environment)
	}

	ask := wire.Ask{Job: p.Job.UID, Resource: "jobs/j", Pod: "j-0-abc", Mount: "code"}
	got := map[string]string{}
	for _, f := range s.ask(ask).Files {
		got[f.Path] = s.send(http.MethodGet, f, "")
	}
	if diff := cmp.Diff(map[string]string{"train.py": "print(1)", "lib/a.py": "pass"}, got); diff != "" {
		t.Error(diff)
	}
	ask.Mount = "inputs.data"
	if a := s.ask(ask); len(a.Files) != 1 || s.send(http.MethodGet, a.Files[0], "") != "1,2\n" {
		t.Errorf("input %+v", a)
	}
	s.refusesPods(ask)

	// Two nodes write; the first one's file of a name counts, and a later attempt
	// hides the earlier one and does not replace it.
	keep := func(node int, pod, path, content string) {
		t.Helper()
		a := s.ask(wire.Ask{Job: p.Job.UID, Resource: "jobs/j", Node: node, Pod: pod, Mount: "outputs.model", Files: []wire.File{described(path, content)}})
		if len(a.Files) != 1 {
			t.Fatalf("answer %+v", a.Error)
		}
		s.send(http.MethodPut, a.Files[0], content)
	}
	keep(0, "first", "model.json", "attempt 0")
	keep(0, "second", "model.json", "attempt 1")
	keep(1, "other", "model.json", "of node 1")
	keep(1, "other", "more.txt", "only there")
	code0 := int32(0)
	s.tell(p.Job.UID, wire.Status{State: wire.Completed, Ended: time.Now(), Metrics: map[string]float64{"loss": 0.25},
		Nodes: []wire.Node{{Index: 1, Pod: "other", ExitCode: &code0}, {Index: 0, Attempt: 1, Pod: "second", ExitCode: &code0}}})
	if r := s.becomes(job, "properties.status", wire.Completed); r.at("properties.properties").(map[string]any)["metrics.loss"] != "0.25" {
		t.Errorf("metrics %v", r.at("properties.properties"))
	}
	got = map[string]string{}
	for _, f := range s.files(s.must(200, "POST", job+"/getFiles", map[string]any{"output": "model"})) {
		got[f.Path] = s.send(http.MethodGet, f, "")
	}
	if diff := cmp.Diff(map[string]string{"model.json": "attempt 1", "more.txt": "only there"}, got); diff != "" {
		t.Error(diff)
	}
	if r := s.call("POST", job+"/getFiles", map[string]any{"output": "none"}); r.err == nil {
		t.Error("an output that does not exist was listed")
	}
	s.models(job)
}

// spaced puts blanks between what Sprint ran together.
func spaced(all []string) []string {
	for i, s := range all {
		for _, w := range []string{"read", "write", "true", "false"} {
			s = strings.ReplaceAll(s, w, " "+w)
		}
		all[i] = strings.Join(strings.Fields(s), " ")
	}
	return all
}

// refusesPods: a pod gets nothing of what it does not run for.
func (s *stored) refusesPods(good wire.Ask) {
	s.t.Helper()
	for what, change := range map[string]func(*wire.Ask){
		"another uid":        func(a *wire.Ask) { a.Job = uuid.NewString() },
		"no uid":             func(a *wire.Ask) { a.Job = "" },
		"another job":        func(a *wire.Ask) { a.Resource = "jobs/none" },
		"another kind":       func(a *wire.Ask) { a.Resource = "models/m/versions/1" },
		"out of the place":   func(a *wire.Ask) { a.Resource = "../../workspaces/other/jobs/j" },
		"a mount it has not": func(a *wire.Ask) { a.Mount = "inputs.other" },
		"writing an input":   func(a *wire.Ask) { a.Mount, a.Files = "outputs.data", []wire.File{described("x", "x")} },
		"a path upwards": func(a *wire.Ask) {
			a.Mount, a.Files = "outputs.model", []wire.File{described("../../../../models/x", "x")}
		},
	} {
		a := good
		change(&a)
		if got := s.ask(a); got.Error == nil || len(got.Files) != 0 {
			s.t.Errorf("%s: %+v", what, got)
		}
	}
	// Of another cluster that the workspace is bound to, too.
	w, err := store.Get[store.Source](s.t.Context(), s.st, store.ResourceKey(workspace))
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.ml.answer(s.t.Context(), &w, clusterID+"2", good); trust.KindOf(err) != trust.NotFound {
		s.t.Errorf("from another cluster: %v", err)
	}
}

// models are copies: they stay when the job goes.
func (s *stored) models(job string) {
	t := s.t
	for _, version := range []string{"1", "2"} {
		uri := map[string]string{"1": "azureml://jobs/j/outputs/model/paths/model.json", "2": "azureml://jobs/j/outputs/model"}[version]
		s.must(201, "PUT", workspace+"/models/m/versions/"+version, props("modelUri", uri, "modelType", "custom_model"))
	}
	if r := s.must(200, "GET", workspace+"/models/m", nil); r.at("properties.latestVersion") != "2" || r.at("properties.nextVersion") != "3" {
		t.Errorf("container %v", r.body)
	}
	for uri, says := range map[string]string{
		"azureml://jobs/j/outputs/model/paths/none": "nothing at this path", "azureml://jobs/other/outputs/model": "no job", "azureml://jobs/j/outputs/none": "no output",
		"https://example.com/x": "cannot be read", uploadURI + "00": "names no upload", "azureml://jobs/j/outputs/model/paths/../../x": "nothing at this path",
		uploadURI + strings.Repeat("0", 64): "no files",
	} {
		if r := s.call("PUT", workspace+"/models/bad/versions/1", props("modelUri", uri)); r.err == nil || !strings.Contains(r.err.Error(), says) {
			t.Errorf("%s: %v", uri, r.err)
		}
	}
	s.end(s.must(202, "DELETE", job, nil))
	if err := s.ml.sweep(t.Context(), time.Now().Add(2*sweepGrace), 0); err != nil {
		t.Fatal(err)
	}
	var kinds []string
	units, err := s.ml.units(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for u := range units {
		kinds = append(kinds, strings.Split(u, "/")[1])
	}
	slices.Sort(kinds)
	if diff := cmp.Diff([]string{inModels, inModels, inUploads, inUploads}, kinds); diff != "" {
		t.Error(diff)
	}
	files := s.files(s.must(200, "POST", workspace+"/models/m/versions/1/getFiles", map[string]any{}))
	if len(files) != 1 || files[0].Path != "model.json" || s.send(http.MethodGet, files[0], "") != "attempt 1" {
		t.Errorf("model %+v", files)
	}
}

func TestSweep(t *testing.T) {
	s := newStored(t)
	ctx := t.Context()
	data := s.upload(workspace+"/data/d/versions/1", map[string]string{"kept": "x"})
	s.must(201, "PUT", workspace+"/data/d/versions/1", props("dataUri", data, "dataType", "uri_folder"))
	s.upload(workspace+"/data/d/versions/2", map[string]string{"forgotten": "y"})
	s.must(201, "PUT", workspace+"/jobs/j", command("outputs", map[string]any{"o": map[string]any{}}))
	p := s.privateOf(workspace + "/jobs/j")
	f := s.ask(wire.Ask{Job: p.Job.UID, Resource: "jobs/j", Pod: "pod", Mount: "outputs.o", Files: []wire.File{described("out", "z")}}).Files[0]
	s.send(http.MethodPut, f, "z")
	stray, _, err := s.ml.Storage.Put(ctx, uuid.NewString()+"/jobs/"+uuid.NewString()+"/outputs/x", bucket.Upload{Size: 1}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	s.send(http.MethodPut, wire.SignedFile{URL: stray}, "s")
	// The bucket holds what is others', too.
	for _, key := range []string{"team/data/2024/others", uuid.NewString() + "/photos/2024/others", uuid.NewString() + "/jobs/2024/others", uuid.NewString() + "/uploads/july/others"} {
		url, _, err := s.ml.Storage.Put(ctx, key, bucket.Upload{Size: 1}, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		s.send(http.MethodPut, wire.SignedFile{URL: url}, "o")
	}
	keys := func() (all []string) {
		objects, _, err := s.ml.Storage.List(context.WithoutCancel(ctx), "", "", 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects {
			all = append(all, o.Key[strings.LastIndexByte(o.Key, '/')+1:])
		}
		slices.Sort(all)
		n := len(all)
		if all = slices.DeleteFunc(all, func(k string) bool { return k == "others" }); n-len(all) != 4 {
			t.Errorf("%d of what is others' is there", n-len(all))
		}
		return all
	}
	const retention = 48 * time.Hour
	sweep := func(after time.Duration, want ...string) {
		t.Helper()
		if err := s.ml.sweep(ctx, time.Now().Add(after), retention); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, keys()); diff != "" {
			t.Error(diff)
		}
	}
	sweep(0, "forgotten", "kept", "out", "x") // all of it is young
	sweep(sweepGrace+time.Minute, "kept", "out")
	s.tell(p.Job.UID, wire.Status{State: wire.Completed, Ended: time.Now()})
	s.becomes(workspace+"/jobs/j", "properties.status", wire.Completed)
	sweep(sweepGrace+time.Minute, "kept", "out")
	sweep(retention+time.Minute, "kept")
	if bytes.Contains([]byte(f.URL), []byte("Secret")) {
		t.Error("a URL holds the key")
	}
}

// What somebody has just been told is there, and what has just been named, is not
// swept, whenever between the sweep's steps it happens.
func TestWhatIsPromisedIsNotSwept(t *testing.T) {
	const later = sweepGrace + time.Hour
	contents := map[string]string{"a.txt": "of old", "b.txt": "as well"}
	var all []wire.File
	for path, content := range contents {
		all = append(all, described(path, content))
	}
	version := workspace + "/data/d/versions/1"
	begin := func(s *stored) *reply {
		return s.call("POST", version+"/startPendingUpload", map[string]any{"files": all})
	}
	name := func(s *stored, uri string) *reply {
		return s.call("PUT", version, props("dataUri", uri, "dataType", "uri_folder"))
	}
	for what, c := range map[string]struct {
		when, method string
		do           func(s *stored, uri string) string // what is named in the end
	}{
		"told again, when the sweep has listed what is old": {"after", http.MethodGet, func(s *stored, uri string) string {
			r := begin(s)
			if r.err != nil || len(s.files(r)) != 0 || r.at("uri") != uri {
				s.t.Errorf("the upload is not used again: %v %v", r.err, r.body)
			}
			return uri
		}},
		"named, when the sweep has listed what is old": {"after", http.MethodGet, func(s *stored, uri string) string {
			if r := name(s, uri); r.err != nil {
				s.t.Errorf("not named: %v", r.err)
			}
			return uri
		}},
		"begun again while it is deleted": {"before", http.MethodDelete, func(s *stored, uri string) string {
			if r := name(s, uri); trust.KindOf(r.err) != trust.Invalid {
				s.t.Errorf("what is being deleted was named: %v", r.err)
			}
			r := begin(s)
			if r.err != nil || len(s.files(r)) != len(all) {
				s.t.Fatalf("what is being deleted is said to be there: %v %v", r.err, r.body)
			}
			for _, f := range s.files(r) {
				s.send(http.MethodPut, f, contents[f.Path])
			}
			return r.at("uri").(string)
		}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := newStored(t)
			uri := s.upload(version, contents)
			s.ahead.Store(int64(later))
			var once sync.Once
			beside := func(when string, r *http.Request) {
				if when == c.when && r.Method == c.method {
					once.Do(func() {
						s.beside.Store(nil)
						uri = c.do(s, uri)
					})
				}
			}
			s.beside.Store(&beside)
			if err := s.ml.sweep(t.Context(), time.Now().Add(later), 0); err != nil {
				t.Fatal(err)
			}
			if s.beside.Load() != nil {
				t.Fatal("the sweep never came by")
			}
			if r := name(s, uri); r.err != nil {
				t.Fatalf("not named: %v", r.err)
			}
			got := map[string]string{}
			for _, f := range s.files(s.must(200, "POST", version+"/getFiles", map[string]any{})) {
				got[f.Path] = s.send(http.MethodGet, f, "")
			}
			if diff := cmp.Diff(contents, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What a job wrote goes after the retention, unless it was named in time; then
// nobody can name it any more.
func TestAJobsOutputThatIsNamedIsNotSwept(t *testing.T) {
	for name, inTime := range map[string]bool{"named in time": true, "named too late": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStored(t)
			job, version := workspace+"/jobs/j", workspace+"/data/d/versions/1"
			s.must(201, "PUT", job, command("outputs", map[string]any{"o": map[string]any{}}))
			p := s.privateOf(job)
			f := s.ask(wire.Ask{Job: p.Job.UID, Resource: "jobs/j", Pod: "pod", Mount: "outputs.o", Files: []wire.File{described("out", "z")}}).Files[0]
			s.send(http.MethodPut, f, "z")
			s.tell(p.Job.UID, wire.Status{State: wire.Completed, Ended: time.Now(), Nodes: []wire.Node{{Pod: "pod"}}})
			s.becomes(job, "properties.status", wire.Completed)
			keep := func() *reply {
				return s.call("PUT", version, props("dataUri", "azureml://jobs/j/outputs/o", "dataType", "uri_folder"))
			}
			var once sync.Once
			beside := func(when string, r *http.Request) {
				if inTime && when == "after" || !inTime && when == "before" && r.Method == http.MethodDelete {
					once.Do(func() {
						s.beside.Store(nil)
						if r := keep(); inTime != (r.err == nil) {
							t.Errorf("named: %v", r.err)
						}
					})
				}
			}
			s.beside.Store(&beside)
			if err := s.ml.sweep(t.Context(), time.Now().Add(48*time.Hour), time.Hour); err != nil {
				t.Fatal(err)
			}
			if !inTime {
				if r := keep(); r.err == nil || !strings.Contains(r.err.Error(), "was deleted") {
					t.Errorf("named: %v", r.err)
				}
				return
			}
			files := s.files(s.must(200, "POST", version+"/getFiles", map[string]any{}))
			if len(files) != 1 || s.send(http.MethodGet, files[0], "") != "z" {
				t.Errorf("files %+v", files)
			}
		})
	}
}

// wrote is a job that has ended, with files in its output "o", by node.
func (s *stored) wrote(job string, nodes ...[]string) {
	s.t.Helper()
	s.must(201, "PUT", job, command("outputs", map[string]any{"o": map[string]any{}}))
	p := s.privateOf(job)
	status := wire.Status{State: wire.Completed, Ended: time.Now()}
	for node, paths := range nodes {
		pod := fmt.Sprint("pod-", node)
		var all []wire.File
		for _, path := range paths {
			all = append(all, described(path, path+pod))
		}
		a := s.ask(wire.Ask{Job: p.Job.UID, Resource: "jobs/" + nameOf(job), Node: node, Pod: pod, Mount: "outputs.o", Files: all})
		for _, f := range a.Files {
			s.send(http.MethodPut, f, f.Path+pod)
		}
		status.Nodes = append(status.Nodes, wire.Node{Index: node, Pod: pod})
	}
	s.tell(p.Job.UID, status)
	s.becomes(job, "properties.status", wire.Completed)
}

// A model's files are copied several at once, and a copy that is cut off leaves
// nothing.
func TestAModelIsCopiedSeveralFilesAtOnce(t *testing.T) {
	s := newStored(t)
	var paths []string
	for i := range 2 * copying {
		paths = append(paths, fmt.Sprintf("%02d", i))
	}
	s.wrote(workspace+"/jobs/j", paths)
	var now, most atomic.Int32
	two := make(chan struct{})
	beside := func(when string, r *http.Request) {
		if r.Header.Get("X-Amz-Copy-Source") == "" {
			return
		}
		if when == "after" {
			now.Add(-1)
			return
		}
		n := now.Add(1)
		for had := most.Load(); n > had && !most.CompareAndSwap(had, n); had = most.Load() {
		}
		if n == 2 {
			close(two)
		}
		select {
		case <-two:
		case <-r.Context().Done():
		case <-time.After(time.Minute): // one by one
		}
	}
	s.beside.Store(&beside)
	model := workspace + "/models/m/versions/1"
	s.must(201, "PUT", model, props("modelUri", "azureml://jobs/j/outputs/o"))
	s.beside.Store(nil)
	if n := most.Load(); n < 2 || n > copying {
		t.Errorf("%d files were copied at once", n)
	}
	if files := s.files(s.must(200, "POST", model+"/getFiles", map[string]any{})); len(files) != len(paths) {
		t.Errorf("%d files", len(files))
	}
	prefix := s.privatePrefix()
	var once sync.Once
	cut := func(when string, r *http.Request) {
		if when == "after" && r.Header.Get("X-Amz-Copy-Source") != "" {
			once.Do(func() {
				if err := s.ml.Storage.Delete(context.WithoutCancel(t.Context()), prefix+inJobs+"/"); err != nil {
					t.Error(err)
				}
			})
		}
	}
	s.beside.Store(&cut)
	if r := s.call("PUT", workspace+"/models/cut/versions/1", props("modelUri", "azureml://jobs/j/outputs/o")); r.err == nil {
		t.Fatal("a copy of what is gone was made")
	}
	units, err := s.ml.units(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for u := range units {
		if strings.HasPrefix(u, prefix+inModels) {
			delete(units, u)
			break
		}
	}
	if len(units) != 0 {
		t.Errorf("left %v", units)
	}
}

func (s *stored) privatePrefix() string {
	s.t.Helper()
	source := s.source()
	prefix, err := storagePrefix(&source)
	if err != nil {
		s.t.Fatal(err)
	}
	return prefix
}

// What several nodes wrote is one list, and a page of it costs a page of each.
func TestAPageOfWhatSeveralNodesWrote(t *testing.T) {
	s := newStored(t)
	s.wrote(workspace+"/jobs/j", []string{"a", "c", "e/1", "g"}, []string{"a", "b", "e.x", "e/1", "e/2"}, []string{"z"})
	p := s.privateOf(workspace + "/jobs/j")
	at := outputPlace(s.privatePrefix(), &p, "o")
	want := []string{"a0", "b1", "c0", "e.x1", "e/10", "e/21", "g0", "z2"}
	for limit := 1; limit <= len(want)+1; limit++ {
		var got []string
		for after := ""; ; {
			var lists atomic.Int32
			beside := func(when string, r *http.Request) {
				if when == "before" && r.URL.Query().Get("list-type") == "2" {
					lists.Add(1)
					if most := r.URL.Query().Get("max-keys"); most != fmt.Sprint(limit) {
						t.Errorf("a page of %d asks for %s", limit, most)
					}
				}
			}
			s.beside.Store(&beside)
			page, next, err := s.ml.files(t.Context(), at, after, limit)
			s.beside.Store(nil)
			if err != nil || len(page) > limit || lists.Load() != 3 {
				t.Fatalf("page of %d: %v, %v, %d lists", limit, page, err, lists.Load())
			}
			for _, f := range page {
				node := strings.Split(strings.TrimPrefix(f.key, s.privatePrefix()), "/")[4]
				got = append(got, f.path+node)
			}
			if after = next; next == "" {
				break
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("pages of %d: %s", limit, diff)
		}
	}
}

// What cannot be stored is named before anything is sent.
func TestAFileThatIsTooLargeIsNamed(t *testing.T) {
	s := newStored(t)
	large := wire.File{Path: "weights.bin", Size: wire.MaxFileSize + 1, SHA256: described("x", "x").SHA256}
	r := s.call("POST", workspace+"/data/d/versions/1/startPendingUpload", map[string]any{"files": []wire.File{described("a", "a"), large}})
	if trust.KindOf(r.err) != trust.Invalid || !strings.Contains(r.err.Error(), "weights.bin") || !strings.Contains(r.err.Error(), "5 GiB") {
		t.Errorf("%v", r.err)
	}
}
