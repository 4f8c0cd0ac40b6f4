package netenv

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// plan is a Terraform plan or state in its JSON form ("terraform show -json",
// format 1.x).
type plan struct {
	in        *input
	instances []*instance
	byAddress map[string][]*instance // without index
	config    map[string]object      // configuration by address without index
	modules   map[string]object      // configuration of a module by its path; "" is the root
	calls     map[string]object      // the call of a module by its path
	subs      map[string]string      // provider → subscription that known ids show
	types     map[string]tfType
}

// instance is one resource of a plan.
type instance struct {
	address string // module.net.azurerm_subnet.pe["a"]
	module  string // module.net
	base    string // module.net.azurerm_subnet.pe
	typ     string
	index   string // ["a"], or "" for none
	values  object
	at      string // JSON pointer of values
	data    bool
	create  bool
	prov    string
	id      string
	busy    bool
}

// terraform reads a plan or a state.
func (in *input) terraform(top map[string]any) {
	p := &plan{in: in, byAddress: map[string][]*instance{}, config: map[string]object{}, modules: map[string]object{}, calls: map[string]object{}, subs: map[string]string{}, types: terraformTypes()}
	p.gather(top)
	if len(p.instances) == 0 && top["resource_changes"] == nil {
		in.problem(in.file, "", "a Terraform document without resources: give the output of terraform show -json")
		return
	}
	if c, ok := keyed(top["configuration"]).(object); ok {
		root, _ := c["root_module"].val.(object)
		p.configure("", root, 0)
	}
	for _, i := range p.instances {
		if id := text1(i.values["id"].val); idType(id) != "" && idSubscription(id) != "" {
			p.subs[i.prov] = idSubscription(id)
		}
	}
	for _, i := range p.instances {
		if m := p.types[i.typ]; m.emit != nil {
			in.rows++
			m.emit(p, i)
		}
	}
}

func text1(v any) string { s, _ := v.(string); return s }

// keyed turns decoded JSON into objects that keep their keys as written.
func keyed(raw any) any {
	switch raw := raw.(type) {
	case map[string]any:
		o := make(object, len(raw))
		for k, v := range raw {
			o[k] = member{key: k, val: keyed(v)}
		}
		return o
	case []any:
		for i, v := range raw {
			raw[i] = keyed(v)
		}
	}
	return raw
}

// gather collects the instances: a plan's changes and what its data sources
// found, or a state's resources.
func (p *plan) gather(top map[string]any) {
	changes, _ := top["resource_changes"].([]any)
	for n, c := range changes {
		m, _ := c.(map[string]any)
		change, _ := m["change"].(map[string]any)
		actions, _ := change["actions"].([]any)
		after, ok := change["after"].(map[string]any)
		if !ok || slices.Equal(actions, []any{"delete"}) {
			continue
		}
		values, _ := marked(keyed(after), change["after_unknown"]).(object)
		p.add(m, values, "/resource_changes/"+strconv.Itoa(n)+"/change/after", slices.Contains(actions, any("create")))
	}
	walk := func(key, at string, onlyData bool) {
		holder, _ := top[key].(map[string]any)
		if key == "prior_state" {
			holder, _ = holder["values"].(map[string]any)
		}
		root, _ := holder["root_module"].(map[string]any)
		p.walkModule(root, at+"/root_module", onlyData, 0)
	}
	walk("prior_state", "/prior_state/values", true)
	if changes == nil {
		walk("values", "/values", false)
		walk("planned_values", "/planned_values", false)
	}
}

// maxModules deep; Terraform's own trees are far shallower.
const maxModules = 64

func (p *plan) walkModule(m map[string]any, at string, onlyData bool, depth int) {
	if depth > maxModules {
		p.in.problem(p.in.file, at, "modules nested too deeply")
		return
	}
	list, _ := m["resources"].([]any)
	for n, e := range list {
		r, _ := e.(map[string]any)
		if values, ok := r["values"].(map[string]any); ok && (!onlyData || r["mode"] == "data") {
			o, _ := keyed(values).(object)
			p.add(r, o, at+"/resources/"+strconv.Itoa(n)+"/values", false)
		}
	}
	children, _ := m["child_modules"].([]any)
	for n, e := range children {
		c, _ := e.(map[string]any)
		p.walkModule(c, at+"/child_modules/"+strconv.Itoa(n), onlyData, depth+1)
	}
}

// indexed ends an address of count or for_each.
var indexed = regexp.MustCompile(`\[[^\[\]]*\]$`)

// anyIndex is an index anywhere in an address; keys may not hold brackets.
var anyIndex = regexp.MustCompile(`\[[^\[\]]*\]`)

