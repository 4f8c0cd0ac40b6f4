package main

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/internal/spelling"
	"github.com/sallyport/sallyport/trust"
)

// readYAML reads what az writes as YAML. place is the file, or the argument; what
// is what it should be, "a command job". Its errors are of who wrote it: they name
// the member, and no type of this program.
func readYAML(data []byte, into any, place, what string) error {
	err := yaml.UnmarshalStrict(data, into)
	if err == nil {
		return nil
	}
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return trust.Errorf(trust.Invalid, "%s: %s must be %s, and is %s", place, orText(wrong.Field, "it"), wordOf(wrong.Type), valueWord(wrong.Value))
	}
	if _, rest, ok := strings.Cut(err.Error(), `json: unknown field "`); ok {
		name := strings.TrimSuffix(rest, `"`)
		all := members(reflect.TypeOf(into))
		e := trust.Errorf(trust.Invalid, "%s: '%s' is not of %s", place, name, what)
		e.Hint = "it may have " + strings.Join(all, ", ")
		for _, other := range all {
			if plain(other) == plain(name) || len(name) > 3 && (strings.HasPrefix(other, name) || spelling.Distance(other, name) <= 2) {
				e.Hint = "did you mean " + other + "?"
			}
		}
		return e
	}
	for next := err; next != nil; next = errors.Unwrap(next) {
		err = next
	}
	return trust.Errorf(trust.Invalid, "%s does not read as %s", place, what).Because(err)
}

func plain(name string) string { return strings.ToLower(strings.ReplaceAll(name, "_", "")) }

// members are the names that a struct, and what lies in it, reads.
func members(t reflect.Type) []string {
	var all []string
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return members(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			if name != "" && !strings.HasPrefix(name, "$") && !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
		for i := range t.NumField() {
			for _, name := range members(t.Field(i).Type) {
				if !slices.Contains(all, name) {
					all = append(all, name)
				}
			}
		}
	}
	return all
}

// wordOf is a type as whoever writes YAML knows it.
func wordOf(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "members with values"
	case reflect.Pointer:
		return wordOf(t.Elem())
	}
	return "text"
}

// valueWord is what encoding/json calls a value, as whoever writes YAML knows it.
func valueWord(v string) string {
	switch v {
	case "string":
		return "text"
	case "object":
		return "members with values"
	case "array":
		return "a list"
	case "bool":
		return "true or false"
	}
	return v
}
