package carrier

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"github.com/sallyport/sallyport/bucket/signed"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

// Fetch fills what is to be read. A mount without files fails: a program that
// reads nothing would only find out later.
func (c *Carrier) Fetch(ctx context.Context) error {
	for _, m := range c.Mounts {
		if m.Way != wire.Read {
			continue
		}
		n, size, err := c.fetch(ctx, m)
		if err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
		if n == 0 {
			return fmt.Errorf("%s: there is nothing to read", m.Name)
		}
		c.Log.InfoContext(ctx, "fetched", "mount", m.Name, "files", n, "bytes", size)
	}
	return nil
}

func (c *Carrier) fetch(ctx context.Context, m wire.Mount) (files int, size int64, err error) {
	root, err := os.OpenRoot(m.Path)
	if err != nil {
		return 0, 0, err
	}
	defer root.Close()
	stales := 0 // in a row, without a file
	for after := ""; ; {
		answer, err := c.ask(ctx, wire.Ask{Mount: m.Name, After: after})
		if err != nil {
			return files, size, err
		}
		stale, filesBefore, sizeBefore := false, files, size
		for _, f := range answer.Files {
			if !filepath.IsLocal(f.Path) || f.Size < 0 {
				return files, size, fmt.Errorf("the file %.200q lies outside the folder", f.Path)
			}
			if have, err := root.Stat(f.Path); err == nil && have.Size() == f.Size {
				files, size = files+1, size+f.Size // of the try before
				continue
			}
			if err := c.download(ctx, root, f, answer.Trust, m.Writable); errors.Is(err, signed.ErrExpired) {
				if stales++; stales >= tries {
					return files, size, fmt.Errorf("%s: %w", f.Path, err)
				}
				c.Log.WarnContext(ctx, "asking for the URL again", "mount", m.Name, "file", f.Path, "error", err)
				stale = true
				break
			} else if err != nil {
				return files, size, fmt.Errorf("%s: %w", f.Path, err)
			}
			files, size, stales = files+1, size+f.Size, 0
		}
		switch {
		case stale: // the same page again, with new URLs
			files, size = filesBefore, sizeBefore
			pause(ctx, c.Pause)
			if ctx.Err() != nil {
				return files, size, ctx.Err()
			}
		case answer.Next == "":
			return files, size, nil
		default:
			after = answer.Next
		}
	}
}

// partial is the name of a file while it comes.
const partial = ".sallyport-partial"

func (c *Carrier) download(ctx context.Context, root *os.Root, f wire.SignedFile, ca string, writable bool) (err error) {
	if dir := path.Dir(f.Path); dir != "." {
		if err := root.MkdirAll(dir, 0o777); err != nil {
			return full(err)
		}
	}
	for try := range tries {
		if try > 0 {
			c.Log.WarnContext(ctx, "file fetched again", "file", f.Path, "reason", err)
			pause(ctx, c.Pause)
		}
		err = c.once(ctx, root, f, ca, writable)
		var e *trust.Error
		if err == nil || errors.Is(err, signed.ErrExpired) || errors.As(err, &e) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

func (c *Carrier) once(ctx context.Context, root *os.Root, f wire.SignedFile, ca string, writable bool) error {
	in, err := signed.Get(ctx, c.store(ca), f.URL)
	if err != nil {
		return full(err)
	}
	defer in.Close()
	mode := os.FileMode(0o755) // code may be run
	if writable {
		mode = 0o777
	}
	out, err := root.OpenFile(partial, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return full(err)
	}
	defer out.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, h), io.LimitReader(in, f.Size+1))
	if err != nil {
		return full(err)
	}
	if n != f.Size || f.SHA256 != "" && f.SHA256 != hex.EncodeToString(h.Sum(nil)) {
		return fmt.Errorf("the store gave %d bytes that are not those of the file, which has %d", n, f.Size)
	}
	if err := errors.Join(out.Chmod(mode), out.Close()); err != nil {
		return full(err)
	}
	return root.Rename(partial, f.Path)
}

// full tells what trying again does not mend.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return trust.Errorf(trust.Conflict, "the node's disk is full")
	}
	if errors.Is(err, signed.ErrFull) {
		return trust.Errorf(trust.Conflict, "%s", signed.ErrFull)
	}
	return err
}
