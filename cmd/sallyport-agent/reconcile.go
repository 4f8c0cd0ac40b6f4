package main

import (
	"context"
	"io"

	"github.com/sallyport/sallyport/agent/reconcile"
)

// runReconcile is where the reconciler agent's rooms meet.
func runReconcile(ctx context.Context, c *config, stderr io.Writer) error {
	log, err := c.Logger(stderr)
	if err != nil {
		return err
	}
	kube, err := c.Kubernetes()
	if err != nil {
		return err
	}
	control, err := c.Control("reconciler", log)
	if err != nil {
		return err
	}
	r, err := reconcile.New(reconcile.Config{Cluster: c.Cluster, MandateKey: c.MandateKey, Control: control, Kube: kube, Log: log})
	if err != nil {
		return err
	}
	defer control.Leave(ctx) // nothing is applied any more
	return together(ctx, control.Run, r.Run)
}
