package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestItScoresWhatTheFileSays(t *testing.T) {
	file := filepath.Join(t.TempDir(), "model.json")
	if err := os.WriteFile(file, []byte(`{"weights":[3,-2],"bias":0.5,"version":"7"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := load(file)
	if err != nil {
		t.Fatal(err)
	}
	for body, want := range map[string]struct {
		status int
		says   string
	}{
		`{"data":[[1,1],[2,0]]}`: {http.StatusOK, `{"predictions":[1.5,6.5],"version":"7"}`},
		`{"data":[]}`:            {http.StatusOK, `{"predictions":[],"version":"7"}`},
		`{"data":[[1]]}`:         {http.StatusBadRequest, "a row has 1 numbers, the model 2 weights"},
		`data`:                   {http.StatusBadRequest, "send"},
	} {
		w := httptest.NewRecorder()
		routes(m, 0).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/score", strings.NewReader(body)))
		if w.Code != want.status || !strings.Contains(w.Body.String(), want.says) {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	if _, err := load(file + ".none"); err == nil {
		t.Error("a model that is not there was loaded")
	}
}
