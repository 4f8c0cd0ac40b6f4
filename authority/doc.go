// Package authority issues the tokens of identities and publishes the keys that
// verify them: an OAuth 2.0 token endpoint and an OpenID Connect issuer, in the
// shapes that Azure's SDKs speak (azidentity, MSAL, hashicorp's).
//
// It owns the signing keys (made, rotated, revoked, sealed at rest), the hashes
// of client secrets, and the Directory: the memory of keys, identities and
// credentials that verifiers go by, kept true by watches. Package control makes
// identities and federated credentials; this package only reads them. How a
// token is verified is package authn's; what its bearer may do is not decided
// here.
//
// A caller only ever exchanges a credential that it holds itself: there is no
// call, for nobody, that yields another identity's token.
package authority
