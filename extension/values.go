package extension

import (
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/trust"
)

// ChartValues are settings as the type's chart takes them: those that have an
// effect, with their defaults, by the names that charts have for them. A Bool is
// a bool, Seconds are an int, a Choice has the spelling of its list, and what a
// pattern covers is a map. What is PEM in base64 is PEM. v must be what Resolve
// gave.
func (t *Type) ChartValues(v Values) map[string]any {
	out := map[string]any{}
	for i := range t.Settings {
		s := &t.Settings[i]
		prefix, open := strings.CutSuffix(s.Key, "*")
		switch {
		case s.Effect != Honoured:
		case open:
			under := map[string]any{}
			for _, part := range []map[string]string{v.Plain, v.Protected} {
				for key, value := range part {
					if rest, ok := strings.CutPrefix(key, prefix); ok {
						under[rest] = s.typed(value)
					}
				}
			}
			out[s.ChartName()] = under
		case v.given(s.Key) || s.Default != "":
			out[s.ChartName()] = s.typed(v.value(t, s.Key))
		}
	}
	return out
}

// ChartName is what the type's chart calls a setting.
func (s *Setting) ChartName() string {
	if s.Value != "" {
		return s.Value
	}
	return strings.TrimSuffix(strings.TrimSuffix(s.Key, "*"), ".")
}

// typed is a value as a chart takes it. Resolve has checked it.
func (s *Setting) typed(value string) any {
	switch s.Kind {
	case Bool:
		return isTrue(value)
	case Seconds:
		n, err := strconv.Atoi(value)
		if err != nil {
			return 0
		}
		return n
	case Choice:
		if i := slices.IndexFunc(s.Choices, func(c string) bool { return trust.Fold(c) == trust.Fold(value) }); i >= 0 {
			return s.Choices[i]
		}
	case PEM:
		if text, err := pemOf(value); err == nil {
			return string(text)
		}
	}
	return value
}

// ConsentCommand is what a cluster's owner types to accept the type on a cluster,
// given its resource group and name.
func (t *Type) ConsentCommand(group, cluster string) string {
	return "sallyport k8s-extension accept -g " + group + " --cluster-name " + cluster + " --cluster-type managedClusters --extension-type " + t.Name + t.Consent + " | kubectl apply -f -"
}
