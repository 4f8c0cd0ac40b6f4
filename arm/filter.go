package arm

import (
	"strings"

	"github.com/sallyport/sallyport/trust"
)

// Term is one comparison of a $filter, "name op 'value'", or one call,
// "name()" or "name('value')", whose Op is "()".
type Term struct{ Name, Op, Value string }

// Is tells whether the term is of a name and operator, in any case.
func (t Term) Is(name, op string) bool { return is(t.Name, name) && t.Op == op }

// maxTerms is far above what clients send.
const maxTerms = 50

// ParseFilter reads the part of OData's filters that ARM's clients send: terms
// joined by "and". Values are quoted, a quote in one doubled, or bare, as times
// are. An empty filter has no terms. An error is of kind Invalid.
func ParseFilter(s string) ([]Term, error) {
	var terms []Term
	rest := strings.TrimSpace(s)
	for rest != "" {
		var t Term
		var ok bool
		if t, rest, ok = parseTerm(rest); !ok || len(terms) == maxTerms {
			return nil, BadFilter(s)
		}
		terms = append(terms, t)
		if rest = strings.TrimSpace(rest); rest == "" {
			return terms, nil
		}
		word, after, _ := strings.Cut(rest, " ")
		if rest = strings.TrimSpace(after); !is(word, "and") || rest == "" {
			return nil, BadFilter(s)
		}
	}
	return terms, nil
}

// BadFilter is the answer to a filter that cannot be read, or that a list does
// not know.
func BadFilter(s string) error {
	return Errorf(trust.Invalid, "InvalidFilterInQueryString", "Invalid $filter '%.200s' specified in the query string.", s)
}

var operators = []string{"eq", "ne", "ge", "gt", "le", "lt"}

func parseTerm(s string) (t Term, rest string, ok bool) {
	end := strings.IndexFunc(s, func(c rune) bool { return c == ' ' || c == '(' || c == '\'' })
	if end <= 0 {
		return t, "", false
	}
	t.Name, rest = s[:end], strings.TrimSpace(s[end:])
	if inner, call := strings.CutPrefix(rest, "("); call {
		t.Op, inner = "()", strings.TrimSpace(inner)
		if strings.HasPrefix(inner, "'") {
			if t.Value, inner, ok = quoted(inner); !ok {
				return t, "", false
			}
		}
		rest, ok = strings.CutPrefix(strings.TrimSpace(inner), ")")
		return t, rest, ok
	}
	op, rest, found := strings.Cut(rest, " ")
	for _, known := range operators {
		if is(op, known) {
			t.Op = known
		}
	}
	rest = strings.TrimSpace(rest)
	if !found || t.Op == "" || rest == "" {
		return t, "", false
	}
	if strings.HasPrefix(rest, "'") {
		t.Value, rest, ok = quoted(rest)
		return t, rest, ok
	}
	t.Value, rest, _ = strings.Cut(rest, " ")
	return t, rest, !strings.ContainsAny(t.Value, "'()")
}

// quoted reads a quoted value at the beginning of s.
func quoted(s string) (value, rest string, ok bool) {
	var b strings.Builder
	for s = s[1:]; ; {
		before, after, closed := strings.Cut(s, "'")
		b.WriteString(before)
		if !closed {
			return "", "", false
		}
		if !strings.HasPrefix(after, "'") {
			return b.String(), after, true
		}
		b.WriteByte('\'')
		s = after[1:]
	}
}
