package netenv

import (
	"cmp"
	"fmt"
	"html"
	"io"
	"slices"
	"strings"
)

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
	targetH    = rowHeight + 14
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
	y = max(y, p.drawTargets(&shapes, spots, marks)) + 10
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
			fmt.Fprintf(&edges, `<text class="code" x="%d" y="%d">%s</text>`+"\n", x-52, (a.y+b.y)/2+20, e.bad)
		}
	}
	for _, e := range p.ways {
		drawWay(&edges, e, spots)
	}
	y = p.drawLegend(&shapes, y)
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="the network"><style>%s</style><defs>%s%s%s</defs>`+"\n",
		pictureW, y, pictureW, y, svgStyle, arrow("arrow", "#3c7a57"), arrow("arrow-bad", "#c43d3d"), arrow("arrow-open", "#7b8794")) +
		shapes.String() + edges.String() + "</svg>\n"
}

// classOf a way: how it is drawn, and with which arrow.
func classOf(e picEdge) (class, arrow string) {
	switch {
	case e.bad != "":
		return "way bad", "arrow-bad"
	case e.how == byService:
		return "way service", "arrow-open"
	case e.how == byPublic:
		return "way open", "arrow-open"
	}
	return "way", "arrow"
}

func drawWay(b *strings.Builder, e picEdge, spots map[string]box) {
	from, okA := spots[foldID(e.from)]
	to, okB := spots[foldID(e.to)]
	if !okA || !okB {
		return
	}
	class, arrow := classOf(e)
	x1, y1, x2, y2 := from.x+from.w, from.y+from.h/2, to.x, to.y+to.h/2
	fmt.Fprintf(b, `<path class="%s" d="M %d %d C %d %d %d %d %d %d" marker-end="url(#%s)"><title>%s</title></path>`+"\n",
		class, x1, y1, x1+110, y1, x2-110, y2, x2-4, y2, arrow, html.EscapeString(label(e.from)+" to "+label(e.to)+" ("+cmp.Or(e.text, string(e.how))+")"))
	if e.bad != "" {
		fmt.Fprintf(b, `<text class="code" x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", (x1+x2)/2, (y1+y2)/2-7, e.bad)
	}
}

// drawTargets puts each target about where its ways come from, so that few of
// them cross.
func (p *picture) drawTargets(b *strings.Builder, spots map[string]box, marks map[string]string) int {
	type spot struct {
		r *Resource
		y int
	}
	all := make([]spot, len(p.targets))
	for i, t := range p.targets {
		sum, n := 0, 0
		for _, w := range p.ways {
			if from, ok := spots[foldID(w.from)]; ok && sameID(w.to, t.ID) {
				sum, n = sum+from.y+from.h/2, n+1
			}
		}
		all[i] = spot{t, 1 << 20}
		if n > 0 {
			all[i].y = sum/n - targetH/2
		}
	}
	slices.SortStableFunc(all, func(a, b spot) int { return cmp.Compare(a.y, b.y) })
	y := 30
	for _, s := range all {
		if s.y < 1<<20 {
			y = max(y, s.y)
		}
		spots[foldID(s.r.ID)] = box{targetX, y, targetW, targetH}
		fmt.Fprintf(b, `<g class="target%s"><rect x="%d" y="%d" width="%d" height="%d" rx="6"/><text class="kind" x="%d" y="%d">%s</text><text x="%d" y="%d">%s</text></g>`+"\n",
			cond(marks[foldID(s.r.ID)] != "", " bad", ""), targetX, y, targetW, targetH, targetX+12, y+15, html.EscapeString(noun(s.r.Type)), targetX+12, y+32, text(s.r.Name(), 38))
		y += targetH + 16
	}
	return y
}

