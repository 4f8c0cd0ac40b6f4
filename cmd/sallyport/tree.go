package main

import (
	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/cmd/sallyport/output"
)

// tree is every command. What starts whole installations on this machine (up,
// down, demo) is package up's.
func (a *app) tree() *cobra.Command {
	root := &cobra.Command{
		Use:   "sallyport",
		Short: "Trusted Access for any Kubernetes cluster",
		Long: `Trusted Access for any Kubernetes cluster: a service reaches a private cluster
through role bindings that the cluster's team creates, and no other way.

Nouns and arguments are az's. Begin with:
  sallyport login --admin-file FILE         the credential that the server wrote
  sallyport cluster connect -g G -n NAME    take a cluster on
  sallyport aks trustedaccess --help        who may reach it`,
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknown(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	root.FParseErrWhitelist.UnknownFlags = true
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	g := root.PersistentFlags()
	g.SortFlags = false
	g.StringVarP(&a.print.Format, "output", "o", "json", "Output format: json, jsonc, yaml, yamlc, table, tsv, none.")
	g.StringVar(&a.print.Query, "query", "", "JMESPath query string. See http://jmespath.org/.")
	g.StringVar(&a.sub, "subscription", "", "Name or ID of subscription.")
	g.StringVar(&a.contextName, "context", "", "Which server and caller; see 'account list'. Default: the current one.")
	g.BoolVar(&a.onlyErrors, "only-show-errors", false, "Only show errors, suppressing warnings and progress.")
	g.BoolVar(&a.debugging, "debug", false, "Show each call to the server.")
	g.BoolVar(&a.debugging, "verbose", false, "As --debug, for scripts written for az.")
	if err := root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(output.Formats, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // a flag that does not exist: a mistake in this program
	}
	root.AddCommand(
		a.loginCommand(), a.logoutCommand(), a.account(),
		a.groupNoun(), a.aks(), a.cluster(), a.identity(), a.ad(), a.role(), a.monitor(),
		a.feature(), a.provider(), a.extension(), a.resource(), a.lockNoun(), a.clientSetup(),
		a.apply(), a.diff(), a.export(), a.ml(), a.k8sExtension(),
		a.kubeconfigNoun(), a.image(), a.rest(), a.statusCommand(), a.versionCommand(), a.envNoun(),
	)
	root.AddCommand(installation(a)...)
	return root
}
