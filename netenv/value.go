package netenv

import (
	"strconv"
	"strings"
	"time"
)

// State says what the input tells about a value.
type State int

// The three states. Absent means the source shows the object and not the value,
// so the service's default applies; Unknown means the source cannot tell (known
// after apply, an expression, an attribute that the source does not have).
const (
	Absent State = iota
	Known
	Unknown
)

// object is a JSON object with folded keys; member keeps the key as written.
type object map[string]member

type member struct {
	key string
	val any
	// at, when set, is the JSON pointer of this value in its file: for facts
	// that a reader moved to where ARM has them.
	at string
}

// unknowable marks a value that the source cannot tell.
type unknowable struct{}

// fold makes keys of ARM, az and az ml comparable: enablePrivateFqdn,
// enablePrivateFQDN and enable_private_fqdn are one key.
func fold(key string) string {
	plain := true
	for i := range len(key) {
		if c := key[i]; c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80 {
			plain = false
			break
		}
	}
	if plain {
		return key
	}
	return strings.ReplaceAll(strings.ToLower(key), "_", "")
}

// folded turns decoded JSON into objects with folded keys. Of two keys that fold
// to one, the alphabetically first is kept, so that a reading is repeatable.
func folded(raw any) any {
	switch raw := raw.(type) {
	case map[string]any:
		o := make(object, len(raw))
		for k, v := range raw {
			f := fold(k)
			if old, dup := o[f]; dup && old.key < k {
				continue
			}
			o[f] = member{key: k, val: folded(v)}
		}
		return o
	case []any:
		for i, v := range raw {
			raw[i] = folded(v)
		}
		return raw
	default:
		return raw
	}
}

// view is one source's picture of one resource.
type view struct {
	root object
	file string
	// base is the JSON pointer of root in file.
	base string
	// time is when the source was exported; zero if nobody said.
	time time.Time
	// partial: what the source does not show is unknown, not absent (Terraform
	// attributes were mapped one by one).
	partial bool
	// declared: the source says what shall be (a template), so values that only
	// the service sets are unknown.
	declared bool
}

// setByService are the values that no template holds.
var setByService = map[string]bool{
	"privateendpointconnections": true, "principalid": true, "peeringstate": true, "peeringsynclevel": true,
	"virtualnetworklinkstate": true, "provisioningstate": true, "customdnsconfigs": true, "createdon": true,
	"powerstate": true, "workspaceid": true, "privatelinkserviceconnectionstate": true, "noderesourcegroup": true,
	"numberofvirtualnetworklinks": true,
}

// step of the way from a view's root to a value.
type place struct {
	up  *place
	key string
	at  string
}

// Value is one place of a resource: known with what it holds, absent, or
// unknown. It remembers where it was read.
type Value struct {
	state State
	raw   any
	view  *view
	place *place
}

// State of the value.
func (v Value) State() State { return v.state }

// Get goes down by keys, written as ARM writes them. Wherever an object lacks a
// key and has "properties", the key is looked for there, so the ARM form and
// az's flattened form are read alike.
func (v Value) Get(keys ...string) Value {
	for _, k := range keys {
		v = v.get(k)
	}
	return v
}

func (v Value) get(key string) Value {
	if v.state != Known {
		return v
	}
	o, ok := v.raw.(object)
	if !ok {
		return Value{view: v.view, place: v.place}
	}
	k := fold(key)
	if other := renamed[k]; other != "" && !has(o, k) && has(o, other) {
		k = other
	}
	for p := v.place; ; {
		if m, found := o[k]; found {
			p = &place{up: p, key: m.key, at: m.at}
			switch m.val.(type) {
			case nil:
				return Value{view: v.view, place: p}
			case unknowable:
				return Value{state: Unknown, view: v.view, place: p}
			}
			return Value{state: Known, raw: m.val, view: v.view, place: p}
		}
		m, found := o["properties"]
		if _, hidden := m.val.(unknowable); hidden {
			return Value{state: Unknown, view: v.view, place: p}
		}
		inner, isObject := m.val.(object)
		if !found || !isObject {
			break
		}
		p = &place{up: p, key: m.key, at: m.at}
		o = inner
	}
	miss := Value{view: v.view, place: &place{up: v.place, key: key}}
	if v.view != nil && (v.view.partial || v.view.declared && setByService[k]) {
		miss.state = Unknown
	}
	return miss
}

