package main

import "github.com/spf13/cobra"

func (a *app) image() *cobra.Command {
	return a.noun("image", "Make the agents' container images.")
}
