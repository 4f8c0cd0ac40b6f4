// Command sallyportd is the server: control plane, authority and gateway, in one
// process by default.
//
// It owns the configuration file and the one place where the server's rooms
// meet (compose.go). What each room does is the room's own.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/sallyport/sallyport/store"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without the process: exit code 0 after a clean stop, 1 for a
// failure, 2 for a wrong call.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("sallyportd", flag.ContinueOnError)
	flags.SetOutput(stderr)
	file := flags.String("config", "", "configuration `file` (YAML); docs/sallyportd.yaml documents every key")
	check := flags.Bool("check", false, "read the configuration, say whether it is good, and stop")
	users := flags.Bool("etcd-users", false, "print the etcdctl commands that make the users of an external store, and stop")
	flags.Usage = func() {
		fmt.Fprintf(stderr, "usage: sallyportd --config FILE\n       sallyportd --etcd-users\n\n")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if *users && flags.NArg() == 0 {
		fmt.Fprint(stdout, store.RenderUsers())
		return 0
	}
	if *file == "" || flags.NArg() > 0 {
		flags.Usage()
		return 2
	}
	config, err := readConfig(*file)
	if err != nil {
		fmt.Fprintf(stderr, "sallyportd: %v\n", err)
		return 2
	}
	if *check {
		fmt.Fprintf(stdout, "%s is good\n", *file)
		return 0
	}
	if err := serve(ctx, config, stderr); err != nil {
		fmt.Fprintf(stderr, "sallyportd: %v\n", err)
		return 1
	}
	return 0
}
