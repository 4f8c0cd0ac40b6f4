package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/kube"
	"github.com/sallyport/sallyport/deploy"
	"github.com/sallyport/sallyport/netenv/probe"
	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

// connect is what the arguments of "cluster connect" say.
type connect struct {
	target
	owner
	consent
	location, image                  string
	gateways                         []string
	httpsProxy, noProxy, trustBundle string
	bundle, answer, chart            string
	issuer, keysFile                 string
	probes, environment              []string
	apply, yes, noWait, noAgents     bool
	timeout                          time.Duration
}

func (a *app) clusterConnect() *cobra.Command {
	c := connect{}
	return a.command(spec{
		use: "connect [BUNDLE]", short: "Connect an existing cluster: register it, and put the agents into it.",
		long: `Connect an existing cluster: register it, and put two agents into it that dial out.
The cluster needs no inbound port. What is applied is one readable manifest that
this program renders: the agents with their few rights, the admission policies that
hold them to those, and the roles that you accept with --roles.

Without --apply the manifest is printed. Where this machine cannot reach the API
server, in three steps:
  1. here:   sallyport cluster connect -g G -n C --bundle c.yaml
  2. inside: sallyport cluster connect --apply c.yaml --kube-context CONTEXT
  3. here:   sallyport cluster connect -g G -n C --answer c.yaml.answer
The answer of step 2 is the cluster's public keys, by which its agents are known.`,
		example: `
			sallyport cluster connect -g MyResourceGroup -n MyCluster -l westeurope --kubeconfig owner.kubeconfig --kube-context CONTEXT --apply
			sallyport cluster connect -g G -n C --kube-context CONTEXT --roles Microsoft.MachineLearningServices/workspaces/mlworkload --namespace azureml --apply`,
		positional: 1,
		flags: func(f *flags) {
			f.text(&c.group, "resource-group", "g", "Name of resource group.")
			f.complete("resource-group", a.groupNames)
			f.text(&c.name, "name", "n", "Name of the managed cluster.")
			f.text(&c.location, "location", "l", "Location, when the cluster is not registered yet. Default: the resource group's.")
			c.owner.flags(f)
			f.flag(&c.apply, "apply", "", "Apply it now. With BUNDLE: apply that, without calling the server.")
			c.consent.flags(f)
			f.text(&c.image, "image", "", "Image of the agents; see 'sallyport image'. Default: "+defaultImage()+".")
			f.flag(&c.noAgents, "no-agents", "", "Leave the two Deployments out: the agents run elsewhere, see docs/connect.md.")
			f.many(&c.gateways, "gateways", "", "host:port of the gateways. Default: where the server says that they are.")
			f.text(&c.httpsProxy, "https-proxy", "", "CONNECT proxy that the agents dial through.")
			f.text(&c.noProxy, "no-proxy", "", "Hosts that the agents reach without it, comma-separated.")
			f.text(&c.trustBundle, "trust-bundle", "", "PEM file that replaces the system's roots in the agents.")
			f.many(&c.probes, "allow-probes", "", "Names, or name:port, that the proxy agent may resolve and connect to now and then, and report on. It looks at nothing else. See 'sallyport env names'.")
			f.many(&c.environment, "check-environment", "", "Folders or files of facts (see 'sallyport env collect'): check them first, and connect only if nothing fails.")
			f.text(&c.bundle, "bundle", "", "Write the manifest into this file, for a machine that reaches the API server.")
			f.text(&c.chart, "chart", "", "Write a Helm chart of the agents into this folder instead, filled in for this cluster.")
			f.text(&c.answer, "answer", "", "The file that 'connect --apply BUNDLE' wrote.")
			f.text(&c.issuer, "service-account-issuer", "", "Issuer of the cluster's ServiceAccount tokens, instead of asking the cluster.")
			f.text(&c.keysFile, "service-account-keys-file", "", "Its JSON Web Key set: kubectl get --raw /openid/v1/jwks.")
			f.flag(&c.noWait, "no-wait", "", "Do not wait until the agents have connected.")
			f.DurationVar(&c.timeout, "timeout", 5*time.Minute, "How long to wait for the agents.")
			f.flag(&c.yes, "yes", "y", "Do not prompt for confirmation.")
		},
		columns: statusColumns,
		run: func(ctx context.Context, args []string) (any, error) {
			if len(args) == 1 {
				if !c.apply {
					return nil, usagef("a BUNDLE is applied: sallyport cluster connect --apply %s", args[0])
				}
				return nil, a.applyBundle(ctx, &c, args[0])
			}
			if c.group == "" || c.name == "" {
				return nil, usagef("the following arguments are required: --resource-group/-g, --name/-n")
			}
			if c.chart != "" && (c.apply || c.bundle != "") {
				return nil, usagef("--chart writes a chart, for Helm to apply: leave --apply and --bundle out")
			}
			if (c.issuer == "") != (c.keysFile == "") {
				return nil, usagef("--service-account-issuer and --service-account-keys-file go together")
			}
			return a.connect(ctx, &c)
		},
	})
}

