package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/sallyport/sallyport/internal/agentflags"
	"github.com/sallyport/sallyport/netenv/probe"
)

// config is what the command line says.
type config struct {
	agentflags.Common
	gateways []string // host:port of the gateways; default: the control plane's
	tunnels  int
	probes   []probe.Target // what the owner allows this agent to look at; none by default
}

func parseFlags(agent string, args []string, stderr io.Writer) (*config, error) {
	var c config
	var gateways, probes string
	f := flag.NewFlagSet("sallyport-agent "+agent, flag.ContinueOnError)
	f.SetOutput(stderr)
	c.Register(f)
	if agent == "proxy" {
		f.StringVar(&gateways, "gateways", "", "`host:port,…` of the gateways; default: the control plane's")
		f.IntVar(&c.tunnels, "tunnels", 2, "connections to hold, 1 to 4")
		f.StringVar(&probes, "probes", "", "`name[:port],…` to resolve and connect to now and then, and to report on; nothing else is ever looked at; default: nothing")
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	err := c.complete(f.Args(), gateways)
	if err == nil && probes != "" {
		c.probes, err = probe.ParseTargets(strings.Split(probes, ","))
	}
	if err != nil {
		fmt.Fprintf(stderr, "sallyport-agent %s: %v\n", agent, err)
	}
	return &c, err
}

func (c *config) complete(rest []string, gateways string) error {
	if err := c.Complete(rest); err != nil {
		return err
	}
	if c.tunnels < 0 || c.tunnels > 4 {
		return fmt.Errorf("--tunnels %d is not between 1 and 4", c.tunnels)
	}
	host := c.Server.Host
	if c.Server.Port() == "" {
		host = net.JoinHostPort(c.Server.Hostname(), "443")
	}
	c.gateways = []string{host}
	if gateways != "" {
		c.gateways = strings.Split(gateways, ",")
	}
	for _, g := range c.gateways {
		if _, _, err := net.SplitHostPort(g); err != nil {
			return fmt.Errorf("--gateways: %q is not host:port", g)
		}
	}
	return nil
}
