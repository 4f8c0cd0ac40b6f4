package mandate

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"

	"github.com/sallyport/sallyport/trust"
)

// MaxSize is the largest signed message that is looked at, in bytes.
const MaxSize = 32 << 20

// version of the envelope and of both payloads. A message of another version is
// refused: agents are told what they understand or nothing.
const version = 1

// Contexts separate what one key signs: a signature made for one kind of
// message is worthless for another. They stand before the payload instead of in
// Ed25519ctx's parameter (RFC 8032, 5.1), which key services do not offer.
const (
	stateContext  = "sallyport mandate state v1\x00"
	answerContext = "sallyport mandate answer v1\x00"
)

// envelope carries the payload byte for byte, so that the signature is checked
// before anything inside is parsed.
type envelope struct {
	Version   int    `json:"version"`
	Payload   []byte `json:"payload"`
	Signature []byte `json:"signature"`
}

func seal(key ed25519.PrivateKey, context string, payload any) ([]byte, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("sign: key has %d bytes, want %d", len(key), ed25519.PrivateKeySize)
	}
	data, err := json.Marshal(payload)
	if err != nil {
		return nil, fmt.Errorf("sign: encode: %w", err)
	}
	out, err := json.Marshal(envelope{Version: version, Payload: data, Signature: ed25519.Sign(key, append([]byte(context), data...))})
	if err != nil {
		return nil, fmt.Errorf("sign: encode: %w", err)
	}
	if len(out) > MaxSize {
		return nil, trust.Errorf(trust.TooLarge, "the signed state has %d bytes, the limit is %d", len(out), MaxSize)
	}
	return out, nil
}

// unseal checks the signature and decodes the payload into v.
func unseal(pub ed25519.PublicKey, context string, data []byte, v any) error {
	if len(data) > MaxSize {
		return trust.Errorf(trust.TooLarge, "a signed message of %d bytes is over the limit of %d", len(data), MaxSize)
	}
	var e envelope
	if err := strict(data, &e); err != nil {
		return trust.Errorf(trust.Invalid, "this is not a signed message of the control plane").Because(err)
	}
	if e.Version != version {
		return trust.Errorf(trust.Unsupported, "the control plane signs messages of version %d, this agent reads version %d", e.Version, version)
	}
	if len(pub) != ed25519.PublicKeySize || !ed25519.Verify(pub, append([]byte(context), e.Payload...), e.Signature) {
		return trust.Errorf(trust.Forbidden, "the message is not signed by the control plane that this cluster was connected to")
	}
	if err := strict(e.Payload, v); err != nil {
		return trust.Errorf(trust.Unsupported, "the signed message has a form that this agent does not read").Because(err)
	}
	return nil
}

// strict decodes exactly one JSON value without unknown fields: what an agent
// does not understand it must not skip.
func strict(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("bytes after the message")
	}
	return nil
}