func defaultImage() string { return "ghcr.io/sallyport/sallyport-agent:" + version }

func (a *app) connect(ctx context.Context, c *connect) (any, error) {
	roles, err := c.wanted()
	if err != nil {
		return nil, err
	}
	if err := c.readProbes(); err != nil {
		return nil, err
	}
	id, err := a.clusterID(ctx, c.group, c.name)
	if err != nil {
		return nil, err
	}
	if c.answer != "" {
		return a.connectAnswer(ctx, c, id)
	}
	if len(c.environment) > 0 {
		if err := a.checkBefore(ctx, c.environment, []string{c.group}, unbound()); err != nil {
			return nil, err
		}
	}
	var k *kube.Cluster
	there := ""
	if c.owner.given() || c.apply {
		if k, err = c.owner.open(ctx); err != nil {
			return nil, err
		}
		if there, err = k.Registration(ctx); err != nil {
			return nil, err
		}
	}
	cluster, err := a.register(ctx, c, id, there, k)
	if err != nil {
		return nil, err
	}
	uid := trust.ClusterUID(cluster.Properties.ResourceUID)
	connection, err := a.handOver(ctx, c, id, k)
	if err != nil {
		return nil, err
	}
	var have rbac.Installed
	if k != nil {
		if have, err = k.Installed(ctx, uid); err != nil {
			return nil, err
		}
	}
	o, err := c.options(connection, roles, have)
	if err != nil {
		return nil, err
	}
	if c.chart != "" {
		return nil, a.writeChart(c, o)
	}
	objects, err := deploy.Connect(o)
	if err != nil {
		return nil, err
	}
	a.explain(roles, have, uid)
	if c.apply {
		return a.applyConnection(ctx, c, k, id, objects)
	}
	return nil, a.printConnection(c, k, objects)
}

// readProbes writes the owner's list out, each with its port.
func (c *connect) readProbes() error {
	var list []string
	for _, p := range c.probes {
		list = append(list, commas(p)...)
	}
	targets, err := probe.ParseTargets(list)
	if err != nil {
		return usageError{fmt.Errorf("--allow-probes: %w", err)}
	}
	c.probes = nil
	for _, t := range targets {
		c.probes = append(c.probes, t.String())
	}
	return nil
}

// register makes sure that the cluster is registered, and that the API server is
// no other registration's.
func (a *app) register(ctx context.Context, c *connect, id, there string, k *kube.Cluster) (*client.Cluster, error) {
	cluster, err := a.arm.Cluster(ctx, id)
	if err == nil {
		return cluster, sameRegistration(there, trust.ClusterUID(cluster.Properties.ResourceUID), k, c.target)
	}
	if !notFound(err) {
		return nil, err
	}
	if err := sameRegistration(there, "new", k, c.target); err != nil {
		return nil, err
	}
	location, err := a.locationOr(ctx, c.location, c.group)
	if err != nil {
		return nil, err
	}
	raw, err := a.begin(ctx, "Registering cluster "+c.name, client.Request{Method: http.MethodPut, Path: id, Version: client.ContainerServiceVersion, Body: client.Cluster{Location: location}, Header: ifNone()})
	if unmet(err) { // somebody else has registered it
		if cluster, err = a.arm.Cluster(ctx, id); err == nil {
			err = sameRegistration(there, trust.ClusterUID(cluster.Properties.ResourceUID), k, c.target)
		}
		return cluster, err
	}
	if err != nil {
		return nil, err
	}
	cluster = &client.Cluster{}
	if err := json.Unmarshal(raw, cluster); err != nil {
		return nil, trust.Errorf(trust.Internal, "the server's answer cannot be read").Because(err)
	}
	return cluster, nil
}

// handOver gives the server the cluster's keys, from wherever they are had; with
// a bundle that comes later.
func (a *app) handOver(ctx context.Context, c *connect, id string, k *kube.Cluster) (*client.Connection, error) {
	var keys json.RawMessage
	issuer := c.issuer
	switch {
	case issuer != "":
		text, err := a.fromFile("--service-account-keys-file", at(c.keysFile))
		if err != nil {
			return nil, err
		}
		keys = json.RawMessage(text)
	case k != nil:
		var err error
		if issuer, keys, err = k.Issuer(ctx); err != nil {
			return nil, err
		}
	default:
		return a.arm.Connection(ctx, id)
	}
	return a.arm.PutConnection(ctx, id, issuer, keys)
}

