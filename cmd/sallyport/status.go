package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
)

func (a *app) statusCommand() *cobra.Command {
	return a.command(spec{
		use: "status", short: "Show the server's health, and what somebody should look after.",
		long: `Show the server's health: its processes and whether its roles run apart, gateways,
tunnels and connected clusters, the store, what ends when, and what somebody should
look after, each with what to do next. It needs Reader on everything (scope /).
Without -o it is text for people.`,
		example: `
			sallyport status
			sallyport status -o json --query "warnings[].code"`,
		columns: []output.Column{{Heading: "Version", Path: "version"}, {Heading: "RolesApart", Path: "rolesApart"}, {Heading: "Servers", Path: "length(servers)"},
			{Heading: "Gateways", Path: "gateways"}, {Heading: "Tunnels", Path: "tunnels"}, {Heading: "Connected", Path: "clusters.connected"},
			{Heading: "Clusters", Path: "clusters.total"}, {Heading: "Warnings", Path: "length(warnings)"}},
		run: func(ctx context.Context, _ []string) (any, error) {
			c, err := a.session()
			if err != nil {
				return nil, err
			}
			raw, err := c.Get(ctx, client.StatusPath, client.SallyportVersion)
			if err != nil {
				return nil, err
			}
			return flat(raw)
		},
		text: writeStatus,
	})
}

// writeStatus is the health as a person reads it.
func writeStatus(w io.Writer, result any) error {
	var s client.ServerStatus
	raw, err := json.Marshal(result)
	if err != nil {
		return fmt.Errorf("read status: %w", err)
	}
	if err := json.Unmarshal(raw, &s.Properties); err != nil {
		return fmt.Errorf("read status: %w", err)
	}
	p := &s.Properties
	out := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	line := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	apart := "all its roles run apart"
	if !p.RolesApart {
		apart = "some of its roles share a process"
	}
	line("Sallyport %s at %s, %s", p.Version, p.URL, apart)
	line("")
	line("Servers\t%d", len(p.Servers))
	for _, v := range p.Servers {
		state := "ready"
		if !v.Ready {
			state = "NOT READY: " + strings.Join(v.Problems, "; ")
		}
		if v.Audit == "Taken" {
			state += ", audit records are taken"
		}
		line("  %s\t%s, %s, since %s, %s", v.Host, strings.Join(v.Roles, "+"), v.Version, day(v.Started), state)
	}
	line("Gateways\t%d, with %s", p.Gateways, plural(p.Tunnels, "tunnel"))
	line("Clusters\t%d, of which %d connected", p.Clusters.Total, p.Clusters.Connected)
	line("Store\t%s", usage(p.Store))
	for _, k := range p.SigningKeys {
		line("Signing key\t%s, %s, signs until %s", k.KeyID, strings.ToLower(k.State), day(k.Until))
	}
	hosts := map[string]string{}
	for _, v := range p.Servers {
		hosts[v.Replica] = " (" + v.Host + ")"
	}
	for _, c := range p.Certificates {
		renewed := ""
		if c.Renewed {
			renewed = ", renewed by itself"
		}
		line("Certificate\t%s%s, ends %s%s", c.Name, hosts[c.Server], day(c.Expires), renewed)
	}
	line("")
	if len(p.Warnings) == 0 {
		line("Nothing needs looking after.")
		return out.Flush()
	}
	line("To look after:")
	for _, v := range p.Warnings {
		line("- %s", v.Message)
		if v.Next != "" {
			line("  Next: %s", v.Next)
		}
	}
	return out.Flush()
}

// day is a time to the minute.
func day(t string) string {
	if len(t) < 16 {
		return t
	}
	return t[:10] + " " + t[11:16] + "Z"
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func usage(s client.StoreUsage) string {
	text := s.Kind + " etcd"
	if !s.Known {
		return text + "; its size is etcd's to tell: etcdctl endpoint status"
	}
	text += fmt.Sprintf(", %d MiB", s.SizeBytes>>20)
	if s.QuotaBytes > 0 {
		text += fmt.Sprintf(" of %d MiB", s.QuotaBytes>>20)
	}
	return text
}
