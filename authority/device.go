package authority

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// The device authorization grant (RFC 8628), for programs without a browser.
const (
	deviceLife     = 15 * time.Minute
	deviceInterval = 5 * time.Second // between two polls
	maxDevices     = 1000            // waiting at a time; strangers make them
	devicePending  = "authorization_pending"
	userCodeSize   = 8
	// No vowels, so that no words come out, and nothing that is misread
	// (RFC 8628, 6.1).
	userCodeLetters = "BCDFGHJKLMNPQRSTVWXZ"
)

// device begins a sign-in: it gives the program a secret to poll with and the
// person a code to type.
func (a *Authority) device(w http.ResponseWriter, r *http.Request, f form) {
	client := a.conf.ClientAddress(r)
	oerr := a.limited(client)
	var get func(string) string
	if oerr == nil {
		get, oerr = a.readForm(w, r)
	}
	var answer map[string]any
	if oerr == nil {
		// Counted as a failure whether it is one or not: each costs a record.
		a.limit.failed(network(client))
		answer, oerr = a.newDevice(r.Context(), get, f, client.String())
	}
	if oerr != nil {
		a.fail(w, r, oerr)
		return
	}
	writeJSON(w, http.StatusOK, answer)
}

func (a *Authority) newDevice(ctx context.Context, get func(string) string, f form, from string) (map[string]any, *oauthError) {
	clientID := trust.Fold(get("client_id"))
	if _, known := a.publicClient(clientID); !known {
		return nil, unknownClient(clientID)
	}
	scope := get("scope")
	if len(scope) > maxScope {
		return nil, invalidScope()
	}
	if _, oerr := a.personScope(get, f); oerr != nil {
		return nil, oerr
	}
	waiting, _, err := store.List[store.Device](ctx, a.conf.Store, store.DevicePrefix, store.Limit(maxDevices))
	if err != nil {
		return nil, unavailable(err)
	}
	if len(waiting) >= maxDevices {
		return nil, &oauthError{status: http.StatusTooManyRequests, code: "temporarily_unavailable", number: 90055, text: "Too many device sign-ins are waiting. Use the browser flow, or try again later.", retry: time.Minute}
	}
	code, err := newUserCode()
	if err != nil {
		return nil, unavailable(err)
	}
	now, secret := a.conf.Now(), random(32)
	d := store.Device{ID: deviceID(secret), UserCode: userCodeID(code), ClientID: clientID, Scope: scope, From: from, Created: now, Expires: now.Add(deviceLife)}
	if _, err := a.conf.Store.Commit(ctx, store.Create(d)); err != nil {
		return nil, unavailable(err)
	}
	page := a.base + "/" + a.conf.Tenant + "/device"
	return map[string]any{
		"device_code": secret + "." + d.UserCode, "user_code": code, "verification_uri": page, "verification_url": page,
		"expires_in": int(deviceLife / time.Second), "interval": int(deviceInterval / time.Second),
		"message": fmt.Sprintf("To sign in, use a web browser to open the page %s and enter the code %s to authenticate.", page, code),
	}, nil
}

// maxScope is how long a scope may be that is kept.
const maxScope = 1024

func newUserCode() (string, error) {
	var b strings.Builder
	for range userCodeSize {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(userCodeLetters))))
		if err != nil {
			return "", err
		}
		b.WriteByte(userCodeLetters[n.Int64()])
	}
	return b.String(), nil
}

// userCodeID finds a device sign-in by what a person types: in any case, with
// blanks and dashes.
func userCodeID(typed string) string {
	code := strings.ToUpper(strings.NewReplacer(" ", "", "-", "").Replace(typed))
	return hex.EncodeToString(hashText("user code", code))
}

func deviceID(secret string) string {
	return base64.RawURLEncoding.EncodeToString(hashText("device code", secret))
}

// checkDevice finds the device sign-in of a code, if its person has approved.
func (a *Authority) checkDevice(ctx context.Context, get func(string) string, clientID string, now time.Time) (store.Item[store.Device], *oauthError) {
	presented := get("device_code")
	if presented == "" {
		presented = get("code") // of v1
	}
	none := store.Item[store.Device]{}
	secret, key, ok := strings.Cut(presented, ".")
	if raw, err := hex.DecodeString(key); !ok || err != nil || len(raw) != 32 || len(secret) != 43 {
		return none, badDeviceCode()
	}
	item, err := store.Get[store.Device](ctx, a.conf.Store, store.Device{UserCode: key}.Key())
	if err != nil && trust.KindOf(err) != trust.NotFound {
		return none, unavailable(err)
	}
	d := &item.Value
	switch {
	case err != nil || subtle.ConstantTimeCompare([]byte(d.ID), []byte(deviceID(secret))) != 1:
		return none, badDeviceCode()
	case trust.Fold(d.ClientID) != clientID:
		return none, &oauthError{status: http.StatusBadRequest, code: "invalid_grant", number: 700005, text: "The device code was issued to another client."}
	case !now.Before(d.Expires):
		return none, &oauthError{status: http.StatusBadRequest, code: "expired_token", number: 70020, text: "The device code has expired. Begin again."}
	case d.Denied:
		return none, &oauthError{status: http.StatusBadRequest, code: "authorization_declined", number: 70019, text: "The person declined."}
	case d.Person != nil:
		return item, nil
	case a.polls.early(d.ID, now):
		return none, &oauthError{status: http.StatusBadRequest, code: "slow_down", number: 70016, text: fmt.Sprintf("Polled too often: wait %d s between two.", deviceInterval/time.Second)}
	}
	return none, &oauthError{status: http.StatusBadRequest, code: devicePending, number: 70016, text: "The person has not approved yet."}
}

// badDeviceCode is the answer to a code that never was, or was used already.
func badDeviceCode() *oauthError {
	return &oauthError{status: http.StatusBadRequest, code: "bad_verification_code", number: 70018, text: "The device code is unknown or was used already."}
}

// settleDevice writes down what a person decided about a waiting sign-in, once.
func (a *Authority) settleDevice(ctx context.Context, key string, decide func(*store.Device)) error {
	item, err := store.Get[store.Device](ctx, a.conf.Store, store.Device{UserCode: key}.Key())
	if trust.KindOf(err) == trust.NotFound {
		return errNoDevice
	}
	if err != nil {
		return err
	}
	d := item.Value
	if d.Person != nil || d.Denied || !a.conf.Now().Before(d.Expires) {
		return errNoDevice
	}
	decide(&d)
	if _, err = a.conf.Store.Commit(ctx, store.Update(d, item.Revision)); errors.Is(err, store.ErrConflict) {
		return errNoDevice
	}
	return err
}

var errNoDevice = trust.Errorf(trust.NotFound, "No sign-in waits for this code. It may have been used or have expired: begin again.")
