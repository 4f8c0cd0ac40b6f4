package netenv

import (
	"fmt"
	"net/netip"
	"strings"

	"sigs.k8s.io/yaml"
)

// Intent is what somebody wants, in a few lines of YAML.
type Intent struct {
	// Name of everything: lower-case letters and digits, 3 to 12.
	Name   string `json:"name"`
	Region string `json:"region"`
	// Nodes at most, and pods on each.
	Nodes       int     `json:"nodes"`
	PodsPerNode int     `json:"podsPerNode"`
	Profile     Profile `json:"profile"`
	// Network of the VNet; default 10.64.0.0/16.
	Network string `json:"network,omitempty"`
	// Flat gives pods addresses of the VNet instead of an overlay.
	Flat bool `json:"flatPods,omitempty"`
	// HighBusinessImpact workspace.
	HBI bool `json:"highBusinessImpact,omitempty"`
	// RouterName is the name under which online endpoints answer.
	RouterName string `json:"routerName,omitempty"`
}

// ParseIntent reads an intent and fills in what is left out.
func ParseIntent(data []byte) (Intent, error) {
	in := Intent{Nodes: 3, PodsPerNode: 30, Profile: Private, Network: "10.64.0.0/16"}
	if err := yaml.UnmarshalStrict(data, &in); err != nil {
		return in, fmt.Errorf("read intent: %w", err)
	}
	if len(in.Name) < 3 || len(in.Name) > 12 || strings.Trim(in.Name, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return in, fmt.Errorf("read intent: name %q: use 3 to 12 lower-case letters and digits", in.Name)
	}
	if in.Region == "" || strings.Trim(in.Region, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return in, fmt.Errorf("read intent: region %q: write it as az does, such as westeurope", in.Region)
	}
	if in.Nodes < 1 || in.Nodes > 5000 || in.PodsPerNode < 10 || in.PodsPerNode > 250 {
		return in, fmt.Errorf("read intent: 1 to 5000 nodes with 10 to 250 pods each, not %d with %d", in.Nodes, in.PodsPerNode)
	}
	if _, err := ParseProfile(string(in.Profile)); err != nil {
		return in, fmt.Errorf("read intent: %w", err)
	}
	if in.RouterName == "" {
		in.RouterName = "score." + in.Name + ".internal"
	}
	if strings.Count(in.RouterName, ".") < 1 || strings.ContainsAny(in.RouterName, "\"$%\\\n /") {
		return in, fmt.Errorf("read intent: routerName %q is no name like score.example.internal", in.RouterName)
	}
	if _, _, err := in.subnets(); err != nil {
		return in, fmt.Errorf("read intent: %w", err)
	}
	return in, nil
}

// subnets lays out the network: nodes first, then endpoints, then the bastion.
func (in Intent) subnets() (node netip.Prefix, others [2]netip.Prefix, err error) {
	whole, err := netip.ParsePrefix(in.Network)
	if err != nil || !whole.Addr().Is4() || whole != whole.Masked() {
		return node, others, fmt.Errorf("network %q is no IPv4 range", in.Network)
	}
	for _, bad := range append([]netip.Prefix{docker, serviceRange, podRange}, aksReserved...) {
		if whole.Overlaps(bad) {
			return node, others, fmt.Errorf("network %s overlaps %s, which is taken", whole, bad)
		}
	}
	pool := PoolSize{Nodes: max(in.Nodes, 3), MaxPods: in.PodsPerNode, Flat: in.Flat}
	bits := min(prefixFor(pool.NodeSubnet()), 26)
	node = netip.PrefixFrom(whole.Addr(), bits)
	next := node
	for i, b := range []int{27, 26} {
		start := after(next)
		next = netip.PrefixFrom(start, b)
		for next != next.Masked() { // to the next border of its size
			next = netip.PrefixFrom(after(netip.PrefixFrom(next.Masked().Addr(), b)), b)
		}
		others[i] = next
	}
	if bits < whole.Bits() || !whole.Contains(lastOf(others[1])) {
		return node, others, fmt.Errorf("network %s is too small: the nodes alone take a /%d", whole, bits)
	}
	return node, others, nil
}

var (
	serviceRange = netip.MustParsePrefix("10.240.0.0/16")
	podRange     = netip.MustParsePrefix("10.244.0.0/15")
)

func asNumber(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func asAddr(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

func lastOf(p netip.Prefix) netip.Addr {
	return asAddr(asNumber(p.Addr()) + 1<<(32-p.Bits()) - 1)
}

func after(p netip.Prefix) netip.Addr { return asAddr(asNumber(lastOf(p)) + 1) }

// block is one Terraform block: a resource, or a block in it.
type block struct {
	labels []string // resource, type, name; or the name of a nested block
	attrs  []setting
	blocks []block
}

// setting is one argument. Values: string, bool, int, []any, map[string]any in
// the order of keys, or expr.
type setting struct {
	name  string
	value any
}

// expr is an expression, written as it is.
type expr string

func resource(typ, name string, attrs ...setting) block {
	return block{labels: []string{"resource", typ, name}, attrs: attrs}
}

func inner(name string, attrs ...setting) block { return block{labels: []string{name}, attrs: attrs} }

func (b block) with(blocks ...block) block {
	b.blocks = append(b.blocks, blocks...)
	return b
}

// hcl writes blocks as Terraform.
func hcl(blocks []block) string {
	var out strings.Builder
	for i, b := range blocks {
		if i > 0 {
			out.WriteByte('\n')
		}
		b.write(&out, "")
	}
	return out.String()
}

func (b block) write(out *strings.Builder, indent string) {
	out.WriteString(indent + b.labels[0])
	for _, l := range b.labels[1:] {
		fmt.Fprintf(out, " %q", l)
	}
	out.WriteString(" {\n")
	writeSettings(out, b.attrs, indent+"  ")
	for _, n := range b.blocks {
		if len(b.attrs) > 0 {
			out.WriteByte('\n')
		}
		n.write(out, indent+"  ")
	}
	out.WriteString(indent + "}\n")
}

// writeSettings aligns arguments as terraform fmt does: one on several lines
// stands apart.
func writeSettings(out *strings.Builder, list []setting, indent string) {
	width := 0
	values := make([]string, len(list))
	for i, a := range list {
		if values[i] = hclValue(a.value, indent); !strings.Contains(values[i], "\n") {
			width = max(width, len(a.name))
		}
	}
	for i, a := range list {
		w := choose(strings.Contains(values[i], "\n"), 0, width)
		fmt.Fprintf(out, "%s%-*s = %s\n", indent, w, a.name, values[i])
	}
}

func choose(b bool, yes, no int) int {
	if b {
		return yes
	}
	return no
}

func hclValue(v any, indent string) string {
	switch v := v.(type) {
	case expr:
		return string(v)
	case string:
		return quote(v)
	case []any:
		var items []string
		for _, e := range v {
			items = append(items, hclValue(e, indent))
		}
		return "[" + strings.Join(items, ", ") + "]"
	case []setting:
		var out strings.Builder
		out.WriteString("{\n")
		writeSettings(&out, v, indent+"  ")
		return out.String() + indent + "}"
	}
	return fmt.Sprint(v)
}

// quote a string for HCL: its templates stay text.
func quote(s string) string {
	return strings.NewReplacer("${", "$${", "%{", "%%{").Replace(fmt.Sprintf("%q", s))
}
