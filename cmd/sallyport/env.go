package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/netenv"
)

// envNoun is the checker of the secure environment. It needs no server and no
// sign-in, unless asked to read one.
func (a *app) envNoun() *cobra.Command {
	return a.noun("env", "Check, explain and draw the secure network environment around AzureML on AKS.",
		a.envCheck(), a.envExplain(), a.envDraw(), a.envFix(), a.envCollect(), a.envNames(), a.envSize(), a.envPlan())
}

// envOptions are the flags that checks share.
type envOptions struct {
	profile, deployer, skips, baseline string
	server                             serverScope
}

func (o *envOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.profile, "profile", "", "public, public-workspace or private. Default: detected.")
	f.StringVar(&o.deployer, "deployer", "", "Object id of who makes the resources (rule RB-02).")
	f.StringVar(&o.skips, "skips", "", "YAML file of skips: code, resource, reason, until.")
	f.StringVar(&o.baseline, "baseline", "", "JSON report of before: what failed there is not reported again.")
	o.server.flags(f, "Read the clusters, bindings, workspaces and live probes of the context's server, too.")
}

// check reads the paths and judges them.
func (o *envOptions) check(ctx context.Context, a *app, paths []string) (*netenv.Report, error) {
	opts := netenv.Options{Deployer: o.deployer, Now: time.Now()}
	var err error
	if o.profile != "" {
		if opts.Profile, err = netenv.ParseProfile(o.profile); err != nil {
			return nil, usageError{err}
		}
	}
	if o.skips != "" {
		if opts.Skips, err = readSkips(o.skips); err != nil {
			return nil, err
		}
	}
	if o.baseline != "" {
		if opts.Baseline, err = readBaseline(o.baseline); err != nil {
			return nil, err
		}
	}
	g, err := a.facts(ctx, paths, o.server)
	if err != nil {
		return nil, err
	}
	return netenv.Check(g, opts), nil
}

// facts of files and folders, and of the server.
func (a *app) facts(ctx context.Context, paths []string, server serverScope) (*netenv.Graph, error) {
	r := netenv.NewReader()
	for _, p := range paths {
		if err := r.AddPath(p); err != nil {
			return nil, err
		}
	}
	if server.on {
		list, err := a.serverFacts(ctx, server.groups)
		if err != nil {
			return nil, err
		}
		for _, s := range list {
			r.Add(a.context.Server+"/"+s.File, s.data, s.Export)
		}
	}
	return r.Graph(), nil
}

func readSkips(path string) ([]netenv.Skip, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read skips: %w", err)
	}
	var file struct {
		Skips []struct {
			Code     string `json:"code"`
			Resource string `json:"resource"`
			Reason   string `json:"reason"`
			Until    string `json:"until"`
		} `json:"skips"`
	}
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return nil, fmt.Errorf("read skips: %s: %w", path, err)
	}
	var out []netenv.Skip
	for i, s := range file.Skips {
		if netenv.RuleByCode(s.Code) == nil || s.Reason == "" {
			return nil, fmt.Errorf("read skips: %s: skip %d needs a known code and a reason", path, i+1)
		}
		skip := netenv.Skip{Code: strings.ToUpper(s.Code), Resource: s.Resource, Reason: s.Reason}
		if s.Until != "" {
			day, err := time.Parse(time.DateOnly, s.Until)
			if err != nil {
				return nil, fmt.Errorf("read skips: %s: skip %d: until is no date like 2027-01-31", path, i+1)
			}
			skip.Until = day.Add(24 * time.Hour)
		}
		out = append(out, skip)
	}
	return out, nil
}

func readBaseline(path string) (map[string]bool, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read baseline: %w", err)
	}
	var before netenv.Report
	if err := json.Unmarshal(data, &before); err != nil {
		return nil, fmt.Errorf("read baseline: %s: %w", path, err)
	}
	keys := map[string]bool{}
	for i := range before.Findings {
		if f := &before.Findings[i]; f.Verdict == netenv.Fail || f.Verdict == netenv.Undecided {
			keys[f.Key()] = true
		}
	}
	return keys, nil
}

func (a *app) envCheck() *cobra.Command {
	var o envOptions
	var format string
	var allowUnknown bool
	cmd := &cobra.Command{
		Use: "check PATH...", Short: "Check exports, plans, templates and probes; exit code 1 when not proven.",
		Long: `Check exports of az, Resource Graph and ARM, templates, Terraform plans and live
probes, in any mix. Exit code 0: nothing above information failed, nothing of
severity error is unknown, and every file could be read.`,
		Example: "  sallyport env check ./facts\n  sallyport env check plan.json facts/ -o sarif > env.sarif\n  sallyport env check facts/ --from-server",
		Args:    o.needPaths,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := o.check(cmd.Context(), a, args)
			if err != nil {
				return err
			}
			if err := r.Write(a.out, format); err != nil {
				return usageError{err}
			}
			if !r.Proven(allowUnknown) {
				return quietError{exitError}
			}
			return nil
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVarP(&format, "output", "o", "table", strings.Join(netenv.Formats, ", ")+".")
	cmd.Flags().BoolVar(&allowUnknown, "allow-unknown", false, "Exit code 0 although something of severity error is unknown.")
	return cmd
}

func (o *envOptions) needPaths(_ *cobra.Command, args []string) error {
	if len(args) == 0 && !o.server.on {
		return usagef("give a folder or files to read, or --from-server. See how to get them: sallyport env collect --help")
	}
	return nil
}

func (a *app) envExplain() *cobra.Command {
	return &cobra.Command{
		Use: "explain [CODE...]", Short: "Say what a rule asks, why, and what answers it; without a code, list them.",
		Example: "  sallyport env explain PE-02",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				for _, r := range netenv.Rules() {
					fmt.Fprintf(a.out, "%s  %s\n", r.Code, r.Title)
				}
				return nil
			}
			for _, code := range args {
				r := netenv.RuleByCode(code)
				if r == nil {
					return usagef("no rule %s. List them: sallyport env explain", code)
				}
				if _, err := io.WriteString(a.out, r.Explain()); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func (a *app) envDraw() *cobra.Command {
	var o envOptions
	var file string
	cmd := &cobra.Command{
		Use: "draw PATH...", Short: "Draw the network, failing edges marked; -f FILE.svg for a picture.",
		Example: "  sallyport env draw ./facts\n  sallyport env draw ./facts -f network.svg",
		Args:    o.needPaths,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := o.check(cmd.Context(), a, args)
			if err != nil {
				return err
			}
			if file == "" {
				return r.Draw(a.out)
			}
			f, err := os.Create(file)
			if err != nil {
				return fmt.Errorf("draw: %w", err)
			}
			if err := r.DrawSVG(f); err != nil {
				f.Close()
				return fmt.Errorf("draw: %w", err)
			}
			return f.Close()
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVarP(&file, "file", "f", "", "Write an SVG there.")
	return cmd
}
