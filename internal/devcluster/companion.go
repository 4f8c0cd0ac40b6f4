package devcluster

import (
	"context"
	"fmt"
)

// Companion is another program beside a cluster, such as a client of its API
// server.
type Companion struct {
	Name string // unique; of its log file (LogPath) and for Signal
	Path string
	Args []string // without the program's name
	Env  []string // besides PATH, and HOME, which is the cluster's folder
}

// StartCompanion starts a program that lives as the cluster does: it is recorded
// with the cluster's own processes, stops before all of them, and is found by
// Recover. A detached cluster's companion outlives this process too.
func (c *Cluster) StartCompanion(p Companion) error {
	if c.ended {
		return fmt.Errorf("start %s: the cluster is stopped or released", p.Name)
	}
	_, err := c.sup.start(command{name: p.Name, rank: rankCompanion, path: p.Path, args: append([]string{p.Path}, p.Args...), env: p.Env})
	return err
}

// StopCompanion stops one companion, as Stop does, and waits until it is gone.
func (c *Cluster) StopCompanion(ctx context.Context, name string) error {
	for _, r := range c.sup.journal.snapshot().Processes {
		if r.Name == name && r.Rank == rankCompanion {
			return stopProcess(ctx, r)
		}
	}
	return fmt.Errorf("stop %s: no such companion of this cluster", name)
}