func (p *plan) add(r map[string]any, values object, at string, create bool) {
	address := text1(r["address"])
	i := &instance{address: address, typ: text1(r["type"]), values: values, at: at, data: r["mode"] == "data", create: create, prov: text1(r["provider_name"])}
	if values == nil || address == "" {
		return
	}
	i.index = indexed.FindString(address)
	i.base = anyIndex.ReplaceAllString(address, "")
	if at := strings.LastIndex(i.base, cond(i.data, ".data.", ".")+i.typ+"."); at > 0 && strings.HasPrefix(i.base, "module.") {
		i.module = i.base[:at]
	}
	p.instances = append(p.instances, i)
	p.byAddress[i.base] = append(p.byAddress[i.base], i)
}

// marked puts unknowable where after_unknown says true.
func marked(v, unknown any) any {
	switch u := unknown.(type) {
	case bool:
		if u {
			return unknowable{}
		}
	case map[string]any:
		o, ok := v.(object)
		if !ok {
			o = object{}
		}
		for k, sub := range u {
			if m := marked(o[k].val, sub); m != nil {
				o[k] = member{key: k, val: m}
			}
		}
		return o
	case []any:
		list, _ := v.([]any)
		for n, sub := range u {
			if n < len(list) {
				list[n] = marked(list[n], sub)
			} else if m := marked(nil, sub); m != nil {
				list = append(list, m)
			}
		}
		return list
	}
	return v
}

// configure indexes the configuration by address.
func (p *plan) configure(path string, m object, depth int) {
	if m == nil || depth > maxModules {
		return
	}
	p.modules[path] = m
	list, _ := m["resources"].val.([]any)
	for _, e := range list {
		if r, ok := e.(object); ok {
			p.config[dot(path, text1(r["address"].val))], _ = r["expressions"].val.(object)
		}
	}
	calls, _ := m["module_calls"].val.(object)
	for name, c := range calls {
		call, _ := c.val.(object)
		child := dot(path, "module."+name)
		p.calls[child], _ = call["expressions"].val.(object)
		mod, _ := call["module"].val.(object)
		p.configure(child, mod, depth+1)
	}
}

func dot(a, b string) string { return cond(a == "", b, a+"."+b) }

// references of an attribute's expression; path goes through blocks.
func (p *plan) references(i *instance, path ...string) []string {
	var v any = p.config[i.base]
	for _, k := range path {
		if list, ok := v.([]any); ok && len(list) > 0 {
			v = list[0]
		}
		o, _ := v.(object)
		v = o[k].val
	}
	o, _ := v.(object)
	return refList(o)
}