// options are what is rendered for the cluster.
func (c *connect) options(connection *client.Connection, roles []rbac.RoleConsent, have rbac.Installed) (deploy.Options, error) {
	p := connection.Properties
	o := deploy.Options{Cluster: trust.ClusterUID(p.ClusterUID), Server: p.Server, ServerCA: []byte(p.ServerCA), MandateKey: []byte(p.MandateKey),
		Image: c.image, Accept: roles, Have: have, HTTPSProxy: c.httpsProxy, NoProxy: c.noProxy, NoAgents: c.noAgents, Probes: c.probes}
	if o.Image == "" {
		o.Image = defaultImage()
	}
	for _, g := range c.gateways {
		o.Gateways = append(o.Gateways, commas(g)...)
	}
	if len(o.Gateways) == 0 {
		o.Gateways = gatewaysApart(p.Server, p.GatewayURL)
	}
	if c.trustBundle != "" {
		data, err := os.ReadFile(c.trustBundle)
		if err != nil {
			return o, trust.Errorf(trust.Invalid, "the trust bundle %s cannot be read", c.trustBundle).Because(err)
		}
		o.TrustBundle = data
	}
	return o, nil
}

// gatewaysApart is where the tunnel is dialled when gateways have an address of
// their own; nil when it is the server's.
func gatewaysApart(server, gateway string) []string {
	s, err1 := url.Parse(server)
	g, err2 := url.Parse(gateway)
	if err1 != nil || err2 != nil || g.Host == "" || s.Host == g.Host {
		return nil
	}
	port := g.Port()
	if port == "" {
		port = "443"
	}
	return []string{net.JoinHostPort(g.Hostname(), port)}
}

func (a *app) applyConnection(ctx context.Context, c *connect, k *kube.Cluster, id string, objects []rbac.Explained) (any, error) {
	a.say("%d objects for %s (context %s):", len(objects), k.Server, k.Context)
	plan := rbac.Plan{}
	for _, o := range objects {
		a.say("  %s", rbac.Key(o.Object))
		plan = append(plan, rbac.Step{Verb: rbac.Apply, Explained: o})
	}
	if err := a.confirm(c.yes, "Apply them?"); err != nil {
		return nil, err
	}
	a.busy.doing("Applying", "")
	if err := k.Do(ctx, plan, func(_, what string) { a.busy.doing("Applying "+what, "") }); err != nil {
		return nil, err
	}
	if !c.noWait {
		if err := a.untilConnected(ctx, id, c.timeout); err != nil {
			return nil, err
		}
	}
	return a.get(ctx, client.ConnectionID(id), client.SallyportVersion)
}

// untilConnected waits for both agents.
func (a *app) untilConnected(ctx context.Context, id string, timeout time.Duration) error {
	const what = "Waiting for the agents"
	a.busy.doing(what, "")
	late := time.NewTimer(timeout)
	defer late.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		c, err := a.arm.Connection(ctx, id)
		if err != nil {
			return err
		}
		if c.Properties.State == "Connected" && len(c.Properties.Tunnels) > 0 {
			return nil
		}
		var away []string
		for _, agent := range c.Properties.Agents {
			if !agent.Connected {
				away = append(away, agent.Name)
			}
		}
		reason := "the proxy agent has no tunnel yet"
		if len(away) > 0 {
			reason = "not connected yet: " + strings.Join(away, ", ") + ". Look with: kubectl -n " + rbac.SystemNamespace + " get pods"
		}
		if p := c.Properties.Problem; p != "" {
			reason = p
		}
		a.busy.doing(what, reason)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			e := trust.Errorf(trust.Timeout, "the agents have not connected within %s: %s", timeout, reason)
			e.Hint = "what was applied stays, and the agents go on trying; 'sallyport cluster status' shows them"
			return e
		case <-tick.C:
		}
	}
}

// printConnection writes the manifest to stdout, or as a bundle.
func (a *app) printConnection(c *connect, k *kube.Cluster, objects []rbac.Explained) error {
	header := fmt.Sprintf("Connects cluster %s of resource group %s to Sallyport. Rendered by sallyport %s; read it before you apply it.", c.name, c.group, version)
	text, err := deploy.YAML(header, objects)
	if err != nil {
		return err
	}
	known := k != nil || c.issuer != ""
	if c.bundle == "" {
		if _, err := a.out.Write(text); err != nil {
			return err
		}
		a.say("Nothing was applied. Add --apply, or pipe this to: kubectl --context CONTEXT apply -f -")
		if !known {
			a.warn("the server does not know the cluster's keys yet, so its agents cannot enrol. Name the owner's --kube-context, or give --service-account-issuer and --service-account-keys-file.")
		}
		return nil
	}
	if err := replaceFile(c.bundle, text); err != nil {
		return err
	}
	a.say("Wrote %s. Next, where the API server is reached: sallyport cluster connect --apply %s --kube-context CONTEXT", c.bundle, c.bundle)
	return nil
}

