package main

import "github.com/spf13/cobra"

// installation are the commands that run a whole Sallyport on this machine.
func installation(*app) []*cobra.Command { return nil }
