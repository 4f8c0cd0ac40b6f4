// Command sallyport is the command line: az's nouns and flags against a
// Sallyport server, connecting clusters, and the credential plugin for kubectl.
//
// It owns how commands look and what they print. What they do is package
// client's; what is applied to a cluster is packages rbac's and deploy's.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"
)

// version is set when a release is linked.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	width := func(f *os.File) int {
		columns, _, err := term.GetSize(int(f.Fd()))
		if err != nil {
			return 0 // no terminal
		}
		return columns
	}
	code := run(ctx, os.Args[1:], streams{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		inTerminal:  term.IsTerminal(int(os.Stdin.Fd())),
		outTerminal: term.IsTerminal(int(os.Stdout.Fd())), outWidth: width(os.Stdout),
		errTerminal: term.IsTerminal(int(os.Stderr.Fd())), errWidth: width(os.Stderr),
	})
	stop()
	os.Exit(code)
}
