package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/kube"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
	"github.com/sallyport/sallyport/deploy"
	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

func (a *app) cluster() *cobra.Command {
	return a.noun("cluster", "Connect clusters, and accept what services ask of them.",
		a.clusterConnect(), a.clusterStatus(), a.clusterAcceptRoles(), a.clusterDisconnect())
}

// owner is the cluster's owner's access to it: always named, never guessed.
type owner struct{ kubeconfig, context string }

func (o *owner) flags(f *flags) {
	f.text(&o.kubeconfig, "kubeconfig", "", "The cluster owner's kubeconfig. Default: what kubectl reads.")
	f.text(&o.context, "kube-context", "", "Context of the kubeconfig. It must be named.")
}

func (o *owner) given() bool { return o.kubeconfig != "" || o.context != "" }

func (o *owner) open(ctx context.Context) (*kube.Cluster, error) {
	c, err := kube.Open(o.kubeconfig, o.context)
	if err != nil {
		return nil, err
	}
	_, err = c.Version(ctx)
	return c, err
}

// consent is which roles the owner accepts, and how.
type consent struct {
	roles, files, namespaces []string
	unfenced, outlives       bool
}

func (c *consent) flags(f *flags) {
	f.many(&c.roles, "roles", "", "Roles to accept, separated by commas or blanks.")
	f.complete("roles", f.a.roleNames)
	f.many(&c.files, "role-file", "", "YAML files of roles that are not built in: they are accepted as written there.")
	f.many(&c.namespaces, "namespace", "", "Accept for these namespaces only. Default: the whole cluster.")
	f.flag(&c.unfenced, "unfenced", "", "Lift the fence for these roles: bindings may then touch kube-system, token Secrets, RBAC and admission.")
	f.flag(&c.outlives, "outlives-revocation", "", "Accept roles that can leave access behind that deleting a binding does not take away.")
}