func refList(expression object) []string {
	list, _ := expression["references"].val.([]any)
	var out []string
	for _, r := range list {
		if s := text1(r); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// target is what a reference leads to: an instance, and the attribute named.
type target struct {
	i    *instance
	attr string
}

// follow resolves references of a module to instances, through variables and
// outputs. What cannot be told apart (count, for_each with other keys) is left
// out.
func (p *plan) follow(module string, refs []string, index string, depth int) []target {
	var out []target
	if depth > maxModules {
		return nil
	}
	for _, r := range longest(refs) {
		plain := anyIndex.ReplaceAllString(r, "")
		parts := strings.Split(plain, ".")
		switch {
		case parts[0] == "var" && len(parts) > 1 && module != "":
			e, _ := p.calls[module][parts[1]].val.(object)
			out = append(out, p.follow(parent(module), refList(e), "", depth+1)...)
		case parts[0] == "module" && len(parts) > 2:
			child := dot(module, "module."+parts[1])
			outputs, _ := p.modules[child]["outputs"].val.(object)
			o, _ := outputs[parts[2]].val.(object)
			e, _ := o["expression"].val.(object)
			out = append(out, p.follow(child, refList(e), "", depth+1)...)
		default:
			n := 2
			if parts[0] == "data" {
				n = 3
			}
			if len(parts) < n {
				continue
			}
			list := p.byAddress[dot(module, strings.Join(parts[:n], "."))]
			attr := strings.Join(parts[n:], ".")
			wanted := index
			if own := indexOf(r, n); own != "" {
				wanted = own
			}
			for _, i := range list {
				if len(list) == 1 || i.index == wanted && wanted != "" {
					out = append(out, target{i, attr})
				}
			}
		}
	}
	return out
}

// indexOf is the index right behind the first n parts of a reference: that of
// the resource, not of a block in it.
func indexOf(ref string, n int) string {
	for range n - 1 {
		_, rest, _ := strings.Cut(ref, ".")
		ref = rest
	}
	name, _, _ := strings.Cut(ref, ".")
	if strings.Contains(ref, `["`) { // a key may hold dots
		if end := strings.Index(ref, `"]`); end > 0 && !strings.Contains(ref[:strings.Index(ref, `["`)], ".") {
			name = ref[:end+2]
		}
	}
	return indexed.FindString(name)
}

// parent of a module path.
func parent(module string) string {
	if i := strings.LastIndex(module, ".module."); i >= 0 {
		return module[:i]
	}
	return ""
}

// longest drops references that are beginnings of others: Terraform lists
// a.b.id, a.b.
func longest(refs []string) []string {
	var out []string
	for n, r := range refs {
		if !slices.ContainsFunc(refs[:n], func(o string) bool { return strings.HasPrefix(o, r+".") || strings.HasPrefix(o, r+"[") }) {
			out = append(out, r)
		}
	}
	return out
}

// attr is a value of an instance by path; blocks are lists of one.
func (i *instance) attr(path ...string) (v any, at string) {
	v, at = i.values, i.at
	for _, k := range path {
		if list, ok := v.([]any); ok {
			if len(list) == 0 {
				return nil, at
			}
			v, at = list[0], at+"/0"
		}
		o, ok := v.(object)
		if !ok {
			return v, at // unknown, or nothing
		}
		v, at = o[k].val, at+"/"+k
	}
	return v, at
}

// idOf an instance: the known one, or one made from type and name.
func (p *plan) idOf(i *instance) string {
	if i.id != "" || i.busy {
		return i.id
	}
	i.busy = true
	defer func() { i.busy = false }()
	if id := text1(i.values["id"].val); id != "" && idType(id) != "" {
		i.id = id
		return id
	}
	m, ok := p.types[i.typ]
	if !ok || m.id == nil {
		return ""
	}
	i.id = m.id(p, i)
	return i.id
}

// top is the id of a resource in a resource group.
func top(typ string) func(*plan, *instance) string {
	return func(p *plan, i *instance) string {
		group, _ := i.attr("resource_group_name")
		return joinID(p.group(i, group), typ, []string{p.name(i)})
	}
}

// group is the scope of a resource group by name.
func (p *plan) group(i *instance, name any) string {
	sub := p.subs[i.prov]
	if sub == "" {
		sub = "~" + idName(cond(i.prov == "", "azurerm", i.prov))
	}
	g := text1(name)
	if g == "" {
		g = "~"
		for _, t := range p.follow(i.module, p.references(i, "resource_group_name"), i.index, 0) {
			g = cond(text1(t.i.values["name"].val) == "", "~"+t.i.address, text1(t.i.values["name"].val))
		}
	}
	return "/subscriptions/" + sub + "/resourceGroups/" + plain(strings.ReplaceAll(g, "/", "_"))
}

// name of an instance, or a made-up one.
func (p *plan) name(i *instance) string {
	if n := text1(i.values["name"].val); n != "" {
		return plain(strings.ReplaceAll(n, "/", "_"))
	}
	return plain("~" + strings.ReplaceAll(i.address, "/", "_"))
}

// refID is an id attribute: its value, or the id of what it refers to.
func (p *plan) refID(i *instance, path ...string) string {
	if v, _ := i.attr(path...); text1(v) != "" {
		return text1(v)
	}
	for _, t := range p.follow(i.module, p.references(i, path...), i.index, 0) {
		if t.attr == "id" || t.attr == "" {
			return p.idOf(t.i)
		}
	}
	return ""
}

// byName is the id of the parent that an attribute names: literally, or by a
// reference to its name or id.
func (p *plan) byName(i *instance, typ, attr, groupAttr string) string {
	for _, t := range p.follow(i.module, p.references(i, attr), i.index, 0) {
		if id := p.idOf(t.i); sameType(idType(id), typ) {
			return id
		}
	}
	if n, _ := i.attr(attr); text1(n) != "" {
		group, _ := i.attr(groupAttr)
		return joinID(p.group(i, group), typ, []string{text1(n)})
	}
	return ""
}

// body of an azapi resource: an object, or older versions' JSON text.
func azapiBody(v any) any {
	if s, ok := v.(string); ok {
		var raw any
		if json.Unmarshal([]byte(s), &raw) == nil {
			return folded(raw)
		}
	}
	return refold(v)
}

// refold folds the keys of an object that kept them.
func refold(v any) any {
	switch v := v.(type) {
	case object:
		o := make(object, len(v))
		for _, m := range v {
			o[fold(m.key)] = member{key: m.key, val: refold(m.val), at: m.at}
		}
		return o
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = refold(v[i])
		}
		return out
	}
	return v
}
