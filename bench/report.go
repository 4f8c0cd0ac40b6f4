package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// The aims of Sallyport with everything on, against the bare relay of the
// same run.
const (
	floorName = "bare relay"
	aimName   = "sallyport"
	aimRate   = 0.9
	aimCPU    = 1.10
)

// results are all turns of a run.
type results struct {
	contenders []contender
	callers    []int
	turns      map[key][]turn
}

type key struct {
	name    string
	callers int
}

func newResults(cs []contender, callers []int) *results {
	return &results{contenders: cs, callers: callers, turns: map[key][]turn{}}
}

func (r *results) add(c contender, callers int, t turn) {
	k := key{c.name, callers}
	r.turns[k] = append(r.turns[k], t)
}

// row is one line of the table. CPU is in microseconds per request.
type row struct {
	Contender string             `json:"contender"`
	Callers   int                `json:"callers"`
	Rate      float64            `json:"requests_per_second"` // median of the rounds
	Low       float64            `json:"lowest"`
	High      float64            `json:"highest"`
	P50       time.Duration      `json:"p50_ns"` // of all requests of all rounds
	P99       time.Duration      `json:"p99_ns"`
	CPU       map[string]float64 `json:"cpu_us"` // by process, over all rounds
	Own       float64            `json:"own_cpu_us"`
	ToDirect  float64            `json:"rate_to_direct,omitempty"`
	ToFloor   float64            `json:"rate_to_bare_relay,omitempty"`
}

func (r *results) summary() []row {
	var rows []row
	for _, callers := range r.callers {
		byName := map[string]row{}
		for _, c := range r.contenders {
			byName[c.name] = r.row(c, callers)
		}
		for _, c := range r.contenders {
			row := byName[c.name]
			if d, ok := byName["direct"]; ok {
				row.ToDirect = row.Rate / d.Rate
			}
			if d, ok := byName[floorName]; ok {
				row.ToFloor = row.Rate / d.Rate
			}
			rows = append(rows, row)
		}
	}
	return rows
}

func (r *results) row(c contender, callers int) row {
	out := row{Contender: c.name, Callers: callers, CPU: map[string]float64{}}
	var rates []float64
	all, requests := histogram{}, 0
	for _, t := range r.turns[key{c.name, callers}] {
		rates = append(rates, t.rate())
		all.merge(t.Latencies)
		requests += t.Requests
		for name, d := range t.cpu {
			out.CPU[name] += float64(d.Microseconds())
		}
	}
	for name := range out.CPU {
		out.CPU[name] /= float64(requests)
	}
	if c.name != "direct" {
		for _, p := range c.parts {
			out.Own += out.CPU[p.name]
		}
	}
	slices.Sort(rates)
	out.Rate, out.Low, out.High = median(rates), rates[0], rates[len(rates)-1]
	out.P50, out.P99 = all.quantile(0.5), all.quantile(0.99)
	return out
}

func median(sorted []float64) float64 {
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// print writes the table and, if Sallyport took part, whether the aims hold.
func (r *results) print(out io.Writer) {
	rows := r.summary()
	names := []string{"caller", "gateway", "agent", "server"}
	for _, row := range rows {
		for name := range row.CPU {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "\ncallers\tcontender\treq/s\tlow..high\tof direct\tof bare\tp50\tp99\tCPU µs/req: own")
	for _, name := range names {
		fmt.Fprintf(t, "\t%s", name)
	}
	fmt.Fprintln(t, "\t")
	for _, row := range rows {
		fmt.Fprintf(t, "%d\t%s\t%.0f\t%.0f..%.0f\t%s\t%s\t%s\t%s\t%.0f", row.Callers, row.Contender, row.Rate, row.Low, row.High,
			ratio(row.ToDirect), ratio(row.ToFloor), micro(row.P50), micro(row.P99), row.Own)
		for _, name := range names {
			if us, ok := row.CPU[name]; ok {
				fmt.Fprintf(t, "\t%.0f", us)
			} else {
				fmt.Fprint(t, "\t-")
			}
		}
		fmt.Fprintln(t, "\t")
	}
	_ = t.Flush()
	r.verdict(out, rows)
}

// printIdle writes what each way costs while nobody asks.
func printIdle(out io.Writer, contenders []contender, idle map[string]float64) {
	var each []string
	for _, c := range contenders {
		if ms, ok := idle[c.name]; ok {
			each = append(each, fmt.Sprintf("%s %.1f", c.name, ms))
		}
	}
	if len(each) > 0 {
		fmt.Fprintf(out, "CPU while nobody asks, in ms a second: %s\n", strings.Join(each, ", "))
	}
}

func ratio(f float64) string {
	if f == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", f)
}

func micro(d time.Duration) string { return fmt.Sprintf("%.2f ms", d.Seconds()*1000) }

// verdict compares Sallyport with the floor.
func (r *results) verdict(out io.Writer, rows []row) {
	for _, callers := range r.callers {
		var floor, own *row
		for i := range rows {
			switch {
			case rows[i].Callers != callers:
			case rows[i].Contender == floorName:
				floor = &rows[i]
			case rows[i].Contender == aimName:
				own = &rows[i]
			}
		}
		if floor == nil || own == nil {
			continue
		}
		fmt.Fprintf(out, "%d callers: rate %.2f of the bare relay (aim: at least %.2f, %s), CPU %.2f of it (aim: at most %.2f, %s), %+.0f µs a request\n",
			callers, own.ToFloor, aimRate, held(own.ToFloor >= aimRate),
			own.Own/floor.Own, aimCPU, held(own.Own <= aimCPU*floor.Own), own.Own-floor.Own)
	}
}

func held(ok bool) string {
	if ok {
		return "holds"
	}
	return "missed"
}
