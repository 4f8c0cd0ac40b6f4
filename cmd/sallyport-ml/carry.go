package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/sallyport/sallyport/internal/logs"
	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/carrier"
)

// lastWords is how long a pod that is being ended may still keep what it wrote;
// Kubernetes gives pods 30 s.
const lastWords = 25 * time.Second

// carry is "fetch" and "push", in the pods of jobs and deployments. It returns
// the exit code.
func carry(ctx context.Context, part string, args []string, stderr io.Writer) int {
	var c carrier.Config
	f := flag.NewFlagSet("sallyport-ml "+part, flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&c.Gateway, "gateway", "", "`host:port` of the extension's gateway")
	f.StringVar(&c.TokenFile, "token-file", "", "`file` with this pod's token")
	if f.Parse(args) != nil {
		return 2
	}
	err := func() (err error) {
		if err := json.Unmarshal([]byte(os.Getenv(mlext.MountsVariable)), &c.Mounts); err != nil {
			return fmt.Errorf("%s: %w", mlext.MountsVariable, err)
		}
		c.Trust = os.Getenv(mlext.TrustVariable)
		if c.Log, err = logs.New(stderr, logs.Options{Format: "json"}); err != nil {
			return err
		}
		w, err := carrier.New(c)
		if err != nil {
			return err
		}
		if part == "fetch" {
			return w.Fetch(ctx)
		}
		last, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		defer context.AfterFunc(ctx, func() { time.AfterFunc(lastWords, cancel) })()
		return w.Push(ctx, last)
	}()
	if err != nil {
		// What comes last in the log is what Kubernetes hands over as the reason.
		fmt.Fprintf(stderr, "%v\n", err)
		return 1
	}
	return 0
}
