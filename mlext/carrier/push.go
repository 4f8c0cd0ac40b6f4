package carrier

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sallyport/sallyport/bucket/signed"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

// Push keeps what the program writes: what is to be kept as it goes while the
// program runs, and everything when it has ended, however it ended. When ctx
// ends before that (the pod is being ended), it keeps what is there, as far as
// last allows.
func (c *Carrier) Push(ctx, last context.Context) error {
	kept := map[string]*outgoing{}
	for _, m := range c.Mounts {
		if m.Way == wire.Write {
			kept[m.Name] = &outgoing{Mount: m, have: map[string]version{}}
		}
	}
	looked := time.Now()
	for ctx.Err() == nil {
		var ended wire.Ended
		if err := c.call(ctx, http.MethodGet, fmt.Sprintf("/pods/ended?wait=%d", wire.MaxWait), nil, &ended); err != nil && ctx.Err() == nil {
			c.Log.WarnContext(ctx, "not known whether the program has ended", "reason", err)
			pause(ctx, c.Pause)
		}
		if ended.Ended {
			c.Log.InfoContext(ctx, "the program has ended", "exitCode", ended.ExitCode)
			break
		}
		if time.Since(looked) < c.Every {
			continue
		}
		looked = time.Now()
		for _, f := range kept {
			if err := c.keep(ctx, f, true); f.Live && err != nil && ctx.Err() == nil {
				c.Log.WarnContext(ctx, "not kept yet", "mount", f.Name, "reason", err)
			}
		}
	}
	var errs []error
	for _, f := range kept {
		f.seen = nil
		if err := c.keep(last, f, false); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.Name, err))
			continue
		}
		c.Log.InfoContext(last, "kept", "mount", f.Name, "files", len(f.have))
	}
	return errors.Join(errs...)
}

// outgoing is a mount to keep.
type outgoing struct {
	wire.Mount
	have map[string]version // in the store, by path
	seen map[string]version // at the last look
}

// version tells whether a file has changed.
type version struct {
	size    int64
	changed time.Time
}

// keep sends what the store does not have. running: only what has not changed
// since the last look, of mounts that are kept as they go.
func (c *Carrier) keep(ctx context.Context, f *outgoing, running bool) error {
	if running && !f.Live {
		return nil
	}
	root, err := os.OpenRoot(f.Path)
	if err != nil {
		return err
	}
	defer root.Close()
	now, err := c.look(ctx, root)
	if err != nil {
		return err
	}
	var batch, tooLarge []string
	for path, v := range now {
		if f.have[path] == v || running && f.seen[path] != v {
			continue
		}
		if v.size > wire.MaxFileSize {
			tooLarge = append(tooLarge, path)
			continue
		}
		if batch = append(batch, path); len(batch) == wire.MaxFiles {
			if err := c.send(ctx, root, f, now, batch); err != nil {
				return err
			}
			batch = nil
		}
	}
	f.seen = now
	if len(batch) > 0 {
		if err := c.send(ctx, root, f, now, batch); err != nil {
			return err
		}
	}
	if slices.Sort(tooLarge); len(tooLarge) > 0 { // all else is kept
		return trust.Errorf(trust.TooLarge, "not kept, since a file has at most 5 GiB: %.1000q", tooLarge)
	}
	return nil
}

// look lists the regular files. What a link points to may lie anywhere: links
// are left out, and said.
func (c *Carrier) look(ctx context.Context, root *os.Root) (map[string]version, error) {
	all := map[string]version{}
	err := fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			c.Log.WarnContext(ctx, "not kept: it is no regular file", "file", path)
			return nil
		}
		info, err := d.Info()
		if err == nil {
			all[path] = version{info.Size(), info.ModTime()}
		}
		return nil
	})
	return all, err
}

func (c *Carrier) send(ctx context.Context, root *os.Root, f *outgoing, now map[string]version, paths []string) (err error) {
	for range tries {
		ask := wire.Ask{Mount: f.Name}
		for _, p := range paths {
			one, e := measure(root, p)
			if errors.Is(e, fs.ErrNotExist) {
				continue
			}
			if e != nil {
				return e
			}
			ask.Files = append(ask.Files, one)
		}
		if len(ask.Files) == 0 {
			return nil
		}
		var answer *wire.Answer
		if answer, err = c.ask(ctx, ask); err != nil {
			return err
		}
		paths = nil
		for _, s := range answer.Files {
			if e := c.upload(ctx, root, s, answer.Trust); e != nil {
				var final *trust.Error
				if errors.As(e, &final) || ctx.Err() != nil {
					return fmt.Errorf("%s: %w", s.Path, e)
				}
				paths, err = append(paths, s.Path), fmt.Errorf("%s: %w", s.Path, e)
				continue
			}
			f.have[s.Path] = now[s.Path]
		}
		if len(paths) == 0 {
			return nil
		}
		c.Log.WarnContext(ctx, "files sent again", "mount", f.Name, "files", len(paths), "reason", err)
		pause(ctx, c.Pause)
	}
	return err
}

func measure(root *os.Root, path string) (wire.File, error) {
	in, err := root.Open(filepath.FromSlash(path))
	if err != nil {
		return wire.File{}, err
	}
	defer in.Close()
	h := sha256.New()
	n, err := io.Copy(h, in)
	return wire.File{Path: path, Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, err
}

func (c *Carrier) upload(ctx context.Context, root *os.Root, s wire.SignedFile, ca string) error {
	in, err := root.Open(filepath.FromSlash(s.Path))
	if err != nil {
		return err
	}
	defer in.Close()
	return full(signed.Put(ctx, c.store(ca), s.URL, s.Header, in, s.Size))
}
