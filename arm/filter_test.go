package arm

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/trust"
)

func TestParseFilter(t *testing.T) {
	tests := []struct {
		filter string
		want   []Term
	}{
		{"", nil}, {"  ", nil},
		{"atScope()", []Term{{"atScope", "()", ""}}},
		{"assignedTo('a')", []Term{{"assignedTo", "()", "a"}}},
		{"atScope() and principalId eq '{a}'", []Term{{"atScope", "()", ""}, {"principalId", "eq", "{a}"}}},
		{"roleName eq 'It''s' AND type eq 'CustomRole'", []Term{{"roleName", "eq", "It's"}, {"type", "eq", "CustomRole"}}},
		// As az monitor activity-log list writes it.
		{"eventTimestamp ge 2026-11-29T00:27:14.000000Z and eventTimestamp le '2026-11-29' and eventChannels eq 'Admin, Operation'",
			[]Term{{"eventTimestamp", "ge", "2026-11-29T00:27:14.000000Z"}, {"eventTimestamp", "le", "2026-11-29"}, {"eventChannels", "eq", "Admin, Operation"}}},
		{"a eq ''", []Term{{"a", "eq", ""}}},
		{"startswith(tagname, 'de') and substringOf( 'demo' , name )", []Term{{"tagname", "startswith", "de"}, {"name", "substringof", "demo"}}},
	}
	for _, tt := range tests {
		got, err := ParseFilter(tt.filter)
		if err != nil || !cmp.Equal(got, tt.want) {
			t.Errorf("%q: %v, %v, want %v", tt.filter, got, err, tt.want)
		}
	}
	for _, bad := range []string{"a", "a eq", "a eq 'b", "a eq b c", "a like 'b'", "f(", "f('a'", "f(x)", "f(x, 'a')", "startswith(x)", "startswith('a', 'b')", "startswith(x, y)", "startswith(x, 'a', 'b')", "startswith(x, 'a'", "startswith(, 'a')", "startswith(x y)", "a eq 'b' or c eq 'd'", "a eq 'b' and", "and", "'a' eq b", "a eq b'c",
		strings.Repeat("a eq b and ", 60) + "a eq b"} {
		if got, err := ParseFilter(bad); trust.KindOf(err) != trust.Invalid || err == nil {
			t.Errorf("%q: %v, %v, want a refusal", bad, got, err)
		}
	}
}

func TestParseAlternatives(t *testing.T) {
	got, err := ParseAlternatives("a eq 'x' and b ne 'y' or substringof('z', c) OR d eq e")
	want := [][]Term{{{"a", "eq", "x"}, {"b", "ne", "y"}}, {{"c", "substringof", "z"}}, {{"d", "eq", "e"}}}
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"a eq b or", "or a eq b", "(a eq b) or c eq d", "a eq b xor c eq d"} {
		if got, err := ParseAlternatives(bad); err == nil {
			t.Errorf("%q: %v, want a refusal", bad, got)
		}
	}
	if got, err := ParseAlternatives(" "); err != nil || got != nil {
		t.Errorf("an empty one: %v, %v", got, err)
	}
}

// What is read can be written and read again.
func FuzzParseFilter(f *testing.F) {
	for _, s := range []string{"", "atScope()", "assignedTo('a')", "a eq 'b''c' and d ge 2026-01-01", "f( 'x' ) and g()", "startswith(a, 'b') or substringof('c',d)"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		all, err := ParseAlternatives(s)
		if err != nil {
			return
		}
		var alternatives []string
		for _, terms := range all {
			var parts []string
			for _, term := range terms {
				value := "'" + strings.ReplaceAll(term.Value, "'", "''") + "'"
				switch term.Op {
				case "()":
					parts = append(parts, term.Name+"("+value+")")
				case "startswith", "substringof":
					parts = append(parts, term.Op+"("+term.Name+","+value+")")
				default:
					parts = append(parts, term.Name+" "+term.Op+" "+value)
				}
			}
			alternatives = append(alternatives, strings.Join(parts, " and "))
		}
		again, err := ParseAlternatives(strings.Join(alternatives, " or "))
		if err != nil || !cmp.Equal(again, all) {
			t.Fatalf("%q: %v, again %v, %v", s, all, again, err)
		}
	})
}
