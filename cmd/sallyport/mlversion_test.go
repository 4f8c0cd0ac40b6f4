package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/arm"
)

// What a file says of a version is one name and one version of a path, wherever it
// stands, or is refused before anything is asked.
func TestVersionsNamedInFiles(t *testing.T) {
	t.Parallel()
	for ref, want := range map[string]string{
		"m:7": "m/versions/7", "azureml:m:7": "m/versions/7", "azureml:m@latest": "m/versions/8", "m.x@latest": "m.x/versions/8",
		"azureml:m@:1": "m@/versions/1", "m": "", "m:": "", ":1": "", "": "", "@latest": "", "m@newest": "",
		"m:1/../../n/versions/2": "", "../n:1": "", "m:..": "", "..:1": "", "m:1?x=y": "", "m:1#x": "", "m:a b": "", "m:1:2": "m/versions/1:2", "m:%2e%2e": "",
		"m/versions/1@latest": "", "..@latest": "", "m?x@latest": "", "m:1\n": "", "m:é": "",
	} {
		var asked []string
		a := &app{}
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.URL.Path)
			w.Write([]byte(`{"properties":{"latestVersion":"8"}}`))
		})
		serve(t, a, h)
		id, err := a.versionNamed(t.Context(), "model", raceWorkspace, "models", ref)
		switch {
		case want == "" && (err == nil || !strings.Contains(err.Error(), "must read azureml:NAME:VERSION or azureml:NAME@latest") || len(asked) > 0):
			t.Errorf("%q: %q, %v, asked %v", ref, id, err, asked)
		case want != "" && (err != nil || id != raceWorkspace+"/models/"+want):
			t.Errorf("%q: %q, %v", ref, id, err)
		case strings.HasSuffix(ref, "@latest") && want != "" && !slices.Equal(asked, []string{raceWorkspace + "/models/" + strings.TrimSuffix(want, "/versions/8")}):
			t.Errorf("%q: asked %v", ref, asked)
		}
	}
}

func FuzzVersionNamed(f *testing.F) {
	f.Add("azureml:m:1")
	f.Add("m:..")
	f.Add("m:1/2")
	f.Fuzz(func(t *testing.T, ref string) {
		if strings.HasSuffix(ref, "@latest") {
			return // asks the server
		}
		id, err := (&app{}).versionNamed(t.Context(), "model", raceWorkspace, "models", ref)
		if err != nil {
			return
		}
		parsed, err := arm.ParseID(id)
		if err != nil || !arm.SameID(parsed.Parent().Parent().String(), raceWorkspace) || !strings.EqualFold(parsed.Type(), "Microsoft.MachineLearningServices/workspaces/models/versions") {
			t.Errorf("%q became %s: %v", ref, id, err)
		}
	})
}

// A server's own answer is no more believed than a file.
func TestVersionsNamedByTheServer(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"../../x", "", "1?x"} {
		body, err := json.Marshal(map[string]any{"properties": map[string]any{"latestVersion": version, "nextVersion": version}})
		if err != nil {
			t.Fatal(err)
		}
		a := &app{}
		serve(t, a, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(body) }))
		if id, err := a.newest(t.Context(), raceWorkspace+"/models/m"); err == nil {
			t.Errorf("%q became %s", version, id)
		}
		if next, err := a.nextVersion(t.Context(), raceWorkspace+"/models/m"); version != "" && err == nil || version == "" && next != "1" {
			t.Errorf("%q: next is %q, %v", version, next, err)
		}
	}
}
