package trust

import "time"

// ClusterUID names one registration of a cluster: new at each registration,
// never reused. Lower-case RFC 9562 UUID.
type ClusterUID string

// BindingUID names one creation of a binding, as ClusterUID does for clusters.
type BindingUID string

// Principal is who a token speaks for: one object of one tenant of one issuer.
// Two principals are the same only if all three are.
type Principal struct {
	Issuer string // the token's iss, byte for byte
	Tenant string // tid
	Object string // oid
}

// Caller is an authenticated caller.
type Caller struct {
	Principal
	ResourceID  string    // xms_mirid: the managed identity's resource id; "" for people and applications
	ClientID    string    // appid or azp
	Name        string    // for people: a name to show; never a decision
	Groups      []string  // for people: groups of GroupIssuer, in the caller's tenant
	GroupIssuer string    // whose groups they are: the token's issuer, or the one that it was got with
	Audience    string    // the token's one audience
	TokenID     string    // uti or jti, for audit
	KeyID       string    // kid of the key that signed the token
	Credential  string    // built-in authority: what the token was exchanged for; removing that ends the token
	Expires     time.Time // exp
}

// Binding is a role binding as the request path needs it: one source, one
// cluster, the grants in force.
type Binding struct {
	ID       string // resource id, in the casing of its creation
	UID      BindingUID
	Cluster  ClusterUID
	SourceID string    // resource id of the source, as sent
	Source   Principal // the source's identity at the time of consent
	Grants   []Grant
}
