package extension

import (
	"slices"
	"strings"

	"github.com/sallyport/sallyport/trust"
)

// Type is one type of extensions.
type Type struct {
	Name    string   // "Microsoft.AzureML.Kubernetes"
	Version string   // the one that there is
	Trains  []string // release trains, the default first
	// ReleaseNamespace is where it is installed when its scope is the cluster;
	// Fixed says that it can be nowhere else.
	ReleaseNamespace string
	Fixed            bool
	NamespaceScope   bool // it may be installed for one namespace instead

	// Consent is what the command by which a cluster's owner accepts this type
	// needs beyond cluster and type.
	Consent string

	Settings []Setting

	// mistaken are names that documents have wrong, in lower case, and what they
	// mean.
	mistaken map[string]string
	// fill are the settings that the server knows better than its callers.
	fill func(Cluster) map[string]string
	// suggest are the settings that the server chooses when they are not given.
	suggest func(c Cluster, value func(key string) string) map[string]string
	// check are the rules between settings.
	check func(Values) (warnings []Warning, err error)
	// keep says which settings an update may not take away.
	keep func(key string) bool
}

// Cluster is what of a cluster goes into settings.
type Cluster struct {
	ID, Name, Location string
	Nodes              int // ready ones; 0 if nobody knows
}

// Setting is one setting of a type.
type Setting struct {
	Key     string // a name that ends in "*" stands for all that begin so
	Kind    Kind
	Choices []string // of Choice, in any case
	Default string

	Value     string // what a chart calls it; "" is Key, and for a pattern what stands before its "*"
	Protected bool   // never returned, sealed at rest
	Filled    bool   // by the server
	Effect    Effect // default: Honoured
	Why       string // it has no effect, or is refused, and what to do instead
}

// Kind is what a setting's value must look like. All values are strings.
type Kind uint8

// Kinds of values.
const (
	Text Kind = iota
	Bool
	Seconds
	Choice
	DNSName // a Kubernetes name or a domain
	PEM     // text in PEM, or that in base64
	// ProxyURL is an http URL, with a password if need be.
	ProxyURL
)

// Effect is what becomes of a setting.
type Effect uint8

// Effects of settings.
const (
	Honoured  Effect = iota
	NoEffect         // taken, kept and returned, since scripts send it; nothing depends on it
	RefusedOn        // a Bool that may only be false
	Refused          // not taken at all
)

// Warning is what a caller should know though the request is good.
type Warning struct{ Code, Message string }

// Types are all types.
func Types() []Type { return []Type{azureML(), environmentProbe()} }

// Find finds a type by its name in any case.
func Find(name string) (Type, error) {
	var names []string
	for _, t := range Types() {
		if trust.Fold(t.Name) == trust.Fold(name) {
			return t, nil
		}
		names = append(names, t.Name)
	}
	e := trust.Errorf(trust.Invalid, "The extension type '%.100s' does not exist. There are: %s.", name, strings.Join(names, ", "))
	e.Code, e.Target = "ExtensionTypeNotFound", "properties.extensionType"
	if near := nearest(name, names); near != "" {
		e.Hint = "did you mean " + near + "?"
	}
	return Type{}, e
}

// Train is the release train that is meant, in its own spelling.
func (t *Type) Train(asked string) (string, error) {
	if asked == "" {
		return t.Trains[0], nil
	}
	i := slices.IndexFunc(t.Trains, func(s string) bool { return trust.Fold(s) == trust.Fold(asked) })
	if i < 0 {
		return "", bad("properties.releaseTrain", "the extension %s has no release train '%.64s', it has %s", t.Name, asked, strings.Join(t.Trains, ", "))
	}
	return t.Trains[i], nil
}

// Pin checks a version that a caller asks for: pinning one and upgrading by
// itself exclude each other.
func (t *Type) Pin(version string, autoUpgrade bool) error {
	switch {
	case version == "":
		return nil
	case autoUpgrade:
		return bad("properties.version", "a version can be pinned only with autoUpgradeMinorVersion false")
	case version != t.Version:
		return bad("properties.version", "the extension %s has no version '%.64s', it has %s", t.Name, version, t.Version)
	}
	return nil
}

// Scope is where an extension is: for the cluster, in Release, or for the one
// namespace Target.
type Scope struct{ Release, Target string }

// Place checks the scope that a caller asks for and fills in what is not said.
func (t *Type) Place(s Scope, cluster, namespace bool) (Scope, error) {
	switch {
	case cluster && namespace:
		return s, bad("properties.scope", "it may be for the cluster or for a namespace, not for both")
	case namespace && !t.NamespaceScope:
		return s, bad("properties.scope", "the extension %s is for the whole cluster: leave scope.namespace out", t.Name)
	case namespace && !name(s.Target):
		return s, bad("properties.scope.namespace.targetNamespace", "'%.64s' is not the name of a namespace", s.Target)
	case namespace:
		return Scope{Target: s.Target}, nil
	case s.Release == "":
		return Scope{Release: t.ReleaseNamespace}, nil
	case t.Fixed && s.Release != t.ReleaseNamespace:
		return s, bad("properties.scope.cluster.releaseNamespace", "the extension %s is always installed in namespace %s", t.Name, t.ReleaseNamespace)
	case !name(s.Release):
		return s, bad("properties.scope.cluster.releaseNamespace", "'%.64s' is not the name of a namespace", s.Release)
	}
	return Scope{Release: s.Release}, nil
}

// bad is a refusal of one property. It never quotes a protected value.
func bad(target, format string, args ...any) *trust.Error {
	e := trust.Errorf(trust.Invalid, format, args...)
	e.Message = "The value of " + target + " is invalid: " + e.Message + "."
	e.Code, e.Target = "InvalidConfigurationSettings", target
	return e
}

// name tells whether s can be the name of a Kubernetes object (RFC 1123 label).
func name(s string) bool {
	return len(s) >= 1 && len(s) <= 63 && !strings.HasPrefix(s, "-") && !strings.HasSuffix(s, "-") &&
		!strings.ContainsFunc(s, func(c rune) bool { return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' })
}
