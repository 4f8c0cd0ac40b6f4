package trust

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
)

// Rule is one Kubernetes policy rule (rbac.authorization.k8s.io/v1 PolicyRule),
// with the same meaning of every field and wildcard.
type Rule struct {
	Verbs           []string
	APIGroups       []string
	Resources       []string
	ResourceNames   []string
	NonResourceURLs []string
}

// RoleName is a role's full name as bindings write it:
// "<resource provider namespace>/<type>/<name>". The type may have several
// segments. Names compare without regard to ASCII case.
type RoleName string

// SourceType is the part before the last slash, the resource type that the role
// is for; "" if there is none.
func (n RoleName) SourceType() string {
	i := strings.LastIndexByte(string(n), '/')
	if i < 0 {
		return ""
	}
	return string(n[:i])
}

// Short is the part after the last slash.
func (n RoleName) Short() string {
	return string(n[strings.LastIndexByte(string(n), '/')+1:])
}

// Equal compares two names without regard to ASCII case.
func (n RoleName) Equal(o RoleName) bool { return Fold(string(n)) == Fold(string(o)) }

// Role is what a service of one resource type asks of clusters.
type Role struct {
	SourceType string // "Microsoft.MachineLearningServices/workspaces"
	Name       string // "mlworkload"
	Rules      []Rule
}

// FullName is the name that bindings use.
func (r Role) FullName() RoleName { return RoleName(r.SourceType + "/" + r.Name) }

// Revision is the hash of a role's rules: 32 lower-case hexadecimal digits.
type Revision string

// RevisionOf hashes rules. Order and repetition, of rules and inside them, do
// not matter: rules that mean the same have the same revision, and what the
// hash covers is unambiguous, so that no two different rule sets collide.
func RevisionOf(rules []Rule) Revision {
	encoded := make([]string, 0, len(rules))
	for _, r := range rules {
		var b []byte
		for _, list := range [][]string{r.Verbs, r.APIGroups, r.Resources, r.ResourceNames, r.NonResourceURLs} {
			set := slices.Clone(list)
			slices.Sort(set)
			set = slices.Compact(set)
			b = binary.AppendUvarint(b, uint64(len(set)))
			for _, s := range set {
				b = binary.AppendUvarint(b, uint64(len(s)))
				b = append(b, s...)
			}
		}
		encoded = append(encoded, string(b))
	}
	slices.Sort(encoded)
	encoded = slices.Compact(encoded)
	h := sha256.New()
	for _, e := range encoded {
		h.Write(binary.AppendUvarint(nil, uint64(len(e))))
		h.Write([]byte(e))
	}
	return Revision(hex.EncodeToString(h.Sum(nil)[:16]))
}

// Revision is the role's current revision.
func (r Role) Revision() Revision { return RevisionOf(r.Rules) }

// SameFold is Fold(a) == Fold(b), without the copies.
func SameFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i < len(a); i++ {
		if a[i] != b[i] && foldByte(a[i]) != foldByte(b[i]) {
			return false
		}
	}
	return true
}

func foldByte(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// Fold lower-cases ASCII letters and leaves everything else alone. It is how
// resource ids, types and role names compare: unlike Unicode case folding it
// cannot make the Kelvin sign equal to k.
func Fold(s string) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if c := b[i]; 'A' <= c && c <= 'Z' {
					b[i] = c + 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}
