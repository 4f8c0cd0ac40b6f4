package netenv

import (
	"cmp"
	"fmt"
	"html"
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
	ways     []picEdge // endpoint to target
	missing  []picEdge // cluster to target, without a way
}

type picVNet struct {
	id, space string
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
type picEdge struct{ from, to, text, bad string }

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
		for _, id := range f.Resources {
			mark(id, f.Code)
		}
	}
	return out
}

func (r *Report) picture() *picture {
	g, marks := r.graph, r.marks()
	p := &picture{}
	e := &env{g: g, vnets: map[*Resource]*homes{}}
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
	}
	for _, pe := range g.list(typeEndpoint) {
		if s := pe.Get("subnet", "id"); s.State() == Known {
			here := place(s.Text())
			here.endpoints = append(here.endpoints, pe)
		}
		for _, c := range connections(pe) {
			t := c.Get("privateLinkServiceId").Text()
			groups, _ := c.Get("groupIds").Texts()
			p.ways = append(p.ways, picEdge{pe.ID, t, strings.Join(groups, ","), marks[foldID(pe.ID)]})
		}
	}
	p.addVNets(g, in, marks)
	for _, t := range []string{typeWorkspace, typeStorage, typeVault, typeRegistry} {
		p.targets = append(p.targets, g.list(t)...)
	}
	for _, z := range g.list(typeZone) {
		pz := picZone{zone: z}
		for _, l := range g.below(z.ID, typeLink) {
			pz.links = append(pz.links, picEdge{z.ID, l.Get("virtualNetwork", "id").Text(), l.Name(), marks[foldID(l.ID)]})
		}
		p.zones = append(p.zones, pz)
	}
	for _, f := range r.shown(Fail) {
		if slices.Contains([]string{"WS-02", "ST-01", "KV-01", "CR-03", "ST-05"}, f.Code) && len(f.Resources) > 1 {
			p.missing = append(p.missing, picEdge{f.Resources[0], f.Resources[len(f.Resources)-1], f.Code, f.Code})
		}
	}
	return p
}

