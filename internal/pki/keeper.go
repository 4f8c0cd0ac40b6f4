package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// LookAgain is how often files are read anew, and the shortest time between two
// attempts to renew a certificate.
const LookAgain = 10 * time.Second

// Keeper holds the certificate that a listener or client presents now, and
// replaces it without a restart: by looking at the user's files again, or by
// issuing a new one when two thirds of its life have passed. It looks when a
// handshake asks, so it needs no goroutine. It is safe for concurrent use.
type Keeper struct {
	now     func() time.Time
	log     *slog.Logger
	current atomic.Pointer[tls.Certificate]
	next    atomic.Int64 // when to look again, Unix nanoseconds

	mu   sync.Mutex // one refresh at a time; guards what load closes over
	load func(have *tls.Certificate) (*tls.Certificate, error)
}

// FromFiles keeps the user's own certificate: a PEM chain (leaf first) and its
// key. The files may be replaced at any time, the key and the chain one after
// the other; until both fit, the old pair stays in use and a warning is logged.
func FromFiles(certFile, keyFile string, now func() time.Time, log *slog.Logger) (*Keeper, error) {
	var seen []byte
	return newKeeper(now, log, func(have *tls.Certificate) (*tls.Certificate, error) {
		cert, err := os.ReadFile(certFile)
		if err != nil {
			return nil, fmt.Errorf("read certificate: %w", err)
		}
		key, err := os.ReadFile(keyFile)
		if err != nil {
			return nil, fmt.Errorf("read certificate key: %w", err)
		}
		both := bytes.Join([][]byte{cert, key}, []byte{0})
		if have != nil && bytes.Equal(both, seen) {
			return have, nil
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("certificate %s and key %s: %w", certFile, keyFile, err)
		}
		seen = both
		return &pair, nil
	})
}

// FromCA keeps a certificate of our own CA, with the CA in its chain so that
// clients can pin it.
func FromCA(ca *CA, l Leaf, log *slog.Logger) (*Keeper, error) {
	return newKeeper(ca.now, log, func(have *tls.Certificate) (*tls.Certificate, error) {
		if have != nil {
			life := have.Leaf.NotAfter.Sub(have.Leaf.NotBefore)
			if ca.now().Before(have.Leaf.NotBefore.Add(life * 2 / 3)) {
				return have, nil
			}
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make certificate key: %w", err)
		}
		leaf, err := ca.Issue(key.Public(), l)
		if err != nil {
			return nil, err
		}
		return &tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.Cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
	})
}

func newKeeper(now func() time.Time, log *slog.Logger, load func(*tls.Certificate) (*tls.Certificate, error)) (*Keeper, error) {
	k := &Keeper{now: now, log: log, load: load}
	first, err := load(nil)
	if err != nil {
		return nil, err
	}
	k.current.Store(first)
	k.next.Store(now().Add(LookAgain).UnixNano())
	return k, nil
}

// Certificate is the certificate in use, looked at again when that is due.
func (k *Keeper) Certificate() *tls.Certificate {
	if k.load == nil {
		return k.current.Load() // see Handed; nil before the first
	}
	now := k.now()
	if now.UnixNano() < k.next.Load() || !k.mu.TryLock() {
		return k.current.Load()
	}
	defer k.mu.Unlock()
	have := k.current.Load()
	cert, err := k.load(have)
	k.next.Store(now.Add(LookAgain).UnixNano())
	if err != nil {
		k.log.Warn("certificate not renewed, the old one stays in use", "error", err, "expires", have.Leaf.NotAfter)
		return have
	}
	if cert != have {
		k.current.Store(cert)
		k.log.Info("certificate renewed", "subject", cert.Leaf.Subject.String(), "expires", cert.Leaf.NotAfter)
	}
	return cert
}

// GetCertificate fits tls.Config of a server.
func (k *Keeper) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return k.present()
}

// GetClientCertificate fits tls.Config of a client.
func (k *Keeper) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return k.present()
}

func (k *Keeper) present() (*tls.Certificate, error) {
	if c := k.Certificate(); c != nil {
		return c, nil
	}
	return nil, errors.New("no certificate was issued to this process yet")
}
