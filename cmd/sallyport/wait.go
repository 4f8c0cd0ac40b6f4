package main

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/jmespath/go-jmespath"
	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/trust"
)

// awaited is what "wait" waits for, as az takes it.
type awaited struct {
	created, updated, deleted, exists bool
	custom                            string
	timeout, interval                 int // seconds
}

func (w *awaited) flags(f *flags) {
	f.flag(&w.created, "created", "", "Wait until created with 'provisioningState' at 'Succeeded'.")
	f.flag(&w.updated, "updated", "", "Wait until updated with provisioningState at 'Succeeded'.")
	f.flag(&w.deleted, "deleted", "", "Wait until deleted.")
	f.flag(&w.exists, "exists", "", "Wait until the resource exists.")
	f.text(&w.custom, "custom", "", "Wait until the condition satisfies a custom JMESPath query, such as provisioningState!='InProgress'.")
	f.IntVar(&w.timeout, "timeout", 3600, "Maximum wait in seconds.")
	f.IntVar(&w.interval, "interval", 30, "Polling interval in seconds.")
}

// until looks at a resource until what is waited for is so.
func (w *awaited) until(ctx context.Context, a *app, id, version string) error {
	if !w.created && !w.updated && !w.deleted && !w.exists && w.custom == "" {
		return usagef("incorrect usage: --created | --updated | --deleted | --exists | --custom JMESPATH")
	}
	if w.timeout < 1 || w.interval < 1 {
		return usagef("argument --timeout, --interval: expected a number of seconds, at least 1")
	}
	if w.custom != "" {
		if _, err := jmespath.Compile(w.custom); err != nil {
			return usagef("argument --custom: invalid jmespath_type value: '%s': %v", w.custom, err)
		}
	}
	c, err := a.session()
	if err != nil {
		return err
	}
	deadline, cancel := context.WithTimeout(ctx, time.Duration(w.timeout)*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Duration(w.interval) * time.Second)
	defer tick.Stop()
	for {
		raw, err := c.Get(deadline, id, version)
		if err != nil && !notFound(err) {
			return err
		}
		if done, err := w.met(raw, err != nil); done || err != nil {
			return err
		}
		a.busy.doing("Waiting for "+id, "")
		select {
		case <-tick.C:
		case <-deadline.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return trust.Errorf(trust.Timeout, "Wait operation timed-out after %d seconds", w.timeout)
		}
	}
}

// met tells whether what is waited for is so; a state that ends otherwise is an
// error.
func (w *awaited) met(raw json.RawMessage, gone bool) (bool, error) {
	if gone || w.deleted {
		return gone && w.deleted, nil
	}
	shown, err := flat(raw)
	if err != nil {
		return false, err
	}
	if w.custom != "" {
		got, err := jmespath.Search(w.custom, shown)
		if err != nil {
			return false, usagef("argument --custom: %v", err)
		}
		return got != nil && got != false && got != "", nil
	}
	if w.exists {
		return true, nil
	}
	m, _ := shown.(map[string]any)
	state, _ := m["provisioningState"].(string)
	switch strings.ToLower(state) {
	case "failed", "canceled":
		return false, trust.Errorf(trust.Unavailable, "The operation failed: provisioningState is %s. See why: show", state)
	case "succeeded":
		return true, nil
	}
	return false, nil
}

func (a *app) extensionWait() *cobra.Command {
	var x extensionOn
	var w awaited
	return a.command(spec{
		use: "wait", short: "Wait until an extension is as it should be.",
		example: "sallyport k8s-extension wait -g myResourceGroup --cluster-name myCluster --cluster-type managedClusters --name azureml --created",
		flags: func(f *flags) {
			x.flags(f)
			w.flags(f)
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := x.id(ctx, a)
			if err != nil {
				return nil, err
			}
			return nil, w.until(ctx, a, id, client.ExtensionsVersion)
		},
	})
}
