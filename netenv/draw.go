package netenv

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// picture is what both drawings show: networks with what stands in them, what
// they lead to, and the zones that answer there.
type picture struct {
	vnets    []picVNet
	peerings []picEdge // VNet to VNet
	targets  []*Resource
	zones    []picZone
	ways     []picEdge // to targets: from endpoints, and from clusters without one
}

type picVNet struct {
	id, title string
	note      string // address space, or why there is none
	subnets   []picSubnet
	unseen    bool
}

type picSubnet struct {
	id, prefix string
	clusters   []*Resource
	endpoints  []*Resource
}

type picZone struct {
	zone  *Resource
	links []picEdge
}

// picEdge joins two ids; bad is the code of the finding that marks it.
type picEdge struct {
	from, to, text, bad string
	how                 wayKind
}

// wayKind is how a target is reached.
type wayKind string

const (
	byEndpoint wayKind = "private endpoint"
	byService  wayKind = "service endpoint"
	byPublic   wayKind = "public address"
	byNothing  wayKind = "no way"
)

// marks are the resources at which a failure lies, by id, with its code.
func (r *Report) marks() map[string]string {
	out := map[string]string{}
	mark := func(id, code string) {
		if out[foldID(id)] == "" {
			out[foldID(id)] = code
		}
	}
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.Verdict != Fail || f.Follows != "" {
			continue
		}
		for _, s := range f.Evidence {
			if s.Broken && s.Resource != "" {
				mark(s.Resource, f.Code)
			}
		}
		for _, id := range f.core() {
			mark(id, f.Code)
		}
	}
	return out
}

func (r *Report) picture() *picture {
	g, marks := r.graph, r.marks()
	p := &picture{}
	e := &env{g: g, vnets: map[*Resource]*homes{}, pairs: findPairs(g)}
	in := map[string]*picSubnet{}
	place := func(subnet string) *picSubnet {
		if s := in[foldID(subnet)]; s != nil {
			return s
		}
		in[foldID(subnet)] = &picSubnet{id: subnet}
		if s := g.Resource(subnet); s != nil {
			ps, _, _ := subnetPrefixes(s)
			in[foldID(subnet)].prefix = join(ps)
		}
		return in[foldID(subnet)]
	}
	for _, s := range g.list(typeSubnet) {
		place(s.ID)
	}
	for _, c := range g.list(typeCluster) {
		for _, h := range e.homesOf(c).subnets {
			if s := place(h.subnet); !slices.Contains(s.clusters, c) {
				s.clusters = append(s.clusters, c)
			}
		}
		if len(e.homesOf(c).subnets) == 0 {
			p.vnets = append(p.vnets, picVNet{id: "~" + c.ID, title: "network that Azure makes", note: "not in the input", unseen: true,
				subnets: []picSubnet{{id: "~" + c.ID + "/nodes", clusters: []*Resource{c}}}})
		}
	}
	for _, pe := range g.list(typeEndpoint) {
		if s := pe.Get("subnet", "id"); s.State() == Known {
			here := place(s.Text())
			here.endpoints = append(here.endpoints, pe)
		}
		for _, c := range connections(pe) {
			t := c.Get("privateLinkServiceId").Text()
			groups, _ := c.Get("groupIds").Texts()
			p.ways = append(p.ways, picEdge{pe.ID, t, strings.Join(groups, ","), marks[foldID(pe.ID)], byEndpoint})
		}
	}
	p.addVNets(g, in, marks)
	for _, t := range []string{typeWorkspace, typeStorage, typeVault, typeRegistry} {
		p.targets = append(p.targets, g.list(t)...)
	}
	for _, z := range g.list(typeZone) {
		pz := picZone{zone: z}
		for _, l := range g.below(z.ID, typeLink) {
			pz.links = append(pz.links, picEdge{from: z.ID, to: l.Get("virtualNetwork", "id").Text(), text: l.Name(), bad: marks[foldID(l.ID)]})
		}
		p.zones = append(p.zones, pz)
	}
	for _, f := range r.shown(Fail) {
		if slices.Contains([]string{"WS-02", "ST-01", "KV-01", "CR-03", "ST-05"}, f.Code) && len(f.Resources) > 1 {
			p.ways = append(p.ways, picEdge{f.Resources[0], f.Resources[len(f.Resources)-1], "", f.Code, byNothing})
		}
	}
	p.addOpenWays(e)
	return p
}

// addOpenWays are those of clusters to what has no private endpoint: by service
// endpoint, or by its public address.
func (p *picture) addOpenWays(e *env) {
	for _, pair := range e.pairs {
		for _, id := range e.uses(pair.workspace) {
			t := e.g.Resource(id)
			if t == nil || slices.ContainsFunc(p.ways, func(w picEdge) bool {
				return sameID(w.to, id) && (w.how == byEndpoint || sameID(w.from, pair.cluster.ID))
			}) {
				continue
			}
			how := byPublic
			for _, rule := range t.Get("networkAcls", "virtualNetworkRules").Items() {
				if slices.ContainsFunc(e.homesOf(pair.cluster).subnets, func(h home) bool {
					return sameID(h.subnet, cmp.Or(rule.Get("id").Text(), rule.Get("virtualNetworkResourceId").Text()))
				}) {
					how = byService
				}
			}
			if shut, _, _ := isClosed(t); shut && how == byPublic {
				continue
			}
			p.ways = append(p.ways, picEdge{from: pair.cluster.ID, to: id, how: how})
		}
	}
}

