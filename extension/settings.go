package extension

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/sallyport/sallyport/internal/spelling"
	"github.com/sallyport/sallyport/trust"
)

// Values are an extension's settings by their canonical keys.
type Values struct{ Plain, Protected map[string]string }

// Where the two maps lie in a request.
const (
	plainAt     = "properties.configurationSettings"
	protectedAt = "properties.configurationProtectedSettings"
)

// Limits of settings.
const (
	maxSettings = 500
	maxValue    = 64 << 10
)

// value of a setting, wherever it lies; its default if it was not given.
func (v Values) value(t *Type, key string) string {
	for _, m := range []map[string]string{v.Plain, v.Protected} {
		if s, ok := m[key]; ok {
			return s
		}
	}
	if s := t.setting(key); s != nil {
		return s.Default
	}
	return ""
}

func (v Values) given(key string) bool {
	_, plain := v.Plain[key]
	_, protected := v.Protected[key]
	return plain || protected
}

func isTrue(s string) bool { return trust.Fold(s) == "true" }

// setting finds a setting by its canonical key or one that its pattern covers.
func (t *Type) setting(key string) *Setting {
	for i := range t.Settings {
		if s := &t.Settings[i]; s.Key == key {
			return s
		}
	}
	return nil
}

// match finds the setting that a caller's key means, in any case, and the key in
// its canonical spelling. What a pattern stands for is kept as it was written.
func (t *Type) match(key string) (*Setting, string) {
	var pattern *Setting
	for i := range t.Settings {
		s := &t.Settings[i]
		prefix, open := strings.CutSuffix(s.Key, "*")
		switch {
		case trust.Fold(s.Key) == trust.Fold(key):
			return s, s.Key
		case open && len(key) > len(prefix) && trust.Fold(key[:len(prefix)]) == trust.Fold(prefix):
			pattern = s
		}
	}
	if pattern == nil {
		return nil, ""
	}
	prefix := strings.TrimSuffix(pattern.Key, "*")
	return pattern, prefix + key[len(prefix):]
}

// Resolve checks settings as a caller sent them, gives their keys the canonical
// spelling, fills in what the server knows, and holds them to the type's rules.
// An error is of kind Invalid and names the setting and what helps.
func (t *Type) Resolve(sent Values, c Cluster) (Values, []Warning, error) {
	out := Values{Plain: map[string]string{}, Protected: map[string]string{}}
	var warnings []Warning
	if n := len(sent.Plain) + len(sent.Protected); n > maxSettings {
		return out, nil, bad(plainAt, "there are %d settings, the limit is %d", n, maxSettings)
	}
	spelled := map[string]string{} // canonical → as sent
	for _, part := range []struct {
		at       string
		from, to map[string]string
	}{{plainAt, sent.Plain, out.Plain}, {protectedAt, sent.Protected, out.Protected}} {
		for _, key := range slices.Sorted(maps.Keys(part.from)) {
			canonical, more, err := t.take(part.at, key, part.from[key])
			if err != nil {
				return out, nil, err
			}
			warnings = append(warnings, more...)
			if before, twice := spelled[canonical]; twice {
				return out, nil, bad(part.at+"."+key, "the setting %s is given twice, also as '%.100s'", canonical, before)
			}
			spelled[canonical] = key
			part.to[canonical] = part.from[key]
		}
	}
	if t.fill != nil {
		for key, v := range t.fill(c) {
			if sent, given := out.Plain[key]; given && sent != v {
				warnings = append(warnings, Warning{"SettingFilledIn", fmt.Sprintf("The setting %s is filled in by the server, as '%s'; what was sent does not count.", key, v)})
			}
			delete(out.Protected, key)
			out.Plain[key] = v
		}
	}
	if t.suggest != nil {
		for key, v := range t.suggest(c, func(key string) string { return out.value(t, key) }) {
			if !out.given(key) {
				out.Plain[key] = v
			}
		}
	}
	if t.check == nil {
		return out, warnings, nil
	}
	more, err := t.check(out)
	return out, append(warnings, more...), err
}

// take checks one setting by itself.
func (t *Type) take(at, key, value string) (canonical string, warnings []Warning, err error) {
	where := at + "." + key
	s, canonical := t.match(key)
	switch {
	case s == nil:
		return "", nil, t.unknown(where, key)
	case len(value) > maxValue:
		return "", nil, bad(where, "it has %d bytes, the limit is %d", len(value), maxValue)
	case s.Protected && at == plainAt:
		e := bad(where, "the setting %s is a secret and must be among the protected settings, which are never returned", canonical)
		e.Hint = "send it in configurationProtectedSettings (--config-protected " + canonical + "=…)"
		return "", nil, e
	case s.Effect == Refused, s.Effect == RefusedOn && isTrue(value):
		return "", nil, bad(where, "%s", s.Why)
	}
	if err := s.fits(where, value, at == protectedAt); err != nil {
		return "", nil, err
	}
	if canonical != key {
		warnings = append(warnings, Warning{"SettingNameCase", fmt.Sprintf("The setting '%s' is spelled %s; it was stored so.", key, canonical)})
	}
	if s.Effect == NoEffect {
		warnings = append(warnings, Warning{"SettingWithoutEffect", fmt.Sprintf("The setting %s has no effect: %s.", canonical, s.Why)})
	}
	return canonical, warnings, nil
}

