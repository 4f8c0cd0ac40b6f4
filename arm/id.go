package arm

import (
	"strings"

	"github.com/sallyport/sallyport/trust"
)

// ID is a parsed resource id. The zero ID is the root of everything, "/". Names
// keep the casing that they were written in; literals ("subscriptions",
// "resourceGroups", "providers") are written in ARM's own.
type ID struct {
	Subscription string // GUID, "" outside a subscription
	Group        string // "" outside a resource group
	// Chain are the "/providers/…" parts. The last one is the resource itself;
	// those before it are what it extends (a role assignment on a cluster).
	Chain []Provider
}

// Provider is one "/providers/<Namespace>/<type>/<name>[/<type>/<name>…]" of an
// id; Types and Names are of equal length, at least one.
type Provider struct {
	Namespace    string
	Types, Names []string
}

// Limits of ids, far above what ARM's own clients make.
const (
	maxID      = 2048
	maxSegment = 260
)

// ParseID reads a resource id: of the root, a subscription, a resource group or
// a resource. Ids are ASCII. An error is of kind Invalid.
func ParseID(s string) (ID, error) {
	var id ID
	if s == "/" {
		return id, nil
	}
	if len(s) > maxID {
		return id, trust.Errorf(trust.Invalid, "a resource id has %d characters, the limit is %d", len(s), maxID)
	}
	rest, ok := strings.CutPrefix(s, "/")
	if !ok {
		return id, badID(s, "it must begin with /subscriptions/ or /providers/")
	}
	segments := strings.Split(rest, "/")
	for _, seg := range segments {
		if why := badSegment(seg); why != "" {
			return ID{}, badID(s, why)
		}
	}
	if is(segments[0], "subscriptions") {
		if len(segments) < 2 || !ValidGUID(segments[1]) {
			return ID{}, badID(s, "the subscription must be a GUID")
		}
		id.Subscription, segments = segments[1], segments[2:]
		if len(segments) > 0 && is(segments[0], "resourceGroups") {
			if len(segments) < 2 || !ValidGroupName(segments[1]) {
				return ID{}, badID(s, "the resource group's name is missing or not valid")
			}
			id.Group, segments = segments[1], segments[2:]
		}
	}
	for len(segments) > 0 {
		if !is(segments[0], "providers") {
			return ID{}, badID(s, "after the scope it must go on with /providers/")
		}
		p, n, why := parseProvider(segments[1:])
		if why != "" {
			return ID{}, badID(s, why)
		}
		id.Chain = append(id.Chain, p)
		segments = segments[1+n:]
	}
	return id, nil
}

// parseProvider reads "<Namespace>/<type>/<name>…" up to the next "providers"
// in the place of a type, and tells how many segments that took.
func parseProvider(segments []string) (Provider, int, string) {
	if len(segments) < 3 {
		return Provider{}, 0, "after /providers/ it must name namespace, type and name"
	}
	p := Provider{Namespace: segments[0]}
	if !ValidTypePart(p.Namespace) {
		return Provider{}, 0, "the namespace is not valid"
	}
	n := 1
	for n < len(segments) && !is(segments[n], "providers") {
		if n+1 == len(segments) {
			return Provider{}, 0, "the last name is missing"
		}
		if !ValidTypePart(segments[n]) {
			return Provider{}, 0, "the type is not valid"
		}
		p.Types, p.Names = append(p.Types, segments[n]), append(p.Names, segments[n+1])
		n += 2
	}
	if len(p.Types) == 0 {
		return Provider{}, 0, "the type is missing"
	}
	return p, n, ""
}

func badID(s, why string) error {
	return trust.Errorf(trust.Invalid, "%.300q is not a resource id: %s", s, why)
}

// is compares with a literal without regard to ASCII case.
func is(s, literal string) bool {
	return len(s) == len(literal) && trust.Fold(s) == trust.Fold(literal)
}

// String writes the id, "/" for the root.
func (id ID) String() string {
	var b strings.Builder
	if id.Subscription != "" {
		b.WriteString("/subscriptions/" + id.Subscription)
	}
	if id.Group != "" {
		b.WriteString("/resourceGroups/" + id.Group)
	}
	for _, p := range id.Chain {
		b.WriteString("/providers/" + p.Namespace)
		for i := range p.Types {
			b.WriteString("/" + p.Types[i] + "/" + p.Names[i])
		}
	}
	if b.Len() == 0 {
		return "/"
	}
	return b.String()
}