// drawLegend names the kinds of lines that the picture has.
func (p *picture) drawLegend(b *strings.Builder, y int) int {
	x := vnetX
	sample := func(class, arrow, what string) {
		end := cond(arrow == "", "", ` marker-end="url(#`+arrow+`)"`)
		fmt.Fprintf(b, `<path class="%s" d="M %d %d H %d"%s/><text class="kind" x="%d" y="%d">%s</text>`+"\n", class, x, y+8, x+36, end, x+44, y+12, what)
		x += 60 + 7*len(what)
	}
	if len(p.peerings) > 0 {
		sample("peering", "", "peering")
	}
	for _, how := range []wayKind{byEndpoint, byService, byPublic} {
		if slices.ContainsFunc(p.ways, func(e picEdge) bool { return e.how == how && e.bad == "" }) {
			class, arrow := classOf(picEdge{how: how})
			sample(class, arrow, string(how))
		}
	}
	if slices.ContainsFunc(append(slices.Clone(p.ways), p.peerings...), func(e picEdge) bool { return e.bad != "" }) {
		sample("way bad", "arrow-bad", "fails, with the rule")
	}
	if x == vnetX {
		return y
	}
	return y + 30
}

const svgStyle = `svg{font:13px system-ui,sans-serif;background:#fff}text{fill:#1d2733}rect{fill:#fff;stroke:#9fb0c3}` +
	`.vnet>rect{fill:#f2f6fb;stroke:#6d8db3;stroke-width:1.5}.subnet>rect{fill:#fff;stroke:#c4d2e2}.cluster rect{fill:#e6effb;stroke:#3f6fb5}.endpoint rect{fill:#eaf6ef;stroke:#3c7a57}` +
	`.target rect{fill:#fbf7ec;stroke:#b08a2e}.kind{font-size:11px;fill:#6b7785}.head{font-weight:600}.bad>rect{stroke:#c43d3d;stroke-width:2}.unseen>rect{stroke-dasharray:5 4}` +
	`path{fill:none;stroke-width:1.6}.way{stroke:#3c7a57}.peering{stroke:#6d8db3;stroke-width:3}.service{stroke:#4a6fa5;stroke-dasharray:8 3}.open{stroke:#7b8794;stroke-dasharray:2 5}path.bad{stroke:#c43d3d;stroke-dasharray:6 4}.code{fill:#c43d3d;stroke:#fff;stroke-width:4;paint-order:stroke;font-weight:600;font-size:12px}.zone{font-size:12px}`

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

// aside is a note at the right end of a line; nothing when there is none.
func aside(x, y int, note string) string {
	if note == "" {
		return ""
	}
	return fmt.Sprintf(`<text class="kind" x="%d" y="%d" text-anchor="end">%s</text>`, x, y, text(note, 44))
}

func (p *picture) drawVNets(b *strings.Builder, spots map[string]box, marks map[string]string, y int) int {
	class := func(base, id string) string { return base + cond(marks[foldID(id)] != "", " bad", "") }
	for _, v := range p.vnets {
		height := headHeight + 8
		for _, s := range v.subnets {
			height += 26 + (len(s.clusters)+len(s.endpoints))*(rowHeight+6) + 10
		}
		spots[foldID(v.id)] = box{vnetX, y, vnetWidth, height}
		fmt.Fprintf(b, `<g class="%s%s"><rect x="%d" y="%d" width="%d" height="%d" rx="10"/><text class="head" x="%d" y="%d">%s</text>%s</g>`+"\n",
			class("vnet", v.id), cond(v.unseen, " unseen", ""), vnetX, y, vnetWidth, height, vnetX+14, y+22, text(v.title, 40), aside(vnetX+vnetWidth-14, y+22, v.note))
		sy := y + headHeight
		for _, s := range v.subnets {
			h := 26 + (len(s.clusters)+len(s.endpoints))*(rowHeight+6)
			fmt.Fprintf(b, `<g class="%s"><rect x="%d" y="%d" width="%d" height="%d" rx="6"/><text class="kind" x="%d" y="%d">subnet %s</text>%s</g>`+"\n",
				class("subnet", s.id), vnetX+12, sy, vnetWidth-24, h, vnetX+22, sy+17, text(idName(s.id), 40), aside(vnetX+vnetWidth-24, sy+17, s.prefix))
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
