package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/netenv"
	"github.com/sallyport/sallyport/trust"
)

// shown is one list of the server, as a file of facts.
type shown struct {
	netenv.Export
	data []byte
}

const (
	workspaceType = "Microsoft.MachineLearningServices/workspaces"
	computeType   = workspaceType + "/computes"
	clusterType   = "Microsoft.ContainerService/managedClusters"
	bindingType   = clusterType + "/trustedAccessRoleBindings"
	roleType      = "Microsoft.ContainerService/locations/trustedAccessRoles"
)

// serverScope is how much of the context's server is read: nothing unless on, the
// whole subscription unless groups are named.
type serverScope struct {
	on     bool
	groups []string
}

func (s *serverScope) flags(f *pflag.FlagSet, what string) {
	f.BoolVar(&s.on, "from-server", false, what)
	f.StringSliceVarP(&s.groups, "resource-group", "g", nil, "With --from-server: only these resource groups. Default: the whole subscription.")
}

// serverFacts are what the server of the context knows: clusters with their
// bindings, roles and live probes, and the workspaces. Of a cluster it knows what
// matters to access, so its picture is partial.
func (a *app) serverFacts(ctx context.Context, groups []string) ([]shown, error) {
	sub, err := a.subscription(ctx)
	if err != nil {
		return nil, err
	}
	scopes := []string{"/subscriptions/" + sub}
	if len(groups) > 0 {
		scopes = nil
		for _, g := range groups {
			id := g
			if !strings.HasPrefix(g, "/") {
				if id, err = a.groupID(ctx, g); err != nil {
					return nil, err
				}
			}
			if !slices.ContainsFunc(scopes, func(s string) bool { return strings.EqualFold(s, id) }) {
				scopes = append(scopes, id)
			}
		}
	}
	f := &factsOf{app: a, ctx: ctx, files: map[string]int{}}
	regions := map[string]bool{}
	for _, scope := range scopes {
		clusters, err := f.list("clusters", clusterType, scope+"/providers/"+clusterType, client.ContainerServiceVersion, scope, true)
		if err != nil {
			return nil, err
		}
		for _, c := range clusters {
			if err := f.cluster(c, regions); err != nil {
				return nil, err
			}
		}
		workspaces, err := f.optional("workspaces", workspaceType, scope+"/providers/"+workspaceType, scope)
		if err != nil {
			return nil, err
		}
		for _, w := range workspaces {
			if _, err := f.optional("computes", computeType, w.ID+"/computes", w.ID); err != nil {
				return nil, err
			}
		}
	}
	return f.out, nil
}

// cluster reads what lies under a cluster, and its region's roles once.
func (f *factsOf) cluster(c identified, regions map[string]bool) error {
	if _, err := f.list("bindings", bindingType, client.BindingsPath(c.ID), client.ContainerServiceVersion, c.ID, false); err != nil {
		return err
	}
	id, err := arm.ParseID(c.ID)
	if err != nil {
		return fmt.Errorf("read clusters: %w", err)
	}
	if at := id.SubscriptionID().String() + " " + c.Location; c.Location != "" && !regions[at] {
		regions[at] = true
		scope := id.SubscriptionID().String() + "/providers/Microsoft.ContainerService/locations/" + c.Location
		if _, err := f.list("roles", roleType, client.RolesPath(id.Subscription, c.Location), client.ContainerServiceVersion, scope, false); err != nil {
			return err
		}
	}
	connection, err := f.arm.Connection(f.ctx, c.ID)
	if err != nil && !notFound(err) {
		return err
	}
	if err == nil && len(connection.Properties.Probe) > 0 {
		f.out = append(f.out, shown{netenv.Export{File: f.file("probe"), Time: f.now()}, connection.Properties.Probe})
	}
	return nil
}

// factsOf gathers lists.
type factsOf struct {
	*app
	ctx   context.Context
	out   []shown
	files map[string]int // by kind
}