// renamed are keys that az prints under another name than ARM.
var renamed = map[string]string{"networkacls": "networkruleset"}

// has says whether an object or its properties hold a folded key.
func has(o object, k string) bool {
	if _, ok := o[k]; ok {
		return true
	}
	inner, ok := o["properties"].val.(object)
	return ok && has(inner, k)
}

// Items are the elements of a list; a single object counts as a list of one.
func (v Value) Items() []Value {
	if v.state != Known {
		return nil
	}
	list, ok := v.raw.([]any)
	if !ok {
		if _, one := v.raw.(object); one {
			return []Value{v}
		}
		return nil
	}
	out := make([]Value, 0, len(list))
	for i, e := range list {
		item := Value{state: Known, raw: e, view: v.view, place: &place{up: v.place, key: strconv.Itoa(i)}}
		switch e.(type) {
		case nil:
			item.state, item.raw = Absent, nil
		case unknowable:
			item.state, item.raw = Unknown, nil
		}
		out = append(out, item)
	}
	return out
}

// Fields are the members of an object under their keys as written.
func (v Value) Fields() map[string]Value {
	o, ok := v.raw.(object)
	if !ok {
		return nil
	}
	out := make(map[string]Value, len(o))
	for k, m := range o {
		out[m.key] = v.get(k)
	}
	return out
}

// Text is a string, or "" when the value is none.
func (v Value) Text() string {
	switch raw := v.raw.(type) {
	case string:
		return raw
	case bool:
		return strconv.FormatBool(raw)
	case float64:
		return strconv.FormatFloat(raw, 'f', -1, 64)
	}
	return ""
}

// Is compares text as az and ARM do: case and underscores do not count
// (SystemAssigned is system_assigned).
func (v Value) Is(s string) bool { return v.state == Known && fold(v.Text()) == fold(s) }

// Truth of a boolean; def is what an absent value means. ok is false when the
// value is unknown.
func (v Value) Truth(def bool) (truth, ok bool) {
	switch v.state {
	case Absent:
		return def, true
	case Unknown:
		return false, false
	}
	switch strings.ToLower(v.Text()) {
	case "true", "enabled":
		return true, true
	case "false", "disabled":
		return false, true
	}
	return def, false
}

// Number of a value, in whatever unit ARM gives.
func (v Value) Number() (float64, bool) {
	switch raw := v.raw.(type) {
	case float64:
		return raw, true
	case string:
		n, err := strconv.ParseFloat(raw, 64)
		return n, err == nil
	}
	return 0, false
}

// Texts are the strings of a list. whole is false when the list or one of its
// elements is unknown.
func (v Value) Texts() (texts []string, whole bool) {
	if v.state == Known {
		if s, one := v.raw.(string); one {
			return []string{s}, true
		}
	}
	whole = v.state != Unknown
	for _, i := range v.Items() {
		if i.state == Unknown {
			whole = false
		} else if s := i.Text(); s != "" {
			texts = append(texts, s)
		}
	}
	return texts, whole
}

// Source tells where a value was read: file, JSON pointer, export time.
func (v Value) Source() Source {
	if v.view == nil {
		return Source{}
	}
	var parts []string
	base := v.view.base
	for p := v.place; p != nil; p = p.up {
		if p.at != "" {
			base = p.at
			break
		}
		parts = append(parts, escapePointer(p.key))
	}
	var b strings.Builder
	b.WriteString(base)
	for i := len(parts) - 1; i >= 0; i-- {
		b.WriteString("/" + parts[i])
	}
	return Source{File: v.view.file, Pointer: b.String(), Time: v.view.time}
}

func escapePointer(key string) string {
	if !strings.ContainsAny(key, "~/") {
		return key
	}
	return strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1")
}

// Source is where a fact comes from.
type Source struct {
	File string `json:"file,omitempty"`
	// Pointer into File, RFC 6901.
	Pointer string    `json:"pointer,omitempty"`
	Time    time.Time `json:"time,omitzero"`
}