// wanted are the accepted roles with their rules, from this program's own copy
// or the owner's files: never from a server.
func (c *consent) wanted() ([]rbac.RoleConsent, error) {
	known := trust.Published()
	names := c.roles
	for _, f := range c.files {
		r, err := readRole(f)
		if err != nil {
			return nil, err
		}
		known = append(known, *r)
		if len(c.roles) == 0 {
			names = append(names, string(r.FullName()))
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	list, err := splitRoles(names)
	if err != nil {
		return nil, err
	}
	var namespaces []string
	for _, n := range c.namespaces {
		namespaces = append(namespaces, commas(n)...)
	}
	var out []rbac.RoleConsent
	for _, name := range list {
		i := slices.IndexFunc(known, func(r trust.Role) bool { return r.FullName().Equal(trust.RoleName(name)) })
		if i < 0 {
			e := trust.Errorf(trust.NotFound, "role %s is not built in, so its rules are not known here", name)
			e.Hint = "give them with --role-file FILE: what is accepted is what the owner reads, not what a server says"
			return nil, e
		}
		out = append(out, rbac.RoleConsent{Role: known[i], Consent: rbac.Consent{Namespaces: namespaces, Unfenced: c.unfenced, OutlivesRevocation: c.outlives}})
	}
	return out, nil
}

// explain shows what accepting roles allows.
func (a *app) explain(roles []rbac.RoleConsent, have rbac.Installed, uid trust.ClusterUID) {
	accepted := rbac.Acceptances(uid, have.ClusterRoles)
	for _, r := range roles {
		where := "in the whole cluster"
		if len(r.Consent.Namespaces) > 0 {
			where = "in " + strings.Join(r.Consent.Namespaces, ", ")
		}
		a.say("\nRole %s, %s:", r.Role.FullName(), where)
		i := slices.IndexFunc(accepted, func(old rbac.Acceptance) bool { return old.Role.Equal(r.Role.FullName()) })
		if i >= 0 && accepted[i].Revision != r.Role.Revision() {
			change := rbac.Compare(accepted[i].Rules, r.Role.Rules)
			for _, rule := range change.Added {
				a.say("  + %s", rbac.Describe(rule))
			}
			for _, rule := range change.Removed {
				a.say("  - %s", rbac.Describe(rule))
			}
		} else {
			for _, rule := range r.Role.Rules {
				a.say("  %s", rbac.Describe(rule))
			}
		}
		for _, why := range trust.OutlivesRevocation(r.Role.Rules) {
			a.warn("outlives revocation: %s", why)
		}
	}
	a.say("")
}

// target is az's pair that names a cluster, as all of "cluster" takes it.
type target struct{ group, name string }

func (t *target) flags(f *flags) { clusterName(f, &t.group, &t.name) }

var statusColumns = []output.Column{{Heading: "State", Path: "state"}, {Heading: "Proxy", Path: "agents[?name=='proxy'].connected | [0]"},
	{Heading: "Reconciler", Path: "agents[?name=='reconciler'].connected | [0]"}, {Heading: "Tunnels", Path: "length(tunnels)"},
	{Heading: "Kubernetes", Path: "kubernetesVersion"}, {Heading: "Nodes", Path: "nodes"}, {Heading: "AcceptedRoles", Path: "acceptedRoles[].role"}, {Heading: "Problem", Path: "problem"}}

func (a *app) clusterStatus() *cobra.Command {
	var t target
	return a.command(spec{
		use: "status", short: "Show a cluster's agents, what its owner accepted, and what is left over.",
		example: "sallyport cluster status -g MyResourceGroup -n MyCluster -o table",
		flags:   t.flags, columns: statusColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.clusterID(ctx, t.group, t.name)
			if err != nil {
				return nil, err
			}
			raw, err := a.arm.Get(ctx, client.ConnectionID(id), client.SallyportVersion)
			if err != nil {
				return nil, err
			}
			c, err := a.arm.Connection(ctx, id)
			if err != nil {
				return nil, err
			}
			if p := c.Properties.Problem; p != "" {
				a.warn("nothing is applied in the cluster: %s", p)
			}
			for _, l := range c.Properties.Leftovers {
				a.warn("left over in the cluster: %s. It gives no access through Sallyport, and goes when the agent can remove it.", l)
			}
			for _, r := range c.Properties.RemovedBindings {
				a.warn("deleted here, not yet removed from the cluster: %s", r.ID)
			}
			for _, r := range c.Properties.AcceptedRoles {
				if !r.Current {
					a.warn("role %s is accepted in an older revision. New rules change nothing until they are accepted: sallyport cluster accept-roles -g %s -n %s --roles %s", r.Role, t.group, t.name, r.Role)
				}
			}
			return flat(raw)
		},
	})
}

func (a *app) clusterAcceptRoles() *cobra.Command {
	var t target
	var o owner
	var c consent
	var apply, withdraw, yes bool
	return a.command(spec{
		use: "accept-roles", short: "Accept roles for a cluster, with its owner's own rights.",
		long: `Accept roles for a cluster. Nothing can be bound in a cluster that its owner has not
accepted there; the cluster itself refuses it. What is applied is rendered by this
program and shown with its rules. Without --apply it is printed for kubectl.`,
		example: `
			sallyport cluster accept-roles -g G -n C --roles Microsoft.MachineLearningServices/workspaces/mlworkload --namespace azureml --kube-context CONTEXT --apply
			sallyport cluster accept-roles -g G -n C --role-file reader.yaml --kube-context CONTEXT | kubectl apply -f -`,
		flags: func(f *flags) {
			t.flags(f)
			c.flags(f)
			o.flags(f)
			f.flag(&apply, "apply", "", "Apply it now.")
			f.flag(&withdraw, "withdraw", "", "Withdraw the acceptance instead: what is bound to it ends.")
			f.flag(&yes, "yes", "y", "Do not prompt for confirmation.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			roles, err := c.wanted()
			if err != nil {
				return nil, err
			}
			if len(roles) == 0 {
				return nil, usagef("the following arguments are required: --roles, or --role-file")
			}
			if _, err := a.clusterID(ctx, t.group, t.name); err != nil {
				return nil, err
			}
			k, err := o.open(ctx)
			if err != nil {
				return nil, err
			}
			uid, have, err := a.installed(ctx, k, t)
			if err != nil {
				return nil, err
			}
			plan, err := consentPlan(uid, roles, have, withdraw)
			if err != nil {
				return nil, err
			}
			a.explain(roles, have, uid)
			return nil, a.carryOut(ctx, k, plan, apply, yes, withdraw)
		},
	})
}

func consentPlan(uid trust.ClusterUID, roles []rbac.RoleConsent, have rbac.Installed, withdraw bool) (rbac.Plan, error) {
	if !withdraw {
		return rbac.AcceptAll(uid, roles, have)
	}
	var plan rbac.Plan
	for _, r := range roles {
		// Whatever revision is accepted goes, not only the one known here.
		p, err := rbac.WithdrawAll(uid, r.Role.FullName(), r.Consent.Namespaces, have)
		if err != nil {
			return nil, err
		}
		plan = append(plan, p...)
		have = have.After(p)
	}
	return plan, nil
}

// installed checks that the API server is the one that is registered, and reads
// what it holds.
func (a *app) installed(ctx context.Context, k *kube.Cluster, t target) (trust.ClusterUID, rbac.Installed, error) {
	id, err := a.clusterID(ctx, t.group, t.name)
	if err != nil {
		return "", rbac.Installed{}, err
	}
	c, err := a.arm.Cluster(ctx, id)
	if err != nil {
		return "", rbac.Installed{}, err
	}
	uid := trust.ClusterUID(c.Properties.ResourceUID)
	there, err := k.Registration(ctx)
	if err != nil {
		return "", rbac.Installed{}, err
	}
	if err := sameRegistration(there, uid, k, t); err != nil {
		return "", rbac.Installed{}, err
	}
	if there == "" {
		e := trust.Errorf(trust.Precondition, "the API server %s is not connected", k.Server)
		e.Hint = fmt.Sprintf("sallyport cluster connect -g %s -n %s --kube-context %s --apply", t.group, t.name, k.Context)
		return "", rbac.Installed{}, e
	}
	have, err := k.Installed(ctx, uid)
	return uid, have, err
}

func sameRegistration(there string, uid trust.ClusterUID, k *kube.Cluster, t target) error {
	if there == "" || there == string(uid) {
		return nil
	}
	e := trust.Errorf(trust.Conflict, "the API server %s belongs to registration %s, and cluster %s is registration %s: an API server is registered once", k.Server, there, t.name, uid)
	e.Hint = "check --kube-context; or take the old registration out with 'sallyport cluster disconnect', then:\n  " + strings.Join(deploy.Cleanup(trust.ClusterUID(there)), "\n  ")
	return e
}

// carryOut prints a plan for kubectl, or applies it.
func (a *app) carryOut(ctx context.Context, k *kube.Cluster, plan rbac.Plan, apply, yes, destroys bool) error {
	if !apply {
		var objects []rbac.Explained
		for _, s := range plan {
			if s.Verb == rbac.Delete {
				a.say("kubectl delete %s", rbac.Key(s.Object))
				continue
			}
			objects = append(objects, s.Explained)
		}
		text, err := deploy.YAML("", objects)
		if err != nil {
			return err
		}
		if _, err := a.out.Write(text); err != nil {
			return err
		}
		a.say("Nothing was applied. Add --apply, or pipe this to: kubectl --context %s apply -f -", k.Context)
		return nil
	}
	question := fmt.Sprintf("Apply this to %s (context %s)?", k.Server, k.Context)
	if destroys {
		question = fmt.Sprintf("Withdraw this from %s (context %s)? What is bound to it ends.", k.Server, k.Context)
	}
	if err := a.confirm(yes, question); err != nil {
		return err
	}
	return k.Do(ctx, plan, func(verb, what string) { a.say("  %s %s", verb, what) })
}

func (a *app) clusterDisconnect() *cobra.Command {
	var t target
	var o owner
	var yes bool
	return a.command(spec{
		use: "disconnect", short: "Take the agents out of a cluster.",
		long: `Take the agents out of a cluster: their right to be told anything ends at once. With
--kube-context everything that Sallyport put into the cluster is removed; without,
the kubectl lines that do it are printed. The registration stays: 'aks delete'
removes it, with its bindings.`,
		example: "sallyport cluster disconnect -g MyResourceGroup -n MyCluster --kube-context CONTEXT",
		flags: func(f *flags) {
			t.flags(f)
			o.flags(f)
			f.flag(&yes, "yes", "y", "Do not prompt for confirmation.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.clusterID(ctx, t.group, t.name)
			if err != nil {
				return nil, err
			}
			c, err := a.arm.Cluster(ctx, id)
			if err != nil {
				return nil, err
			}
			uid := trust.ClusterUID(c.Properties.ResourceUID)
			var k *kube.Cluster
			if o.given() {
				if k, err = o.open(ctx); err != nil {
					return nil, err
				}
				there, err := k.Registration(ctx)
				if err != nil {
					return nil, err
				}
				if err := sameRegistration(there, uid, k, t); err != nil {
					return nil, err
				}
			}
			if err := a.confirm(yes, "Every service that is bound to "+t.name+" is disconnected. "+sure); err != nil {
				return nil, err
			}
			if err := a.remove(ctx, "Disconnecting "+t.name, client.ConnectionID(id), client.SallyportVersion, false); err != nil {
				return nil, err
			}
			if k == nil {
				a.say("The agents are told nothing any more. To remove what is in the cluster, its owner types:")
				for _, line := range deploy.Cleanup(uid) {
					fmt.Fprintln(a.out, line)
				}
				return nil, nil
			}
			return nil, k.Remove(ctx, uid, func(verb, what string) { a.say("  %s %s", verb, what) })
		},
	})
}
