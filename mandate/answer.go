package mandate

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"

	"github.com/sallyport/sallyport/trust"
)

// Answer is the control plane's word, given after it saw Nonce, that nothing
// newer than (Epoch, Revision) exists for the cluster.
type Answer struct {
	Cluster  trust.ClusterUID `json:"cluster"`
	Epoch    int64            `json:"epoch"`
	Revision int64            `json:"revision"`
	Nonce    string           `json:"nonce"`
}

// Floor is the (epoch, revision) that the answer vouches for.
func (a Answer) Floor() Floor { return Floor{a.Epoch, a.Revision} }

// nonceBytes of randomness: too many for two agents ever to ask the same.
const nonceBytes = 24

// NewNonce returns a fresh nonce: 32 characters of URL-safe base64.
func NewNonce() string {
	var b [nonceBytes]byte
	rand.Read(b[:]) // never fails: crypto/rand.Read crashes instead
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// ValidNonce reports whether s has the form of a nonce. The control plane signs
// nothing else that a caller hands it.
func ValidNonce(s string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return err == nil && len(b) == nonceBytes
}

// SignAnswer encodes and signs an answer.
func SignAnswer(key ed25519.PrivateKey, a Answer) ([]byte, error) {
	if !isUUID(string(a.Cluster)) || !ValidNonce(a.Nonce) || a.Epoch < 0 || a.Revision < 0 {
		return nil, trust.Errorf(trust.Invalid, "a nonce is %d random bytes in URL-safe base64, sent by an agent of a registered cluster", nonceBytes)
	}
	return seal(key, answerContext, a)
}

// OpenAnswer checks and decodes an answer to nonce.
func OpenAnswer(pub ed25519.PublicKey, cluster trust.ClusterUID, nonce string, data []byte) (Answer, error) {
	a, err := openAnswer(pub, cluster, data)
	if err != nil {
		return Answer{}, err
	}
	if subtle.ConstantTimeCompare([]byte(a.Nonce), []byte(nonce)) != 1 {
		return Answer{}, trust.Errorf(trust.Conflict, "the answer is to another nonce")
	}
	return a, nil
}

func openAnswer(pub ed25519.PublicKey, cluster trust.ClusterUID, data []byte) (Answer, error) {
	var a Answer
	if err := unseal(pub, answerContext, data, &a); err != nil {
		return Answer{}, err
	}
	if a.Cluster != cluster {
		return Answer{}, trust.Errorf(trust.Forbidden, "the answer is for cluster %s, this is an agent of cluster %s", a.Cluster, cluster)
	}
	if !ValidNonce(a.Nonce) || a.Epoch < 0 || a.Revision < 0 {
		return Answer{}, trust.Errorf(trust.Invalid, "the answer does not hold together")
	}
	return a, nil
}
