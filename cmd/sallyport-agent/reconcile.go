package main

import (
	"context"
	"io"

	"github.com/sallyport/sallyport/agent/reconcile"
)

// runReconcile is where the reconciler agent's rooms meet.
func runReconcile(ctx context.Context, c *config, stderr io.Writer) error {
	log, err := c.logger(stderr)
	if err != nil {
		return err
	}
	kube, err := c.kubernetes()
	if err != nil {
		return err
	}
	control, err := c.control("reconciler", log)
	if err != nil {
		return err
	}
	r, err := reconcile.New(reconcile.Config{Cluster: c.cluster, MandateKey: c.mandateKey, Control: control, Kube: kube, Log: log})
	if err != nil {
		return err
	}
	defer control.Leave(ctx) // nothing is applied any more
	return together(ctx, control.Run, r.Run)
}
