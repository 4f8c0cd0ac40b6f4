package arm

import (
	"strings"

	"github.com/sallyport/sallyport/trust"
)

// Term is one comparison of a $filter, "name op 'value'"; one call, "name()" or
// "name('value')", whose Op is "()"; or one function of a property,
// "startswith(name, 'value')", whose Op is the function's name.
type Term struct{ Name, Op, Value string }

// Is tells whether the term is of a name and operator, in any case.
func (t Term) Is(name, op string) bool { return is(t.Name, name) && t.Op == op }

// maxTerms is far above what clients send.
const maxTerms = 50

// ParseFilter reads the part of OData's filters that most lists take: terms
// joined by "and". Values are quoted, a quote in one doubled, or bare, as times
// are. An empty filter has no terms. An error is of kind Invalid.
func ParseFilter(s string) ([]Term, error) {
	all, err := ParseAlternatives(s)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	if len(all) > 1 {
		return nil, BadFilter(s)
	}
	return all[0], nil
}

// ParseAlternatives reads a filter whose terms are joined by "and" and "or",
// which binds less: what it lets through meets all terms of one alternative.
// There are no parentheses, and no alternatives in an empty filter. An error is
// of kind Invalid.
func ParseAlternatives(s string) ([][]Term, error) {
	var all [][]Term
	rest := strings.TrimSpace(s)
	word := "or"
	for n := 0; rest != ""; n++ {
		var t Term
		var ok bool
		if t, rest, ok = parseTerm(rest); !ok || n == maxTerms {
			return nil, BadFilter(s)
		}
		if is(word, "or") {
			all = append(all, nil)
		}
		all[len(all)-1] = append(all[len(all)-1], t)
		if rest = strings.TrimSpace(rest); rest == "" {
			return all, nil
		}
		var after string
		word, after, _ = strings.Cut(rest, " ")
		if rest = strings.TrimSpace(after); !is(word, "and") && !is(word, "or") || rest == "" {
			return nil, BadFilter(s)
		}
	}
	return nil, nil
}

// BadFilter is the answer to a filter that cannot be read, or that a list does
// not know.
func BadFilter(s string) error {
	return Errorf(trust.Invalid, "InvalidFilterInQueryString", "Invalid $filter '%.200s' specified in the query string.", s)
}

var (
	operators = []string{"eq", "ne", "ge", "gt", "le", "lt"}
	functions = []string{"substringof", "startswith"}
)

func parseTerm(s string) (t Term, rest string, ok bool) {
	end := strings.IndexFunc(s, func(c rune) bool { return c == ' ' || c == '(' || c == '\'' })
	if end <= 0 {
		return t, "", false
	}
	t.Name, rest = s[:end], strings.TrimSpace(s[end:])
	if inner, call := strings.CutPrefix(rest, "("); call {
		return parseCall(t.Name, inner)
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

// parseCall reads what follows "name(", up to ")" and past it. The property of a
// function is its first argument or its second: OData has both orders.
func parseCall(name, s string) (t Term, rest string, ok bool) {
	t = Term{Name: name, Op: "()"}
	property, values := "", 0
	for n := 0; ; n++ {
		s = strings.TrimSpace(s)
		switch {
		case strings.HasPrefix(s, "'"):
			if t.Value, s, ok = quoted(s); !ok {
				return t, "", false
			}
			values++
		case n > 0 || !strings.HasPrefix(s, ")"):
			end := strings.IndexAny(s, " ,)('")
			if end <= 0 || property != "" {
				return t, "", false
			}
			property, s = s[:end], s[end:]
		}
		s = strings.TrimSpace(s)
		if after, more := strings.CutPrefix(s, ","); more && n == 0 {
			s = after
			continue
		}
		rest, ok = strings.CutPrefix(s, ")")
		break
	}
	if property == "" {
		return t, rest, ok && values < 2
	}
	for _, f := range functions {
		if is(name, f) {
			t.Name, t.Op = property, f
		}
	}
	return t, rest, ok && values == 1 && t.Op != "()"
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
