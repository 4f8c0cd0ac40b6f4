package pki

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// WriteFile writes a file with mode 0600, whole or not at all: a reader sees
// the old content or the new, also after a crash.
func WriteFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	tmp, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if _, err := tmp.Write(data); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := tmp.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// Folder loads the CA of a purpose from dir (<purpose>-ca.pem, certificate and
// key in one file, so that they cannot part), or makes it there when the file
// does not exist. Beside it lies <purpose>-ca.crt for clients.
func Folder(dir string, p Purpose, now func() time.Time) (*CA, error) {
	path := filepath.Join(dir, string(p)+"-ca.pem")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return createIn(dir, path, p, now)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s CA: %w", p, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read %s CA: %w", p, err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("CA key %s has mode %#o and may have been read by others: make it private (chmod 600 %s), and a new CA if it was", path, mode, path)
	}
	cert, key, err := split(data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return ParseCA(p, cert, key, now)
}

func createIn(dir, path string, p Purpose, now func() time.Time) (*CA, error) {
	ca, err := NewCA(p, now)
	if err != nil {
		return nil, err
	}
	cert, key, err := ca.Marshal()
	if err != nil {
		return nil, err
	}
	if err := WriteFile(path, append(key, cert...)); err != nil {
		return nil, err
	}
	return ca, WriteFile(filepath.Join(dir, string(p)+"-ca.crt"), cert)
}

// split parts a PEM file into its certificate and its key.
func split(data []byte) (cert, key []byte, err error) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		switch block.Type {
		case "CERTIFICATE":
			cert = pem.EncodeToMemory(block)
		case "PRIVATE KEY":
			key = pem.EncodeToMemory(block)
		}
	}
	if cert == nil || key == nil {
		return nil, nil, errors.New("it must hold a PEM certificate and a PEM private key")
	}
	return cert, key, nil
}