// file names the next file of a kind.
func (f *factsOf) file(kind string) string {
	f.files[kind]++
	return fmt.Sprintf("sallyport-%s-%d.json", kind, f.files[kind])
}

type identified struct{ ID, Location string }

func (f *factsOf) now() time.Time { return time.Now().UTC().Truncate(time.Second) }

// list reads a whole list and keeps it, with what it proves.
func (f *factsOf) list(kind, typ, path, version, scope string, partial bool) ([]identified, error) {
	rows, err := f.arm.List(f.ctx, path, version)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(map[string]any{"value": rows})
	if err != nil {
		return nil, fmt.Errorf("keep %s: %w", path, err)
	}
	n := len(rows)
	f.out = append(f.out, shown{netenv.Export{File: f.file(kind), Type: typ, Scope: scope, Time: f.now(), Rows: &n, Command: "sallyport rest --method get --url " + path, Partial: partial}, data})
	found := make([]identified, n)
	for i, r := range rows {
		if err := json.Unmarshal(r, &found[i]); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
	}
	return found, nil
}

// optional reads a list that this server may not have: as of the ML service, or
// of a registered type of sources.
func (f *factsOf) optional(kind, typ, path, scope string) ([]identified, error) {
	for _, version := range []string{"2024-10-01", client.SallyportVersion} {
		found, err := f.list(kind, typ, path, version, scope, true)
		if err == nil {
			return found, nil
		}
		if k := trust.KindOf(err); k != trust.NotFound && k != trust.Invalid && k != trust.Unsupported {
			return nil, err
		}
	}
	return nil, nil
}

// writeFacts puts lists into a folder and notes them in its manifest, beside
// what other commands brought.
func writeFacts(folder string, facts []shown) error {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("collect: %w", err)
	}
	path := filepath.Join(folder, netenv.ManifestFile)
	m := netenv.Manifest{Kind: netenv.ManifestKind, Time: time.Now().UTC().Truncate(time.Second)}
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("collect: %w", err)
	default:
		m = netenv.Manifest{}
		if err := json.Unmarshal(data, &m); err != nil || m.Kind != netenv.ManifestKind {
			return trust.Errorf(trust.Invalid, "%s is no manifest of 'env collect'; give another --folder", path)
		}
	}
	m.Files = slices.DeleteFunc(m.Files, func(e netenv.Export) bool { return strings.HasPrefix(e.File, "sallyport-") })
	for _, s := range facts {
		if err := replaceFile(filepath.Join(folder, s.File), s.data); err != nil {
			return err
		}
		m.Files = append(m.Files, s.Export)
	}
	slices.SortStableFunc(m.Files, func(a, b netenv.Export) int { return cmp.Compare(a.File, b.File) })
	if data, err = json.MarshalIndent(m, "", "  "); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	return replaceFile(path, append(data, '\n'))
}

// unbound are the rules that only a binding answers, skipped where there can be
// none yet.
func unbound() []netenv.Skip {
	var later []netenv.Skip
	for _, r := range netenv.Rules() {
		if strings.HasPrefix(r.Code, "TA-") || slices.Contains([]string{"AK-02", "AK-03", "AK-04", "AK-12"}, r.Code) {
			later = append(later, netenv.Skip{Code: r.Code, Reason: "a binding comes after connecting"})
		}
	}
	return later
}

// checkBefore judges the environment of resource groups before something is done
// to it.
func (a *app) checkBefore(ctx context.Context, paths, groups []string, skips []netenv.Skip) error {
	g, err := a.facts(ctx, paths, serverScope{on: true, groups: groups})
	if err != nil {
		return err
	}
	r := netenv.Check(g, netenv.Options{Now: time.Now(), Skips: skips})
	if err := r.Write(a.err, "table"); err != nil {
		return err
	}
	if !r.Proven(true) {
		e := trust.Errorf(trust.Invalid, "the environment fails its check; nothing was done")
		e.Hint = "mend it, or leave --check-environment out"
		return e
	}
	return nil
}
