package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// tarCommand packs and unpacks as kubectl cp asks for:
// "tar cf - PATH..." and "tar -xmf - -C DIR".
func tarCommand(s *shell, args []string) int {
	var mode byte
	dir, file := ".", ""
	var paths []string
	for i := 1; i < len(args); i++ {
		a := args[i]
		switch {
		case strings.HasPrefix(a, "--"): // --no-same-owner and such: we never set owners
		case a == "-C" && i+1 < len(args):
			i++
			dir = args[i]
		case mode == 0:
			for _, c := range strings.TrimPrefix(a, "-") {
				switch c {
				case 'c', 'x', 't':
					mode = byte(c)
				case 'f':
					if i++; i < len(args) {
						file = args[i]
					}
				}
			}
		default:
			paths = append(paths, a)
		}
	}
	if file != "-" {
		return complain(s.stderr, "tar", errors.New("only -f - is known"))
	}
	switch mode {
	case 'c':
		return finish(s, "tar", pack(s.stdout, dir, paths))
	case 'x', 't':
		return finish(s, "tar", unpack(s, dir, mode == 'x'))
	}
	return complain(s.stderr, "tar", errors.New("want c, x or t"))
}

func pack(w io.Writer, dir string, paths []string) error {
	out := tar.NewWriter(w)
	for _, p := range paths {
		root := p
		if !filepath.IsAbs(p) {
			root = filepath.Join(dir, p)
		}
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			return packFile(out, path, strings.TrimPrefix(filepath.Join(p, rel), "/"), d)
		})
		if err != nil {
			return err
		}
	}
	return out.Close()
}

func packFile(out *tar.Writer, path, name string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	link := ""
	if info.Mode()&os.ModeSymlink != 0 {
		if link, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name = name
	if err := out.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(out, f)
	return err
}

func unpack(s *shell, dir string, write bool) error {
	root, err := os.OpenRoot(dir) // an archive does not get outside
	if err != nil {
		return err
	}
	defer root.Close()
	in := tar.NewReader(s.stdin)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(filepath.Clean(h.Name), "/")
		if !write {
			fmt.Fprintln(s.stdout, name)
			continue
		}
		if err := unpackFile(root, name, h, in); err != nil {
			return err
		}
	}
}

func unpackFile(root *os.Root, name string, h *tar.Header, in io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(name, 0o755)
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeReg:
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		f, err := root.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, h.FileInfo().Mode().Perm())
		if err != nil {
			return err
		}
		if _, err := io.Copy(f, in); err != nil {
			f.Close()
			return err
		}
		return f.Close()
	}
	return fmt.Errorf("%s: unknown kind %q", name, h.Typeflag)
}
