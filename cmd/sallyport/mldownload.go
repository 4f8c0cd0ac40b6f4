package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/bucket/signed"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

const (
	downloadTries = 5           // in a row, none of which brought a byte
	downloadStall = time.Minute // without a byte, a connection counts as cut
)

// download writes listed files into a folder, each whole or not at all. A signed
// URL is good for minutes and a connection may be cut: then it asks for the list
// again, from the last file that it has, and goes on within the file.
type download struct {
	list  func(ctx context.Context, after string) (signedFiles, error)
	root  *os.Root
	busy  *progress
	pause func(ctx context.Context, d time.Duration) error
}

// fetch writes everything that the server gives at a path into a folder, and
// lists what was written.
func (a *app) fetch(ctx context.Context, path string, ask map[string]any, to string) ([]any, error) {
	return a.download(ctx, to, func(ctx context.Context, after string) (page signedFiles, err error) {
		ask["after"] = after
		return page, a.post(ctx, path+"/getFiles", ask, &page)
	})
}

func (a *app) download(ctx context.Context, to string, list func(context.Context, string) (signedFiles, error)) ([]any, error) {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	d := download{list: list, root: root, busy: a.busy, pause: pause}
	paths, err := d.run(ctx)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		full := trust.Errorf(trust.Conflict, "the disk of %s is full", to).Because(err)
		full.Hint = "make room, or give another --download-path"
		err = full
	}
	written := []any{}
	for _, p := range paths {
		written = append(written, filepath.Join(to, filepath.FromSlash(p)))
	}
	return written, err
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// run gives the paths that were written.
func (d *download) run(ctx context.Context) (paths []string, err error) {
	part := new(partial)
	defer func() { part.discard(d.root) }()
	for after, tries := "", 0; ; {
		page, err := d.list(ctx, after)
		if err != nil {
			return paths, err
		}
		hc := signed.Client(page.Trust)
		n := len(paths)
		moved := false
		for _, s := range page.Files {
			had := part.have
			if err = d.save(ctx, hc, s, part); err != nil {
				moved = moved || part.have > had
				err = fmt.Errorf("download %s: %w", s.Path, err)
				break
			}
			paths, after = append(paths, s.Path), s.Path
		}
		hc.CloseIdleConnections()
		if moved || len(paths) > n {
			tries = 0
		}
		var cut cutError
		switch {
		case err == nil && page.Next == "":
			return paths, nil
		case err == nil:
			after = page.Next
		case !errors.As(err, &cut) || ctx.Err() != nil, cut.unheard && len(paths) == 0 && part.have == 0:
			return paths, err
		default:
			if tries++; tries == downloadTries {
				return paths, err
			}
			d.busy.doing("Downloading", err.Error()+"; trying again")
			if err := d.pause(ctx, time.Second<<(tries-1)); err != nil {
				return paths, err
			}
		}
	}
}

// cutError is a failure that may not be one the next time. Of a store that was
// never heard of, a person is told at once.
type cutError struct {
	error
	unheard bool
}

func (e cutError) Unwrap() error { return e.error }

// partial is a file that is not whole yet, under a name of its own.
type partial struct {
	of   string // path of the file; "" for none
	name string
	out  *os.File
	have int64  // bytes
	etag string // of what they are the beginning of; "" if the store does not say
}

func (p *partial) begin(root *os.Root, of string) error {
	if p.of == of {
		return nil
	}
	p.discard(root)
	name := path.Join(path.Dir(of), "."+path.Base(of)+"."+strings.ToLower(rand.Text()[:8])+".partial")
	out, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err == nil {
		*p = partial{of: of, name: name, out: out}
	}
	return err
}

// again forgets what there is.
func (p *partial) again() error {
	p.have, p.etag = 0, ""
	_, err := p.out.Seek(0, io.SeekStart)
	return errors.Join(err, p.out.Truncate(0))
}

// finish gives the file its name.
func (p *partial) finish(root *os.Root) error {
	err := p.out.Close()
	if err == nil {
		err = root.Rename(p.name, p.of)
	}
	if err == nil {
		*p = partial{}
	}
	return err
}

func (p *partial) discard(root *os.Root) {
	if p.of != "" {
		p.out.Close()
		_ = root.Remove(p.name)
		*p = partial{}
	}
}

// save brings the rest of a file.
func (d *download) save(ctx context.Context, hc *http.Client, s wire.SignedFile, part *partial) error {
	if !filepath.IsLocal(s.Path) {
		return trust.Errorf(trust.Invalid, "the server names %q, which lies outside the folder", s.Path)
	}
	if dir := path.Dir(s.Path); dir != "." {
		if err := d.root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := part.begin(d.root, s.Path); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stalled := time.AfterFunc(downloadStall, cancel) // which ends the reading
	defer stalled.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
	if err != nil {
		return errors.New("the signed URL cannot be read")
	}
	if part.have > 0 && part.etag != "" {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", part.have))
		req.Header.Set("If-Match", part.etag)
	}
	d.told(s, part)
	res, err := hc.Do(req)
	if err != nil {
		return cutError{unreachable(err), true}
	}
	defer res.Body.Close()
	switch code := res.StatusCode; {
	case code == http.StatusPartialContent && strings.HasPrefix(res.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", part.have)):
	case code == http.StatusOK:
		if err := part.again(); err != nil {
			return err
		}
		part.etag = res.Header.Get("ETag")
	case code == http.StatusPreconditionFailed, code == http.StatusRequestedRangeNotSatisfiable, code == http.StatusPartialContent:
		return cutError{error: errors.Join(storeSays(res), part.again())} // it is another one by now
	case code == http.StatusForbidden, code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code >= http.StatusInternalServerError:
		return cutError{error: storeSays(res)} // a URL that is too old is forbidden
	default:
		return storeSays(res)
	}
	if err := d.copy(s, part, res.Body, stalled); err != nil {
		return err
	}
	return part.finish(d.root)
}

// copy writes what comes. What cannot be written here is no cut.
func (d *download) copy(s wire.SignedFile, part *partial, body io.Reader, stalled *time.Timer) error {
	buffer := make([]byte, 128<<10)
	for {
		n, err := body.Read(buffer)
		stalled.Reset(downloadStall)
		if _, err := part.out.Write(buffer[:n]); err != nil {
			return err
		}
		part.have += int64(n)
		d.told(s, part)
		switch {
		case part.have > s.Size, err == io.EOF && part.have < s.Size:
			return trust.Errorf(trust.Unavailable, "the workspace's store gave %d bytes, and it should have %d", part.have, s.Size)
		case err == io.EOF:
			return nil
		case err != nil:
			return cutError{error: trust.Errorf(trust.Unavailable, "the connection to the workspace's store was cut").Because(err)}
		}
	}
}

// told says how far a file is.
func (d *download) told(s wire.SignedFile, part *partial) {
	const mega = 1 << 20
	if s.Size < 10*mega {
		d.busy.doing("Downloading "+s.Path, "")
		return
	}
	d.busy.doing(fmt.Sprintf("Downloading %d of %d MiB", part.have/mega, s.Size/mega), s.Path)
}
