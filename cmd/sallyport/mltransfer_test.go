package main

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/bucket/signed"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

// A file that no store takes is named before it is read.
func TestAFileThatIsTooLargeIsNotRead(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "weights.bin")
	if err := errors.Join(os.WriteFile(large, nil, 0o600), os.Truncate(large, wire.MaxFileSize+1)); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{large, dir} {
		if _, _, err := gather(from); err == nil || !strings.Contains(err.Error(), "weights.bin") || !strings.Contains(err.Error(), "5 GiB") {
			t.Errorf("%s: %v", from, err)
		}
	}
}

// A signature is good for one host: nothing is sent on to another one.
func TestNoFileFollowsARedirect(t *testing.T) {
	asked := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer other.Close()
	store := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer store.Close()
	file := filepath.Join(t.TempDir(), "code.py")
	if err := os.WriteFile(file, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	url := store.URL + "/code.py?X-Amz-Signature=abc"
	hc := signed.Client("")
	defer hc.CloseIdleConnections()
	put := putOne(t.Context(), hc, file, wire.SignedFile{File: wire.File{Path: "code.py", Size: 6}, URL: url})
	_, get := keptLog(t.Context(), "", wire.LogFile{URL: url})
	for what, err := range map[string]error{"upload": put, "log": get} {
		if trust.KindOf(err) != trust.Unavailable || !strings.Contains(err.Error(), "307") || strings.Contains(err.Error(), "Signature") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if asked {
		t.Error("another host was asked")
	}
}
