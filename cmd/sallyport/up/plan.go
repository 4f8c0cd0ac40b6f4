package up

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// What building and running need, measured with `make up` on two cores.
const (
	mib                = 1 << 20
	buildDisk          = 4 << 30   // Kubernetes from source: build cache and binary
	runDisk            = 600 * mib // 400 used, and what the store wants to have free
	buildMemory        = 3 << 30
	runMemory          = 1 << 30
	kubernetesMinutes  = 8 // cold, two cores
	sallyportMinutes   = 2
	nodeMemory         = 600 * mib
	minutesWithoutWork = 1
)

// plan is what `up` is about to do, shown before it does it.
type plan struct {
	Folder     string
	Before     string // what becomes of an earlier run; "": there is none
	Kubernetes string // "built already", "will be built from source", a path
	Build      bool   // Kubernetes must be built
	Nodes      int
	NoNodes    string // why there is none
	Root       bool
	Missing    []string
}

// resources is what the machine has free; 0 means unknown.
type resources struct{ disk, memory uint64 }

func (p *plan) needs() resources {
	n := resources{disk: runDisk, memory: runMemory + uint64(p.Nodes)*nodeMemory}
	if p.Build {
		n.disk += buildDisk
		n.memory = max(n.memory, buildMemory)
	}
	return n
}

func (p *plan) minutes() int {
	m := minutesWithoutWork + sallyportMinutes
	if p.Build {
		m += kubernetesMinutes
	}
	return m
}

// check adds to Missing what the machine lacks.
func (p *plan) check(free resources) {
	need := p.needs()
	if free.disk > 0 && free.disk < need.disk {
		p.Missing = append(p.Missing, fmt.Sprintf("disk: %s free at %s, %s needed: free some, or choose another place with --dir", size(free.disk), p.Folder, size(need.disk)))
	}
	if free.memory > 0 && free.memory < need.memory {
		p.Missing = append(p.Missing, fmt.Sprintf("memory: %s free, %s needed", size(free.memory), size(need.memory)))
	}
}

func (p *plan) show(t *teller, free resources) {
	need := p.needs()
	user := "an ordinary user"
	if p.Root {
		user = "root"
	}
	nodes := "none: " + p.NoNodes
	if p.Nodes > 0 {
		nodes = fmt.Sprintf("%d, with real containers", p.Nodes)
	}
	t.heading("Sallyport up: a private cluster, a gateway, and the story of one binding")
	for _, row := range [][2]string{
		{"folder", p.Folder},
		{"before", p.Before},
		{"Kubernetes", p.Kubernetes},
		{"nodes", nodes},
		{"time", fmt.Sprintf("about %d min with cold caches on two cores, less with warm ones", p.minutes())},
		{"disk", fmt.Sprintf("%s needed, %s free", size(need.disk), size(free.disk))},
		{"memory", fmt.Sprintf("%s needed, %s free", size(need.memory), size(free.memory))},
		{"ports", "one for Sallyport and one for the API server, chosen free, loopback only"},
		{"running as", user + ", " + runtime.GOOS + "/" + runtime.GOARCH},
	} {
		if row[1] != "" {
			t.line("  %-11s %s", row[0], row[1])
		}
	}
}

// err is why nothing is started, or nil.
func (p *plan) err() error {
	if len(p.Missing) == 0 {
		return nil
	}
	return errors.New("nothing was started:\n- " + strings.Join(p.Missing, "\n- "))
}

func size(n uint64) string {
	switch {
	case n == 0:
		return "unknown"
	case n < 1<<30:
		return fmt.Sprintf("%d MiB", n/mib)
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

// memoryFree reads MemAvailable; 0 where there is no /proc.
func memoryFree() uint64 {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		var kib uint64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}