// fits checks a value. One that is or may be a secret is not quoted.
func (s *Setting) fits(where, value string, secret bool) error {
	quoted := "'" + cut(value) + "'"
	if secret || s.Protected || s.Kind == PEM {
		quoted = "what was sent"
	}
	switch s.Kind {
	case Bool:
		if f := trust.Fold(value); f != "true" && f != "false" {
			return bad(where, "%s is neither true nor false; values are strings, such as \"True\"", quoted)
		}
	case Seconds:
		if n, err := strconv.Atoi(value); err != nil || n < 1 || n > 86400 {
			return bad(where, "%s is not a number of seconds between 1 and 86400", quoted)
		}
	case Choice:
		if !slices.ContainsFunc(s.Choices, func(c string) bool { return trust.Fold(c) == trust.Fold(value) }) {
			return bad(where, "%s is not one of %s", quoted, strings.Join(s.Choices, ", "))
		}
	case DNSName:
		if !dnsName(value) {
			return bad(where, "%s is not a name of letters, digits, '-' and '.'", quoted)
		}
	case ProxyURL:
		// No wider than the chart's own schema, whose refusal quotes the value.
		if u, err := url.Parse(value); err != nil || !strings.HasPrefix(value, "http://") || u.Host == "" || strings.ContainsFunc(value, unicode.IsSpace) {
			return bad(where, "%s is not an http URL of a proxy", quoted)
		}
	case PEM:
		if _, err := pemOf(value); err != nil {
			e := bad(where, "%s is not in PEM; a file's name means nothing here", quoted)
			e.Hint = "send the file's text, or that in base64, in configurationProtectedSettings"
			return e
		}
	}
	return nil
}

func cut(s string) string { return s[:min(len(s), 64)] }

func dnsName(s string) bool {
	if len(s) > 253 || s == "" {
		return false
	}
	for part := range strings.SplitSeq(strings.TrimPrefix(s, "*."), ".") {
		if !name(trust.Fold(part)) {
			return false
		}
	}
	return true
}

// pemOf is the PEM of a value that is PEM or base64 of it.
func pemOf(value string) ([]byte, error) {
	data := []byte(value)
	if !strings.Contains(value, "-----BEGIN") {
		var err error
		if data, err = base64.StdEncoding.DecodeString(strings.TrimSpace(value)); err != nil {
			return nil, err
		}
	}
	if block, _ := pem.Decode(data); block == nil {
		return nil, fmt.Errorf("no PEM block")
	}
	return data, nil
}

// unknown refuses a key that the type does not have: a typo that is taken would
// be a setting that silently does nothing.
func (t *Type) unknown(where, key string) error {
	e := bad(where, "the extension %s has no setting '%.100s'", t.Name, key)
	var keys []string
	for _, s := range t.Settings {
		keys = append(keys, s.Key)
	}
	near := t.mistaken[trust.Fold(key)]
	if near == "" {
		near = nearest(key, keys)
	}
	if near != "" {
		e.Hint = "did you mean " + near + "?"
	}
	return e
}

// nearest is what somebody may have meant, "" if nothing is near.
func nearest(word string, among []string) string {
	return spelling.Nearest(word, among, len(word)/3+1)
}

// Merge is what a PATCH makes of settings: plain ones are added and changed;
// protected ones, if any are sent, are replaced whole. Keys match in any case.
func (t *Type) Merge(old, sent Values, replaceProtected bool) Values {
	merged := Values{Plain: maps.Clone(old.Plain), Protected: old.Protected}
	if merged.Plain == nil {
		merged.Plain = map[string]string{}
	}
	for key, v := range sent.Plain {
		if _, canonical := t.match(key); canonical != "" {
			for k := range merged.Plain {
				if k == canonical {
					delete(merged.Plain, k)
				}
			}
		}
		merged.Plain[key] = v
	}
	if replaceProtected {
		merged.Protected = sent.Protected
	}
	return merged
}

// Keeps refuses an update that takes a setting away which must stay.
func (t *Type) Keeps(old, now Values) error {
	for key := range old.Plain {
		if t.keep != nil && t.keep(key) && !now.given(key) {
			return bad(plainAt+"."+key, "it can be changed and not removed; delete the extension and create it anew")
		}
	}
	return nil
}

// WithoutSecrets is what may be shown: the protected keys, with empty values.
func WithoutSecrets(keys []string) map[string]string {
	out := map[string]string{}
	for _, k := range keys {
		out[k] = ""
	}
	return out
}