func (p *picture) addVNets(g *Graph, in map[string]*picSubnet, marks map[string]string) {
	at := map[string]int{}
	add := func(id string) int {
		if i, ok := at[foldID(id)]; ok {
			return i
		}
		v := picVNet{id: id, unseen: true}
		if r := g.Resource(id); r != nil {
			space, _, _ := addressSpace(r)
			v = picVNet{id: r.ID, space: join(space)}
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
		p.peerings = append(p.peerings, picEdge{a, b, r.Name(), cmp.Or(marks[foldID(r.ID)], "")})
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
	bad := func(code string) string { return cond(code == "", "", "  ✗ "+code) }
	for _, v := range p.vnets {
		fmt.Fprintf(&b, "VNet %s  %s%s\n", idName(v.id), cond(v.unseen, "(not in the input)", v.space), bad(marks[foldID(v.id)]))
		var lines [][]string
		for _, s := range v.subnets {
			block := []string{fmt.Sprintf("subnet %s  %s%s", idName(s.id), s.prefix, bad(marks[foldID(s.id)]))}
			var inner []string
			for _, c := range s.clusters {
				inner = append(inner, fmt.Sprintf("cluster %s%s", c.Name(), bad(marks[foldID(c.ID)])))
				for _, m := range p.missing {
					if sameID(m.from, c.ID) {
						inner = append(inner, fmt.Sprintf("   ╌╌✗ %s  %s", label(m.to), m.bad))
					}
				}
			}
			for _, e := range s.endpoints {
				for _, way := range p.ways {
					if sameID(way.from, e.ID) {
						inner = append(inner, fmt.Sprintf("%s ──%s─▶ %s%s", e.Name(), cond(way.bad == "", "─", "✗"), label(way.to)+" ("+way.text+")", bad(way.bad)))
					}
				}
			}
			lines = append(lines, append(block, branch(inner)...))
		}
		for _, e := range p.peerings {
			if sameID(e.from, v.id) || sameID(e.to, v.id) {
				other := cond(sameID(e.from, v.id), e.to, e.from)
				lines = append(lines, []string{"peering " + cond(e.bad == "", "⇄", "✗") + " VNet " + idName(other) + bad(e.bad)})
			}
		}
		for _, z := range p.zones {
			for _, l := range z.links {
				if sameID(l.to, v.id) {
					lines = append(lines, []string{"resolves " + z.zone.Name() + bad(cmp.Or(l.bad, marks[foldID(z.zone.ID)]))})
				}
			}
		}
		for i, block := range lines {
			last := i == len(lines)-1
			for j, line := range block {
				b.WriteString(cond(j == 0, cond(last, "└─ ", "├─ "), cond(last, "   ", "│  ")) + line + "\n")
			}
		}
	}
	if len(p.vnets) == 0 {
		b.WriteString("no network in the input\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// branch prefixes lines as the leaves of a tree.
func branch(lines []string) []string {
	for i := range lines {
		lines[i] = cond(i == len(lines)-1, "└─ ", "├─ ") + lines[i]
	}
	return lines
}

// DrawSVG writes the network as one SVG document.
func (r *Report) DrawSVG(w io.Writer) error {
	_, err := io.WriteString(w, r.svg())
	return err
}

// The drawing's measures in pixels.
const (
	rowHeight  = 26
	vnetWidth  = 470
	targetX    = 760
	targetW    = 300
	pictureW   = targetX + targetW + 30
	vnetX      = 70
	headHeight = 34
)

type box struct{ x, y, w, h int }

func (r *Report) svg() string {
	p, marks := r.picture(), r.marks()
	var shapes, edges strings.Builder
	spots := map[string]box{} // by id
	y := p.drawVNets(&shapes, spots, marks, 30)
	ty := 30
	for _, t := range p.targets {
		spots[foldID(t.ID)] = box{targetX, ty, targetW, rowHeight + 14}
		fmt.Fprintf(&shapes, `<g class="target%s"><rect x="%d" y="%d" width="%d" height="%d" rx="6"/><text class="kind" x="%d" y="%d">%s</text><text x="%d" y="%d">%s</text></g>`+"\n",
			cond(marks[foldID(t.ID)] != "", " bad", ""), targetX, ty, targetW, rowHeight+14, targetX+12, ty+15, html.EscapeString(noun(t.Type)), targetX+12, ty+32, text(t.Name(), 38))
		ty += rowHeight + 30
	}
	y = max(y, ty) + 10
	y = p.drawZones(&shapes, marks, y)
	for i, e := range p.peerings {
		a, okA := spots[e.from]
		b, okB := spots[e.to]
		if !okA || !okB {
			continue
		}
		x := vnetX - 12 - (i%4)*12
		fmt.Fprintf(&edges, `<path class="peering%s" d="M %d %d H %d V %d H %d"><title>peering %s</title></path>`+"\n", cond(e.bad != "", " bad", ""), a.x, a.y+16, x, b.y+16, b.x, html.EscapeString(e.text))
		if e.bad != "" {
			fmt.Fprintf(&edges, `<text class="code" x="%d" y="%d">%s</text>`+"\n", x+4, (a.y+b.y)/2+20, e.bad)
		}
	}
	for _, e := range append(slices.Clone(p.ways), p.missing...) {
		a, okA := spots[foldID(e.from)]
		b, okB := spots[foldID(e.to)]
		if !okA || !okB {
			continue
		}
		x1, y1, x2, y2 := a.x+a.w, a.y+a.h/2, b.x, b.y+b.h/2
		fmt.Fprintf(&edges, `<path class="way%s" d="M %d %d C %d %d %d %d %d %d" marker-end="url(#%s)"><title>%s</title></path>`+"\n",
			cond(e.bad != "", " bad", ""), x1, y1, x1+110, y1, x2-110, y2, x2-4, y2, cond(e.bad != "", "arrow-bad", "arrow"), html.EscapeString(label(e.from)+" to "+label(e.to)+" ("+e.text+")"))
		if e.bad != "" {
			fmt.Fprintf(&edges, `<text class="code" x="%d" y="%d">%s</text>`+"\n", (x1+x2)/2-16, (y1+y2)/2-5, e.bad)
		}
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="the network"><style>%s</style><defs>%s%s</defs>`+"\n", pictureW, y, svgStyle, arrow("arrow", "#3c7a57"), arrow("arrow-bad", "#c43d3d")) +
		shapes.String() + edges.String() + "</svg>\n"
}

const svgStyle = `svg{font:13px system-ui,sans-serif;background:#fff}text{fill:#1d2733}rect{fill:#fff;stroke:#9fb0c3}` +
	`.vnet>rect{fill:#f2f6fb;stroke:#6d8db3;stroke-width:1.5}.subnet>rect{fill:#fff;stroke:#c4d2e2}.cluster rect{fill:#e6effb;stroke:#3f6fb5}.endpoint rect{fill:#eaf6ef;stroke:#3c7a57}` +
	`.target rect{fill:#fbf7ec;stroke:#b08a2e}.kind{font-size:11px;fill:#6b7785}.head{font-weight:600}.bad>rect{stroke:#c43d3d;stroke-width:2}.unseen>rect{stroke-dasharray:5 4}` +
	`path{fill:none;stroke-width:1.6}.way{stroke:#3c7a57}.peering{stroke:#6d8db3;stroke-width:3}path.bad{stroke:#c43d3d;stroke-dasharray:6 4}.code{fill:#c43d3d;font-weight:600;font-size:12px}.zone{font-size:12px}`

func arrow(id, color string) string {
	return `<marker id="` + id + `" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" style="fill:` + color + `;stroke:none"/></marker>`
}

// text of at most n characters, escaped.
func text(s string, n int) string {
	if r := []rune(s); len(r) > n {
		s = string(r[:n-1]) + "…"
	}
	return html.EscapeString(s)
}

func (p *picture) drawVNets(b *strings.Builder, spots map[string]box, marks map[string]string, y int) int {
	class := func(base, id string) string { return base + cond(marks[foldID(id)] != "", " bad", "") }
	for _, v := range p.vnets {
		height := headHeight + 8
		for _, s := range v.subnets {
			height += 26 + (len(s.clusters)+len(s.endpoints))*(rowHeight+6) + 10
		}
		spots[foldID(v.id)] = box{vnetX, y, vnetWidth, height}
		fmt.Fprintf(b, `<g class="%s%s"><rect x="%d" y="%d" width="%d" height="%d" rx="10"/><text class="head" x="%d" y="%d">%s</text><text class="kind" x="%d" y="%d" text-anchor="end">%s</text></g>`+"\n",
			class("vnet", v.id), cond(v.unseen, " unseen", ""), vnetX, y, vnetWidth, height, vnetX+14, y+22, "VNet "+text(idName(v.id), 36), vnetX+vnetWidth-14, y+22, text(cond(v.unseen, "not in the input", v.space), 44))
		sy := y + headHeight
		for _, s := range v.subnets {
			h := 26 + (len(s.clusters)+len(s.endpoints))*(rowHeight+6)
			fmt.Fprintf(b, `<g class="%s"><rect x="%d" y="%d" width="%d" height="%d" rx="6"/><text class="kind" x="%d" y="%d">subnet %s</text><text class="kind" x="%d" y="%d" text-anchor="end">%s</text></g>`+"\n",
				class("subnet", s.id), vnetX+12, sy, vnetWidth-24, h, vnetX+22, sy+17, text(idName(s.id), 40), vnetX+vnetWidth-24, sy+17, text(s.prefix, 30))
			iy := sy + 24
			item := func(kind string, res *Resource) {
				spots[foldID(res.ID)] = box{vnetX + 22, iy, vnetWidth - 44, rowHeight}
				fmt.Fprintf(b, `<g class="%s"><rect x="%d" y="%d" width="%d" height="%d" rx="5"/><text x="%d" y="%d">%s</text></g>`+"\n", class(kind, res.ID), vnetX+22, iy, vnetWidth-44, rowHeight, vnetX+32, iy+18, text(res.Label(), 58))
				iy += rowHeight + 6
			}
			for _, c := range s.clusters {
				item("cluster", c)
			}
			for _, e := range s.endpoints {
				item("endpoint", e)
			}
			sy += h + 10
		}
		y += height + 24
	}
	return y
}

func (p *picture) drawZones(b *strings.Builder, marks map[string]string, y int) int {
	if len(p.zones) == 0 {
		return y
	}
	fmt.Fprintf(b, `<text class="head" x="%d" y="%d">Private DNS zones and the VNets that they answer in</text>`+"\n", vnetX, y+14)
	y += 28
	for _, z := range p.zones {
		var to []string
		bad := marks[foldID(z.zone.ID)]
		for _, l := range z.links {
			to = append(to, idName(l.to))
			bad = cmp.Or(bad, l.bad)
		}
		fmt.Fprintf(b, `<text class="zone" x="%d" y="%d">%s</text><text class="kind" x="%d" y="%d">%s</text>`, vnetX, y+12, text(z.zone.Name(), 60), vnetX+430, y+12, text(cond(len(to) == 0, "no link", "→ "+strings.Join(to, ", ")), 70))
		if bad != "" {
			fmt.Fprintf(b, `<text class="code" x="%d" y="%d">%s</text>`, vnetX-50, y+12, bad)
		}
		b.WriteByte('\n')
		y += 20
	}
	return y + 20
}
