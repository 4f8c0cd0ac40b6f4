// Package authn says who is calling: it turns a bearer token into a
// trust.Caller, or refuses it with the reason.
//
// It owns the verification of JSON Web Tokens (RFC 7519) with a closed list of
// algorithms, the key sets of configured issuers and their refresh, and the
// cache of verified tokens. It decides nothing about what a caller may do, and
// it issues no tokens: those are package control's, gateway's and authority's.
//
// The rules, all fail closed: the issuer decides the key set, the key decides
// the algorithm, and nothing in a token points to a key but its kid; exactly
// one audience; 60 s leeway on iat and nbf, none on exp; an issuer speaks only
// for its own tenants, and for managed identities only inside its scopes; a
// key set not fetched for an hour is not believed.
package authn
