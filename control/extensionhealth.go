package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/store"
)

// The installer does not run while there is nothing to do, and nobody else in the
// cluster may look at what it installed. So that a state does not outlive what it
// speaks of, control has the installer look again from time to time.

const (
	// lookEvery is how old the installer's word on an extension gets before it is
	// asked to look again. The reconciler's reports, at the latest every 5
	// minutes, are when it is asked.
	lookEvery = 10 * time.Minute
	// lookBound is how long that may take; then nobody knows.
	lookBound = 5 * time.Minute
)

const codeNotSeen = "ExtensionNotSeen"

// unfollowed tells whether the installer has something to do for an extension.
func unfollowed(x *store.Extension) bool {
	return x.Generation > x.Installed.Generation || x.Asked.After(x.Installed.Time)
}

// lookAgain asks the installer to look at what it has not spoken of for long, and
// fails what it was asked about and does not answer for. there is what the
// reconciler knows of it.
func (c *Control) lookAgain(ctx context.Context, a *agent, there *mandate.Installer) error {
	all, _, err := store.List[store.Extension](ctx, c.Store, a.clusterID+"/")
	if err != nil {
		return err
	}
	for _, item := range all {
		x, now := item.Value, c.Now().UTC()
		ops := []store.Op{}
		switch {
		case !x.Installed.Present || x.Deleting || x.Generation > x.Installed.Generation:
			continue // nothing is there to be looked at, or the installer comes anyway
		case x.Asked.After(x.Installed.Time):
			if now.Sub(x.Asked) < lookBound || x.State != arm.Succeeded {
				continue
			}
			x.State, x.Problem = arm.Failed, notSeen(&x, there)
		case now.Sub(x.Installed.Time) < lookEvery:
			continue
		default:
			x.Asked = now
			ops = append(ops, store.Put(store.Mandate{Cluster: x.ClusterUID, ClusterID: x.ClusterID}))
		}
		// Whoever changed it in between has the installer come, or the next report does.
		if _, err := c.Store.Commit(ctx, append(ops, store.Update(x, item.Revision))...); err != nil && !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return nil
}

// notSeen is what is wrong with an extension that nobody could look at.
func notSeen(x *store.Extension, there *mandate.Installer) *store.Failure {
	why := "its pod has not come up"
	switch {
	case there == nil:
		why = "there is no installer in the cluster any more"
	case there.Problem != "":
		why = "it cannot be started: " + there.Problem
	}
	return &store.Failure{Code: codeNotSeen, Message: fmt.Sprintf("Nobody knows whether it runs: it was last looked at %s. The cluster's installer was asked to %s, and has not: %s.", since(x.Installed.Time), since(x.Asked), cut(why, 1000))}
}

// notLooked warns of a state that is older than it should be: the cluster's
// reconciler, which has the installer come, is out of touch.
func (c *Control) notLooked(x *store.Extension) []store.ExtensionStatus {
	now := c.Now()
	if !x.Installed.Present || now.Sub(x.Installed.Time) < 2*lookEvery+lookBound {
		return nil
	}
	return []store.ExtensionStatus{{Code: codeNotSeen, Level: "Warning", Time: now.UTC(),
		Message: fmt.Sprintf("What is said here was last looked at %s, so it may not be so any more.", since(x.Installed.Time))}}
}
