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
	}
	for _, tt := range tests {
		got, err := ParseFilter(tt.filter)
		if err != nil || !cmp.Equal(got, tt.want) {
			t.Errorf("%q: %v, %v, want %v", tt.filter, got, err, tt.want)
		}
	}
	for _, bad := range []string{"a", "a eq", "a eq 'b", "a eq b c", "a like 'b'", "f(", "f('a'", "f(x)", "a eq 'b' or c eq 'd'", "a eq 'b' and", "and", "'a' eq b", "a eq b'c",
		strings.Repeat("a eq b and ", 60) + "a eq b"} {
		if got, err := ParseFilter(bad); trust.KindOf(err) != trust.Invalid || err == nil {
			t.Errorf("%q: %v, %v, want a refusal", bad, got, err)
		}
	}
}

// What is read can be written and read again.
func FuzzParseFilter(f *testing.F) {
	for _, s := range []string{"", "atScope()", "assignedTo('a')", "a eq 'b''c' and d ge 2026-01-01", "f( 'x' ) and g()"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		terms, err := ParseFilter(s)
		if err != nil {
			return
		}
		var parts []string
		for _, term := range terms {
			value := "'" + strings.ReplaceAll(term.Value, "'", "''") + "'"
			if term.Op == "()" {
				parts = append(parts, term.Name+"("+value+")")
			} else {
				parts = append(parts, term.Name+" "+term.Op+" "+value)
			}
		}
		again, err := ParseFilter(strings.Join(parts, " and "))
		if err != nil || !cmp.Equal(again, terms) {
			t.Fatalf("%q: %v, again %v, %v", s, terms, again, err)
		}
	})
}
