package seal

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func sealer(t *testing.T, b byte) *Sealer {
	t.Helper()
	s, err := New(bytes.Repeat([]byte{b}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSealOpensOnlyWhereItWasSealed(t *testing.T) {
	s := sealer(t, 1)
	secret := []byte("a private key")
	sealed, err := s.Seal("/keys/tokens/a", 7, secret)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, secret) {
		t.Fatal("the plain text is readable")
	}
	if got, err := s.Open("/keys/tokens/a", 7, sealed); err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("Open = %q, %v", got, err)
	}
	if again, err := s.Seal("/keys/tokens/a", 7, secret); err != nil || bytes.Equal(again, sealed) {
		t.Errorf("sealing twice gives the same bytes (%v)", err)
	}
	otherVersion := bytes.Clone(sealed)
	otherVersion[headSize-1] = 8
	tests := []struct {
		name    string
		s       *Sealer
		path    string
		version uint64
		sealed  []byte
	}{
		{"another path", s, "/keys/tokens/b", 7, sealed},
		{"another version", s, "/keys/tokens/a", 8, sealed},
		{"version rewritten", s, "/keys/tokens/a", 8, otherVersion},
		{"another key", sealer(t, 2), "/keys/tokens/a", 7, sealed},
		{"empty", s, "/keys/tokens/a", 7, nil},
		{"short", s, "/keys/tokens/a", 7, sealed[:headSize+nonceSize]},
		{"cut", s, "/keys/tokens/a", 7, sealed[:len(sealed)-1]},
	}
	for _, tt := range tests {
		if got, err := tt.s.Open(tt.path, tt.version, tt.sealed); !errors.Is(err, ErrSealed) || got != nil {
			t.Errorf("%s: %q, %v, want ErrSealed", tt.name, got, err)
		}
	}
	for i := range sealed {
		flipped := bytes.Clone(sealed)
		flipped[i] ^= 1
		if _, err := s.Open("/keys/tokens/a", 7, flipped); !errors.Is(err, ErrSealed) {
			t.Errorf("byte %d flipped: %v, want ErrSealed", i, err)
		}
	}
}

func TestTheKeyFileIsPrivateAndNeverReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "seal.key")
	made, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v, want 0600", info.Mode(), err)
	}
	loaded, err := Load(path)
	if err != nil || loaded.ID() != made.ID() {
		t.Fatalf("Load: key %v, %v, want %s", loaded, err, made.ID())
	}
	if _, err := Create(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over a key: %v, want fs.ErrExist", err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o601} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %o: %v, want a refusal that says chmod 600", mode, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".new-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestLoadRefusesWhatIsNoKey(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{"", "abc", strings.Repeat("00", 31), strings.Repeat("zz", 32), strings.Repeat("00", 33)} {
		path := filepath.Join(dir, "k")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil {
			t.Errorf("%q was taken as a key", text)
		}
	}
	if _, err := Load(dir); err == nil {
		t.Error("a folder was taken as a key")
	}
	if _, err := Load(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v, want fs.ErrNotExist", err)
	}
}

func TestLoadOrCreate(t *testing.T) {
	root := t.TempDir()
	data, key := filepath.Join(root, "data"), filepath.Join(root, "seal.key")

	if _, err := LoadOrCreate(filepath.Join(data, "seal.key"), data); err == nil || !strings.Contains(err.Error(), "inside the data directory") {
		t.Errorf("key inside the data: %v", err)
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(data, filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreate(filepath.Join(root, "link", "sub", "seal.key"), data); err == nil || !strings.Contains(err.Error(), "inside the data directory") {
		t.Errorf("key inside the data by a link: %v", err)
	}

	first, err := LoadOrCreate(key, data)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if second, err := LoadOrCreate(key, data); err != nil || second.ID() != first.ID() {
		t.Errorf("second start: %v, %v", second, err)
	}
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreate(key, data); err == nil || !strings.Contains(err.Error(), "is missing") {
		t.Errorf("key lost: %v, want a refusal", err)
	}
	if _, err := os.Stat(key); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a lost key was made anew")
	}
}