func (p *picture) addVNets(g *Graph, in map[string]*picSubnet, marks map[string]string) {
	at := map[string]int{}
	add := func(id string) int {
		if i, ok := at[foldID(id)]; ok {
			return i
		}
		v := picVNet{id: id, title: "VNet " + idName(id), note: "not in the input", unseen: true}
		if r := g.Resource(id); r != nil {
			space, _, _ := addressSpace(r)
			v = picVNet{id: r.ID, title: "VNet " + r.Name(), note: join(space)}
		}
		at[foldID(id)] = len(p.vnets)
		p.vnets = append(p.vnets, v)
		return len(p.vnets) - 1
	}
	for _, v := range g.list(typeVNet) {
		add(v.ID)
	}
	for _, key := range slices.Sorted(mapKeys(in)) {
		i := add(idParent(in[key].id))
		p.vnets[i].subnets = append(p.vnets[i].subnets, *in[key])
	}
	done := map[string]bool{}
	for _, r := range g.list(typePeering) {
		a, b := foldID(idParent(r.ID)), foldID(r.Get("remoteVirtualNetwork", "id").Text())
		if b == "" || done[min(a, b)+max(a, b)] {
			continue
		}
		done[min(a, b)+max(a, b)] = true
		add(r.Get("remoteVirtualNetwork", "id").Text())
		p.peerings = append(p.peerings, picEdge{from: a, to: b, text: r.Name(), bad: marks[foldID(r.ID)]})
	}
}

func mapKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// Draw writes the network for a terminal.
func (r *Report) Draw(w io.Writer) error {
	p := r.picture()
	marks := r.marks()
	var b strings.Builder
	for i, v := range p.vnets {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s  %s%s\n", v.title, cond(v.unseen, "("+v.note+")", v.note), cross(marks[foldID(v.id)]))
		blocks := p.inside(v, marks)
		for i, block := range blocks {
			last := i == len(blocks)-1
			for j, line := range block {
				b.WriteString(cond(j == 0, cond(last, "└─ ", "├─ "), cond(last, "   ", "│  ")) + line + "\n")
			}
		}
	}
	if len(p.vnets) == 0 {
		b.WriteString("no network and no cluster in the input\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// cross marks a line with the code of a failure.
func cross(code string) string { return cond(code == "", "", "  ✗ "+code) }

// inside a network: its subnets with what stands in them, its peerings, and the
// zones that answer there; each a block of lines.
func (p *picture) inside(v picVNet, marks map[string]string) [][]string {
	var blocks [][]string
	for _, s := range v.subnets {
		block := []string{strings.TrimRight(fmt.Sprintf("subnet %s  %s", idName(s.id), s.prefix), " ") + cross(marks[foldID(s.id)])}
		var inner []string
		for _, c := range s.clusters {
			inner = append(inner, "cluster "+c.Name()+cross(marks[foldID(c.ID)]))
			inner = append(inner, p.waysFrom(c.ID, "   ")...)
		}
		for _, e := range s.endpoints {
			lines := p.waysFrom(e.ID, e.Name()+" ")
			inner = append(inner, lines...)
			if len(lines) == 0 {
				inner = append(inner, e.Name()+" leads nowhere in the input"+cross(marks[foldID(e.ID)]))
			}
		}
		blocks = append(blocks, append(block, branch(inner)...))
	}
	for _, e := range p.peerings {
		if sameID(e.from, v.id) || sameID(e.to, v.id) {
			blocks = append(blocks, []string{"peering " + cond(e.bad == "", "⇄", "✗") + " VNet " + idName(cond(sameID(e.from, v.id), e.to, e.from)) + cross(e.bad)})
		}
	}
	var names []string
	for _, z := range p.zones {
		for _, l := range z.links {
			if !sameID(l.to, v.id) {
				continue
			}
			if bad := cmp.Or(l.bad, marks[foldID(z.zone.ID)]); bad != "" {
				blocks = append(blocks, []string{"resolves " + z.zone.Name() + cross(bad)})
			} else {
				names = append(names, z.zone.Name())
			}
		}
	}
	if len(names) > 0 {
		blocks = append(blocks, wrap("resolves ", names, 96))
	}
	return blocks
}

// arrows of the kinds of ways.
var arrows = map[wayKind]string{byEndpoint: "────▶", byService: "╌╌╌╌▶", byPublic: "·····▶", byNothing: "╌╌✗"}

func (p *picture) waysFrom(id, prefix string) []string {
	var out []string
	for _, way := range p.ways {
		if !sameID(way.from, id) {
			continue
		}
		arrow := cond(way.bad != "" && way.how == byEndpoint, "──✗─▶", arrows[way.how])
		out = append(out, prefix+arrow+" "+label(way.to)+" ("+cmp.Or(way.text, string(way.how))+")"+cross(way.bad))
	}
	return out
}

// branch prefixes lines as the leaves of a tree; indented ones hang on the last.
func branch(lines []string) []string {
	last := len(lines) - 1
	for last > 0 && strings.HasPrefix(lines[last], " ") {
		last--
	}
	for i, line := range lines {
		switch {
		case !strings.HasPrefix(line, " "):
			lines[i] = cond(i == last, "└─ ", "├─ ") + line
		case i < last:
			lines[i] = "│  " + line
		default:
			lines[i] = "   " + line
		}
	}
	return lines
}

// wrap writes words after a head, separated by commas, in lines of at most width
// characters.
func wrap(head string, words []string, width int) []string {
	indent := strings.Repeat(" ", len(head))
	out := []string{head}
	for i, w := range words {
		w += cond(i < len(words)-1, ",", "")
		if l := &out[len(out)-1]; len(*l)+len(w) >= width && *l != head && *l != indent {
			out = append(out, indent+w)
		} else {
			*l += cond(strings.HasSuffix(*l, " "), "", " ") + w
		}
	}
	return out
}