// Equal compares without regard to ASCII case.
func (id ID) Equal(o ID) bool { return SameID(id.String(), o.String()) }

// SameID compares two ids as text, without regard to ASCII case.
func SameID(a, b string) bool { return trust.Fold(a) == trust.Fold(b) }

// IsRoot tells whether id is "/".
func (id ID) IsRoot() bool { return id.Subscription == "" && len(id.Chain) == 0 }

// IsResource tells whether id names a resource of a provider.
func (id ID) IsResource() bool { return len(id.Chain) > 0 }

// last is the resource itself.
func (id ID) last() Provider {
	if len(id.Chain) == 0 {
		return Provider{}
	}
	return id.Chain[len(id.Chain)-1]
}

// Namespace is the resource's provider namespace, "" for scopes.
func (id ID) Namespace() string { return id.last().Namespace }

// Type is the resource's full type, "Microsoft.ContainerService/managedClusters";
// for scopes what ARM calls them, and "" for the root.
func (id ID) Type() string {
	p := id.last()
	switch {
	case len(p.Types) > 0:
		return p.Namespace + "/" + strings.Join(p.Types, "/")
	case id.Group != "":
		return "Microsoft.Resources/resourceGroups"
	case id.Subscription != "":
		return "Microsoft.Resources/subscriptions"
	}
	return ""
}

// Name is the resource's own name, the last segment; "" for the root.
func (id ID) Name() string {
	p := id.last()
	switch {
	case len(p.Names) > 0:
		return p.Names[len(p.Names)-1]
	case id.Group != "":
		return id.Group
	}
	return id.Subscription
}

// FullName is how error messages write a resource: "Ns/type/name", nested
// "Ns/type/name/type/name".
func (id ID) FullName() string {
	p := id.last()
	if len(p.Types) == 0 {
		return id.String()
	}
	s := p.Namespace
	for i := range p.Types {
		s += "/" + p.Types[i] + "/" + p.Names[i]
	}
	return s
}

// Parent is the resource that a child lies under, the scope for one that lies
// under none, and the root for the root.
func (id ID) Parent() ID {
	if n := len(id.Chain); n > 0 {
		chain := append([]Provider(nil), id.Chain...)
		p := chain[n-1]
		if k := len(p.Types); k > 1 {
			chain[n-1] = Provider{Namespace: p.Namespace, Types: p.Types[: k-1 : k-1], Names: p.Names[: k-1 : k-1]}
			id.Chain = chain
			return id
		}
		id.Chain = chain[:n-1]
		return id
	}
	if id.Group != "" {
		id.Group = ""
		return id
	}
	return ID{}
}

// Scopes are id and everything it lies in, from the root down: what role
// assignments are inherited from.
func (id ID) Scopes() []ID {
	scopes := []ID{id}
	for !id.IsRoot() {
		id = id.Parent()
		scopes = append(scopes, id)
	}
	for i, j := 0, len(scopes)-1; i < j; i, j = i+1, j-1 {
		scopes[i], scopes[j] = scopes[j], scopes[i]
	}
	return scopes
}

// Child is a resource under this one: "<id>/<type>/<name>".
func (id ID) Child(typ, name string) ID {
	n := len(id.Chain)
	if n == 0 {
		return id
	}
	chain := append([]Provider(nil), id.Chain...)
	p := chain[n-1]
	chain[n-1] = Provider{
		Namespace: p.Namespace,
		Types:     append(append([]string(nil), p.Types...), typ),
		Names:     append(append([]string(nil), p.Names...), name),
	}
	id.Chain = chain
	return id
}

// Extend is a resource of another provider on this scope:
// "<id>/providers/<namespace>/<type>/<name>".
func (id ID) Extend(namespace, typ, name string) ID {
	id.Chain = append(append([]Provider(nil), id.Chain...), Provider{Namespace: namespace, Types: []string{typ}, Names: []string{name}})
	return id
}

// SubscriptionID is the id of the subscription that id lies in.
func (id ID) SubscriptionID() ID { return ID{Subscription: id.Subscription} }

// GroupID is the id of the resource group that id lies in.
func (id ID) GroupID() ID { return ID{Subscription: id.Subscription, Group: id.Group} }
