// Package seal encrypts private keys for their rest in the store: AES-256-GCM
// under one seal key, bound to the place and version of what is sealed, so that
// a writer of the store can neither read a key, nor move it to another name,
// nor put an older one back.
//
// It owns the sealed format and the seal key's file. It does not know what it
// seals, where that is kept, or when it is replaced.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// KeySize is the length of a seal key in bytes.
const KeySize = 32

// The sealed form: format (1), key id (4), version (8, big endian), nonce (12),
// ciphertext with its tag (16).
const (
	format    = 1
	idSize    = 4
	headSize  = 1 + idSize + 8
	nonceSize = 12
	tagSize   = 16
)

// ErrSealed is returned when sealed bytes cannot be opened: altered, moved,
// of another version, or sealed with another key.
var ErrSealed = errors.New("sealed value does not open")

// Sealer seals and opens with one key. It is safe for concurrent use. Nonces
// are random: one key is good for 2^32 seals, far more than keys are ever made.
type Sealer struct {
	aead cipher.AEAD
	id   [idSize]byte
}

// New makes a Sealer of a key of KeySize bytes.
func New(key []byte) (*Sealer, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("seal key has %d bytes, want %d", len(key), KeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	s := &Sealer{aead: aead}
	sum := sha256.Sum256(append([]byte("sallyport seal key id\x00"), key...))
	copy(s.id[:], sum[:])
	return s, nil
}

// ID names the key without revealing it: 8 hexadecimal digits.
func (s *Sealer) ID() string { return hex.EncodeToString(s.id[:]) }

// Seal encrypts plain for one path (the record's key in the store) and version.
func (s *Sealer) Seal(path string, version uint64, plain []byte) ([]byte, error) {
	out := make([]byte, headSize+nonceSize, headSize+nonceSize+len(plain)+tagSize)
	out[0] = format
	copy(out[1:], s.id[:])
	binary.BigEndian.PutUint64(out[1+idSize:], version)
	nonce := out[headSize : headSize+nonceSize]
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return s.aead.Seal(out, nonce, plain, additional(path, version, out[:headSize])), nil
}

// Open decrypts what Seal made for the same path and version. Errors wrap
// ErrSealed.
func (s *Sealer) Open(path string, version uint64, sealed []byte) ([]byte, error) {
	if len(sealed) < headSize+nonceSize+tagSize || sealed[0] != format {
		return nil, fmt.Errorf("%w: %s holds no sealed value", ErrSealed, path)
	}
	if id := sealed[1 : 1+idSize]; string(id) != string(s.id[:]) {
		return nil, fmt.Errorf("%w: %s was sealed with key %x, this is key %s", ErrSealed, path, id, s.ID())
	}
	if v := binary.BigEndian.Uint64(sealed[1+idSize:]); v != version {
		return nil, fmt.Errorf("%w: %s is version %d, want %d", ErrSealed, path, v, version)
	}
	nonce := sealed[headSize : headSize+nonceSize]
	plain, err := s.aead.Open(nil, nonce, sealed[headSize+nonceSize:], additional(path, version, sealed[:headSize]))
	if err != nil {
		return nil, fmt.Errorf("%w: %s was altered or moved", ErrSealed, path)
	}
	return plain, nil
}

// additional is the authenticated context: unambiguous, since the path's length
// stands before it.
func additional(path string, version uint64, head []byte) []byte {
	b := binary.AppendUvarint([]byte("sallyport seal\x00"), uint64(len(path)))
	b = append(b, path...)
	b = binary.BigEndian.AppendUint64(b, version)
	return append(b, head...)
}
