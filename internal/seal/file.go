package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Load reads a seal key file: 64 hexadecimal digits, readable by its owner
// alone. A missing file is fs.ErrNotExist.
func Load(path string) (*Sealer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read seal key: %w", err)
	}
	defer f.Close()
	// Of the open file, so that it cannot be exchanged between look and read.
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read seal key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("seal key %s is not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("seal key %s has mode %#o and may have been read by others: make it private (chmod 600 %s), and make a new one if it was", path, mode, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, 256))
	if err != nil {
		return nil, fmt.Errorf("read seal key: %w", err)
	}
	key, err := hex.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil || len(key) != KeySize {
		return nil, fmt.Errorf("seal key %s must hold %d hexadecimal digits", path, 2*KeySize)
	}
	return New(key)
}

// Create makes a new seal key file with mode 0600. It never replaces a file:
// everything sealed would be lost.
func Create(path string) (*Sealer, error) {
	key := make([]byte, KeySize)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("make seal key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make seal key: %w", err)
	}
	if err := writeNew(path, append(hex.AppendEncode(nil, key), '\n')); err != nil {
		return nil, fmt.Errorf("make seal key: %w", err)
	}
	return New(key)
}

// LoadOrCreate is for a server with a data directory: it loads the key, or, on
// the first start (the data directory is missing or empty), makes it. Once
// there is data, a missing key is an error, for a new one would open nothing.
// A key inside the data directory is refused: a copy of the data would carry
// its own key.
func LoadOrCreate(path, dataDir string) (*Sealer, error) {
	if inside, err := within(path, dataDir); err != nil {
		return nil, fmt.Errorf("place of seal key: %w", err)
	} else if inside {
		return nil, fmt.Errorf("seal key %s lies inside the data directory %s: keep it elsewhere, so that a copy of the data does not open itself", path, dataDir)
	}
	s, err := Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	entries, err := os.ReadDir(dataDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for data: %w", err)
	}
	if len(entries) > 0 {
		return nil, fmt.Errorf("seal key %s is missing, but %s holds data that only it opens: bring the key back from its backup", path, dataDir)
	}
	return Create(path)
}

// within reports whether path lies in dir, links of the parts that exist
// resolved.
func within(path, dir string) (bool, error) {
	p, err := resolve(path)
	if err != nil {
		return false, err
	}
	d, err := resolve(dir)
	if err != nil {
		return false, err
	}
	rel, err := filepath.Rel(d, p)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator)), nil
}

func resolve(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	rest := ""
	for p := abs; ; p = filepath.Dir(p) {
		real, err := filepath.EvalSymlinks(p)
		if err == nil {
			return filepath.Join(real, rest), nil
		}
		if !errors.Is(err, fs.ErrNotExist) || p == filepath.Dir(p) {
			return "", err
		}
		rest = filepath.Join(filepath.Base(p), rest)
	}
}

// writeNew writes a file that must not exist, whole or not at all: a link to a
// finished file cannot replace one.
func writeNew(path string, data []byte) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if _, err := tmp.Write(data); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
