package output

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func bindings() any {
	return []any{
		map[string]any{"id": "/a", "name": "ml", "provisioningState": "Succeeded", "roles": []string{"A/b/c", "A/b/d"}, "systemData": nil, "ok": true, "n": 3, "o": map[string]any{"x": 1}},
		map[string]any{"id": "/b", "name": "backup", "provisioningState": "Updating", "roles": []string{}, "systemData": nil, "ok": false, "n": 1234567, "o": nil},
	}
}

func wide() any {
	return []any{
		map[string]any{"name": "ml", "id": "/subscriptions/s/resourceGroups/g/clusters/c", "why": "it waits\nfor a node\twith room", "who": "0b1f6471-1bf0-4dda-aec3-111122223333"},
		map[string]any{"name": "b", "id": "/short", "why": nil},
	}
}

func TestPrint(t *testing.T) {
	columns := []Column{{"Name", "name"}, {"State", "provisioningState"}, {"Roles", "roles"}}
	tests := []struct {
		name          string
		p             Printer
		columns       []Column
		result        any
		want          string
		wantSomewhere string
	}{
		{"json", Printer{Format: "json", Query: "[0].{b:name,a:roles,h:'<&>'}"}, nil, bindings(), "{\n  \"a\": [\n    \"A/b/c\",\n    \"A/b/d\"\n  ],\n  \"b\": \"ml\",\n  \"h\": \"<&>\"\n}\n", ""},
		{"whole numbers", Printer{Format: "json", Query: "[].n"}, nil, bindings(), "[\n  3,\n  1234567\n]\n", ""},
		{"yaml", Printer{Format: "yaml", Query: "[0].{name:name,roles:roles}"}, nil, bindings(), "name: ml\nroles:\n- A/b/c\n- A/b/d\n", ""},
		{"table", Printer{Format: "table"}, columns, bindings(), "Name    State      Roles\n------  ---------  ------------\nml      Succeeded  A/b/c, A/b/d\nbackup  Updating\n", ""},
		{"table of what nobody described", Printer{Format: "table"}, nil, bindings(), "N        Name    Ok     ProvisioningState\n-------  ------  -----  -----------------\n3        ml      True   Succeeded\n1234567  backup  False  Updating\n", ""},
		{"a query drops the columns", Printer{Format: "table", Query: "[].{x:name}"}, columns, bindings(), "X\n------\nml\nbackup\n", ""},
		{"table of lists", Printer{Format: "table", Query: "[].[name,n]"}, nil, bindings(), "Column1  Column2\n-------  -------\nml       3\nbackup   1234567\n", ""},
		{"table of strings", Printer{Format: "table", Query: "[].name"}, nil, bindings(), "Result\n------\nml\nbackup\n", ""},
		{"table that fits", Printer{Format: "table", Width: 40}, []Column{{"Name", "name"}, {"Id", "id"}, {"Why", "why"}}, wide(), "Name  Id                Why\n----  ----------------  ----------------\nml    …ps/g/clusters/c  it waits for a …\nb     /short\n", ""},
		{"table with an id that is needed whole", Printer{Format: "table", Width: 20}, []Column{{"Who", "who"}, {"Why", "why"}}, wide(), "Who                                   Why\n------------------------------------  ------------\n0b1f6471-1bf0-4dda-aec3-111122223333  it waits fo…\n\n", ""},
		{"table that cannot fit", Printer{Format: "table", Width: 10}, []Column{{"Name", "name"}, {"Why", "why"}}, wide(), "Name  Why\n----  ------------\nml    it waits fo…\nb\n", ""},
		{"table that need not fit", Printer{Format: "table"}, []Column{{"Name", "name"}, {"Why", "why"}}, wide(), "Name  Why\n----  -----------------------------\nml    it waits for a node with room\nb\n", ""},
		{"empty table", Printer{Format: "table"}, columns, []any{}, "", ""},
		{"tsv", Printer{Format: "tsv"}, nil, bindings(), "/a\t3\tml\t\tTrue\tSucceeded\t2\tNone\n/b\t1234567\tbackup\tNone\tFalse\tUpdating\t0\tNone\n", ""},
		{"tsv of one value", Printer{Format: "tsv", Query: "[0].name"}, nil, bindings(), "ml\n", ""},
		{"tsv of a bool", Printer{Format: "tsv"}, nil, true, "true\n", ""},
		{"none", Printer{Format: "none"}, nil, bindings(), "", ""},
		{"no colours unless asked", Printer{Format: "jsonc", Query: "[0].name"}, nil, bindings(), "\"ml\"\n", ""},
		{"colours", Printer{Format: "jsonc", Color: true, Query: "[0].{name:name,n:n,ok:ok,q:'a\\\"b'}"}, nil, bindings(), "", "\x1b[34m\"name\"\x1b[0m: \x1b[32m\"ml\"\x1b[0m"},
		{"no result", Printer{Format: "json"}, nil, nil, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b strings.Builder
			if err := tt.p.Print(&b, tt.result, tt.columns); err != nil {
				t.Fatal(err)
			}
			if tt.wantSomewhere != "" {
				if !strings.Contains(b.String(), tt.wantSomewhere) {
					t.Errorf("got %q, want %q in it", b.String(), tt.wantSomewhere)
				}
			} else if d := cmp.Diff(tt.want, b.String()); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	for _, p := range []Printer{{Format: "xml"}, {Format: "json", Query: "[?"}} {
		if err := p.Check(); err == nil {
			t.Errorf("%+v was accepted", p)
		}
	}
	if err := (Printer{Format: "tsv", Query: "[].name"}).Check(); err != nil {
		t.Error(err)
	}
}