// answerFile is what a cluster says of itself: all public.
type answerFile struct {
	ClusterUID string          `json:"clusterUid"`
	Issuer     string          `json:"serviceAccountIssuer"`
	Keys       json.RawMessage `json:"serviceAccountKeys"`
}

// applyBundle applies a bundle where the server is not reached.
func (a *app) applyBundle(ctx context.Context, c *connect, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return trust.Errorf(trust.Invalid, "the bundle %s cannot be read", path).Because(err)
	}
	objects, err := kube.Parse(data)
	if err != nil {
		return err
	}
	uid := ""
	for _, o := range objects {
		label := o.GetLabels()[rbac.ClusterLabel]
		if label == "" || uid != "" && label != uid {
			return trust.Errorf(trust.Invalid, "%s is not a bundle of 'sallyport cluster connect': %s belongs to no or another registration", path, kube.Name(o))
		}
		uid = label
	}
	if uid == "" {
		return trust.Errorf(trust.Invalid, "the bundle %s is empty", path)
	}
	k, err := c.owner.open(ctx)
	if err != nil {
		return err
	}
	there, err := k.Registration(ctx)
	if err != nil {
		return err
	}
	if err := sameRegistration(there, trust.ClusterUID(uid), k, target{name: "of the bundle"}); err != nil {
		return err
	}
	have, err := k.Installed(ctx, trust.ClusterUID(uid))
	if err != nil {
		return err
	}
	var kept []string
	for i, o := range objects {
		merged, more, err := kube.Keep(have, trust.ClusterUID(uid), o)
		if err != nil {
			return err
		}
		objects[i], kept = merged, append(kept, more...)
	}
	a.say("%d objects for %s (context %s):", len(objects), k.Server, k.Context)
	for _, o := range objects {
		a.say("  %s", kube.Name(o))
	}
	for _, what := range kept {
		a.say("Kept, though the bundle does not name it: %s. 'sallyport cluster accept-roles --withdraw' takes consent away.", what)
	}
	if err := a.confirm(c.yes, "You have read "+path+". Apply it?"); err != nil {
		return err
	}
	for _, o := range objects {
		a.busy.doing("Applying "+kube.Name(o), "")
		if err := k.Apply(ctx, o); err != nil {
			return err
		}
	}
	issuer, keys, err := k.Issuer(ctx)
	if err != nil {
		return err
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, keys); err != nil {
		return trust.Errorf(trust.Invalid, "the cluster's keys cannot be read").Because(err)
	}
	out, err := json.Marshal(answerFile{uid, issuer, compact.Bytes()})
	if err != nil {
		return err
	}
	if err := replaceFile(path+".answer", append(out, '\n')); err != nil {
		return err
	}
	a.say("Applied. The cluster's public keys are in %s.answer. Next, where the server is reached: sallyport cluster connect -g G -n NAME --answer %s.answer", path, path)
	return nil
}

// connectAnswer hands the keys over that a bundle's application wrote down.
func (a *app) connectAnswer(ctx context.Context, c *connect, id string) (any, error) {
	text, err := a.fromFile("--answer", at(c.answer))
	if err != nil {
		return nil, err
	}
	var answer answerFile
	if err := json.Unmarshal([]byte(text), &answer); err != nil || answer.Issuer == "" {
		return nil, trust.Errorf(trust.Invalid, "%s is not what 'connect --apply BUNDLE' writes", c.answer)
	}
	cluster, err := a.arm.Cluster(ctx, id)
	if err != nil {
		return nil, err
	}
	if cluster.Properties.ResourceUID != answer.ClusterUID {
		return nil, trust.Errorf(trust.Conflict, "%s was written for registration %s, cluster %s is registration %s", c.answer, answer.ClusterUID, c.name, cluster.Properties.ResourceUID)
	}
	if _, err := a.arm.PutConnection(ctx, id, answer.Issuer, answer.Keys); err != nil {
		return nil, err
	}
	if !c.noWait {
		if err := a.untilConnected(ctx, id, c.timeout); err != nil {
			return nil, err
		}
	}
	return a.get(ctx, client.ConnectionID(id), client.SallyportVersion)
}
