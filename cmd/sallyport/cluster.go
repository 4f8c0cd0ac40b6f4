package main

import "github.com/spf13/cobra"

func (a *app) cluster() *cobra.Command {
	return a.noun("cluster", "Connect clusters, and accept what services ask of them.")
}
