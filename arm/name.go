package arm

import (
	"regexp"
	"strings"
)

var (
	guidPattern    = regexp.MustCompile(`^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`)
	groupPattern   = regexp.MustCompile(`^[-\w.()]*[-\w()]$`)
	clusterPattern = regexp.MustCompile(`^[a-zA-Z0-9]$|^[a-zA-Z0-9][-_a-zA-Z0-9]{0,61}[a-zA-Z0-9]$`)
	bindingPattern = regexp.MustCompile(`^[A-Za-z0-9-]{1,24}$`)
	typePattern    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

// Patterns of names as ARM documents them, for messages.
const (
	ClusterNamePattern = `^[a-zA-Z0-9]$|^[a-zA-Z0-9][-_a-zA-Z0-9]{0,61}[a-zA-Z0-9]$`
	BindingNamePattern = `^([A-Za-z0-9-])+$`
)

// ValidGUID reports whether s is a GUID in its hyphenated form, any case.
func ValidGUID(s string) bool { return guidPattern.MatchString(s) }

// ValidGroupName applies ARM's rule for resource groups, ASCII only: 1 to 90
// letters, digits, '_', '-', '.', '(' and ')', not ending in '.'.
func ValidGroupName(s string) bool {
	return len(s) <= 90 && groupPattern.MatchString(s) && s != "." && s != ".."
}

// ValidClusterName applies AKS's rule: 1 to 63 characters, see
// ClusterNamePattern.
func ValidClusterName(s string) bool { return clusterPattern.MatchString(s) }

// ValidBindingName applies AKS's rule: 1 to 24 letters, digits and '-'.
func ValidBindingName(s string) bool { return bindingPattern.MatchString(s) }

// ValidTypePart reports whether s may be a provider namespace or one segment of
// a resource type.
func ValidTypePart(s string) bool { return typePattern.MatchString(s) }

// ValidSegment reports whether s may be one segment of an id, and so of a path:
// 1 to 260 characters without blanks and <>%&\?/#".
func ValidSegment(s string) bool { return badSegment(s) == "" && !strings.Contains(s, "/") }

// ValidLockName applies ARM's rule for management locks, less blanks, which no
// id has here: 1 to 260 characters without <>%&:\?/.
func ValidLockName(s string) bool { return ValidSegment(s) && !strings.Contains(s, ":") }

// badSegment says what is wrong with one segment of an id, "" if nothing. What
// is refused would be read differently by some proxy, shell or URL parser.
func badSegment(s string) string {
	switch {
	case s == "":
		return "a segment is empty"
	case s == "." || s == "..":
		return "a segment is " + s
	case len(s) > maxSegment:
		return "a segment is longer than 260 characters"
	case strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`<>%&\?#"`, c) }):
		return `only printable ASCII without blanks and <>%&\?#" may stand in it`
	}
	return ""
}

// SameLocation compares locations as ARM does: without regard to case and
// blanks ("East US" is eastus).
func SameLocation(a, b string) bool { return NormalLocation(a) == NormalLocation(b) }

// NormalLocation is a location's name as ids write it: lower case, no blanks.
func NormalLocation(s string) string {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == ' ' {
			continue
		}
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	return string(b)
}
