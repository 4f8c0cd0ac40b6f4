package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/format/gitignore"

	"github.com/sallyport/sallyport/bucket/signed"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

// Bytes go straight to the workspace's store and come straight from it, by signed
// URLs that the server gives.

// signedFiles is what the server answers.
type signedFiles struct {
	URI   string
	Files []wire.SignedFile
	Next  string
	Trust string
}

// local is a file to upload.
type local struct {
	wire.File
	from string
}

// gather lists a file, or a folder without what its .amlignore names (or, where
// there is none, its .gitignore), as az does.
func gather(from string) (files []local, folder bool, err error) {
	info, err := os.Stat(from)
	if err != nil {
		return nil, false, trust.Errorf(trust.Invalid, "%s cannot be read", from).Because(err)
	}
	if !info.IsDir() {
		f, err := hashed(from, filepath.Base(from))
		return []local{f}, false, err
	}
	if from, err = filepath.EvalSymlinks(from); err != nil { // the walk does not follow its root
		return nil, true, trust.Errorf(trust.Invalid, "%s cannot be read", from).Because(err)
	}
	skip, err := ignored(from)
	if err != nil {
		return nil, true, err
	}
	err = filepath.WalkDir(from, func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, at)
		if err != nil || rel == "." {
			return err
		}
		if skip.Match(strings.Split(filepath.ToSlash(rel), "/"), d.IsDir()) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			return nil
		}
		if info, err := os.Stat(at); err != nil { // through links: what is meant is the file
			return err
		} else if !info.Mode().IsRegular() {
			return trust.Errorf(trust.Invalid, "%s is no regular file: name it in .amlignore", at)
		}
		f, err := hashed(at, filepath.ToSlash(rel))
		files = append(files, f)
		return err
	})
	if err == nil && len(files) == 0 {
		err = trust.Errorf(trust.Invalid, "%s has no files to upload", from)
	}
	return files, true, err
}

func ignored(dir string) (gitignore.Matcher, error) {
	patterns := []gitignore.Pattern{gitignore.ParsePattern(".amlignore", nil), gitignore.ParsePattern(".gitignore", nil), gitignore.ParsePattern(".git/", nil)}
	for _, name := range []string{".amlignore", ".gitignore"} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(raw)) {
			if line = strings.TrimRight(line, "\r\n"); line != "" && !strings.HasPrefix(line, "#") {
				patterns = append(patterns, gitignore.ParsePattern(line, nil))
			}
		}
		break
	}
	return gitignore.NewMatcher(patterns), nil
}

func hashed(from, name string) (local, error) {
	in, err := os.Open(from)
	if err != nil {
		return local{}, err
	}
	defer in.Close()
	if info, err := in.Stat(); err == nil && info.Size() > wire.MaxFileSize { // before it is read
		return local{}, trust.Errorf(trust.Invalid, "%s has %d bytes: a file in a workspace's store has at most 5 GiB", from, info.Size())
	}
	h := sha256.New()
	n, err := io.Copy(h, in)
	return local{wire.File{Path: name, Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, from}, err
}

// upload puts a file or a folder into the workspace's store and says what it is
// called there. at is the version of an asset that it will be.
func (a *app) upload(ctx context.Context, at, from string) (uri string, folder bool, err error) {
	files, folder, err := gather(from)
	if err != nil {
		return "", false, err
	}
	all := make([]wire.File, 0, len(files))
	for _, f := range files {
		all = append(all, f.File)
	}
	var answer signedFiles
	for tries := 1; ; tries++ { // what was cut off is not there, and is asked for again
		answer = signedFiles{}
		if err := a.post(ctx, at+"/startPendingUpload", map[string]any{"pendingUploadType": "None", "files": all}, &answer); err != nil {
			return "", false, err
		}
		n, err := a.put(ctx, files, &answer)
		if err == nil {
			break
		}
		if n > 0 { // URLs are good for minutes only
			tries = 1
		}
		if tries == 3 || ctx.Err() != nil {
			return "", false, err
		}
	}
	if uri = answer.URI; !folder {
		uri += "/" + files[0].Path
	}
	return uri, folder, nil
}

// put uploads what the server asks for, and counts what it has uploaded.
func (a *app) put(ctx context.Context, files []local, answer *signedFiles) (int, error) {
	hc := signed.Client(answer.Trust)
	defer hc.CloseIdleConnections()
	for i, s := range answer.Files {
		at := slices.IndexFunc(files, func(f local) bool { return f.Path == s.Path })
		if at < 0 {
			return i, trust.Errorf(trust.Internal, "the server asks for %q, which is not uploaded", s.Path)
		}
		a.busy.doing(fmt.Sprintf("Uploading %d of %d files", i+1, len(answer.Files)), s.Path)
		if err := putOne(ctx, hc, files[at].from, s); err != nil {
			return i, fmt.Errorf("upload %s: %w", s.Path, err)
		}
	}
	return len(answer.Files), nil
}

func putOne(ctx context.Context, hc *http.Client, from string, s wire.SignedFile) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	return ofStore(signed.Put(ctx, hc, s.URL, s.Header, in, s.Size))
}

// ofStore gives what went wrong with the store its kind.
func ofStore(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, signed.ErrUnreachable):
		return unreachable(err)
	}
	return trust.Errorf(trust.Unavailable, "the workspace's store refuses: %v", err).Because(err)
}

// unreachable leaves the URL, which is a secret, out of an error.
func unreachable(err error) error {
	for next := err; next != nil; next = errors.Unwrap(next) {
		err = next
	}
	return trust.Errorf(trust.Unavailable, "the workspace's store is not reachable from here").Because(err)
}

func storeSays(res *http.Response) error {
	if res.StatusCode == http.StatusOK {
		return nil
	}
	body, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	_, code, _ := bytes.Cut(body, []byte("<Code>"))
	code, _, _ = bytes.Cut(code, []byte("</Code>"))
	_, message, _ := bytes.Cut(body, []byte("<Message>"))
	message, _, _ = bytes.Cut(message, []byte("</Message>"))
	return trust.Errorf(trust.Unavailable, "the workspace's store answers %s %s %s", res.Status, code, message)
}

func (a *app) post(ctx context.Context, path string, ask, into any) error {
	c, err := a.session()
	if err != nil {
		return err
	}
	res, err := c.Do(ctx, client.Request{Method: http.MethodPost, Path: path, Version: mlVersion, Body: ask})
	if err != nil {
		return err
	}
	return json.Unmarshal(res.Body, into)
}
