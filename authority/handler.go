package authority

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/trust"
)

// keysMaxAge is how long an answer about keys may be kept: as long as verifiers
// keep a set before they look again.
const keysMaxAge = "public, max-age=300"

// NamesTenant tells whether a word is what clients ask for as a tenant in place
// of a GUID. Two mean whichever tenant a person belongs to, "adfs" has a
// discovery document, and "consumers" is told what to use instead.
func NamesTenant(word string) bool {
	switch trust.Fold(word) {
	case "common", "organizations", "consumers", "adfs":
		return true
	}
	return false
}

// Handler serves the authority's routes, all below /{tenant}/, and below
// /common/ and /organizations/, by which clients mean whichever tenant a person
// belongs to:
//
//	POST oauth2/v2.0/token                      token endpoint, scope=
//	POST oauth2/token                           token endpoint of v1, resource=
//	POST oauth2/v2.0/devicecode                 begins a device sign-in (also oauth2/devicecode)
//	POST oauth2/v2.0/revoke                     ends the session of a refresh token
//	GET  oauth2/v2.0/authorize                  people sign in (also oauth2/authorize)
//	     device, signin/…                       the pages of it
//	GET  v2.0/.well-known/openid-configuration  discovery (also without v2.0, and as tenant "adfs")
//	GET  discovery/v2.0/keys                    key set (also discovery/keys)
//
// It takes paths with more than one leading slash, since clients whose authority
// URL ends in one send them; whoever mounts it must not clean paths by redirect.
func (a *Authority) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		tenant, route, _ := strings.Cut(strings.TrimLeft(r.URL.Path, "/"), "/")
		// MSAL asks nobody else whether it may trust an authority that ends in
		// /adfs; the document sends it to the tenant for all else.
		if tenant == "adfs" && route == ".well-known/openid-configuration" {
			a.discovery(w, r)
			return
		}
		people := false // whoever belongs to no tenant that was named
		switch trust.Fold(tenant) {
		case a.conf.Tenant:
		case "common", "organizations":
			people = true
		case "consumers":
			a.fail(w, r, &oauthError{status: http.StatusBadRequest, code: "invalid_request", number: 90002, text: "Tenant 'consumers' not found. There are no personal accounts here: use 'organizations', 'common' or the tenant '" + a.conf.Tenant + "'."})
			return
		default:
			a.fail(w, r, &oauthError{status: http.StatusBadRequest, code: "invalid_request", number: 90002, text: "Tenant '" + printable(tenant) + "' not found."})
			return
		}
		switch route {
		case "oauth2/v2.0/token":
			a.token(w, r, formV2, people)
		case "oauth2/token":
			a.token(w, r, formV1, people)
		case "oauth2/v2.0/devicecode":
			a.device(w, r, formV2)
		case "oauth2/devicecode":
			a.device(w, r, formV1)
		case "oauth2/v2.0/revoke":
			a.revoke(w, r)
		case "oauth2/v2.0/authorize":
			a.authorize(w, r, formV2)
		case "oauth2/authorize":
			a.authorize(w, r, formV1)
		case "device":
			a.devicePage(w, r)
		case "signin":
			a.password(w, r)
		case "signin/cancel":
			a.cancel(w, r)
		case "signin/provider":
			a.toProvider(w, r)
		case "signin/callback":
			a.fromProvider(w, r)
		case "v2.0/.well-known/openid-configuration", ".well-known/openid-configuration":
			a.discovery(w, r)
		case "discovery/v2.0/keys", "discovery/keys":
			a.keySet(w, r)
		default:
			a.fail(w, r, &oauthError{status: http.StatusNotFound, code: "invalid_request", number: 900144, text: "The authority has no such endpoint."})
		}
	})
}

// discovery answers with the document of OpenID Connect Discovery 1.0. MSAL
// wants an authorization_endpoint even where nobody is sent to it.
func (a *Authority) discovery(w http.ResponseWriter, r *http.Request) {
	at := a.base + "/" + a.conf.Tenant
	a.publish(w, r, map[string]any{
		"issuer":                                           a.issuer,
		"authorization_endpoint":                           at + "/oauth2/v2.0/authorize",
		"token_endpoint":                                   at + "/oauth2/v2.0/token",
		"jwks_uri":                                         at + "/discovery/v2.0/keys",
		"device_authorization_endpoint":                    at + "/oauth2/v2.0/devicecode",
		"revocation_endpoint":                              at + "/oauth2/v2.0/revoke",
		"grant_types_supported":                            []string{grantClientCredentials, grantCode, grantRefresh, grantDevice},
		"response_modes_supported":                         []string{"query", "form_post"},
		"code_challenge_methods_supported":                 []string{"S256"},
		"authorization_response_iss_parameter_supported":   true,
		"response_types_supported":                         []string{"code"},
		"subject_types_supported":                          []string{"public"},
		"id_token_signing_alg_values_supported":            []string{a.conf.Algorithm},
		"token_endpoint_auth_methods_supported":            []string{"client_secret_post", "client_secret_basic", "private_key_jwt", "none"},
		"token_endpoint_auth_signing_alg_values_supported": []string{"PS256", "RS256", "ES256"},
		"scopes_supported":                                 []string{"openid", "profile", "email", "offline_access"},
		"claims_supported":                                 []string{"iss", "aud", "sub", "oid", "tid", "appid", "azp", "idtyp", "xms_mirid", "name", "preferred_username", "groups", "idp", "uti", "ver", "iat", "nbf", "exp"},
	})
}

// keySet answers with the JSON Web Key Set (RFC 7517).
func (a *Authority) keySet(w http.ResponseWriter, r *http.Request) {
	records, err := a.conf.Directory.published()
	if err != nil {
		a.fail(w, r, unavailable(err))
		return
	}
	keys := make([]json.RawMessage, 0, len(records))
	for _, k := range records {
		keys = append(keys, k.Public)
	}
	a.publish(w, r, map[string]any{"keys": keys})
}

// publish answers a GET or HEAD with a document that may be cached.
func (a *Authority) publish(w http.ResponseWriter, r *http.Request, document any) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		a.fail(w, r, &oauthError{status: http.StatusMethodNotAllowed, code: "invalid_request", number: 900561, text: "The endpoint only accepts GET requests."})
		return
	}
	body, err := json.Marshal(document)
	if err != nil {
		a.fail(w, r, unavailable(err))
		return
	}
	sum := sha256.Sum256(body)
	etag := `"` + hex.EncodeToString(sum[:16]) + `"`
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", keysMaxAge)
	h.Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if r.Method == http.MethodGet {
		_, _ = w.Write(body)
	}
}
