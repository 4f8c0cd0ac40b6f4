// Command nodetool is one small static binary for what runs on a node besides
// Kubernetes: the node's first process, the pause container, and for test
// images a shell with the few commands that exec, cp, attach, logs and
// port-forward are tried with. It owns no part of a cluster's set-up.
package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/sallyport/sallyport/internal/devcluster/nodeinit"
)

func main() {
	args := os.Args
	if filepath.Base(args[0]) == "nodetool" && len(args) > 1 {
		args = args[1:]
	}
	args[0] = filepath.Base(args[0])
	switch args[0] {
	case "node-init":
		os.Exit(nodeInit())
	case "pause":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
		<-stop
		return
	}
	os.Exit(newShell(os.Stdin, os.Stdout, os.Stderr).run(args))
}

func nodeInit() int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := nodeinit.Run(io.LimitReader(os.Stdin, 1<<20), log); err != nil {
		log.Error("node ends", "error", err)
		return 1
	}
	return 0
}

// complain writes what went wrong the way commands do, and returns status 1.
func complain(stderr io.Writer, name string, err error) int {
	fmt.Fprintf(stderr, "%s: %v\n", name, err)
	return 1
}
