// Command sallyport-ml is the ML extension in a cluster: as "gateway" it is the
// door that the ML service comes in by, as "operator" it runs jobs and model
// servers, as "router" it scores. They run as Deployments with an identity each,
// because one stolen token must not be all.
//
// It owns the flags and the one place where the extension's rooms meet.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sallyport/sallyport/internal/logs"
	"github.com/sallyport/sallyport/internal/logs/klogs"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stderr))
}

const usage = `usage: sallyport-ml gateway|operator|router --namespaces NAMES [flags]

gateway   lets the ML service's workspaces attach, submit, watch and read logs
operator  runs their jobs in the namespaces that the cluster's owner named
router    stands before their model servers: keys, traffic split, queues, scaling
fetch     fills the folders of a job's or deployment's pod, and ends
push      keeps what a job's pod writes, and ends after its program
version   prints the version

sallyport-ml gateway -h lists the flags.
`

// config is what the command line says.
type config struct {
	namespaces []string
	kubeconfig string
	logLevel   string
	logFormat  string

	// The gateway's.
	listen, issuer, tenant, audience, keyFile, logDir string
	training                                          bool

	router routerConfig
	// The operator's.
	image        string
	nodeSelector map[string]string
}

// run is main without the process: exit code 0 after a clean stop, 1 for a
// failure, 2 for a wrong call.
func run(ctx context.Context, args []string, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return 2
	}
	var serve func(context.Context, *config, *clients, io.Writer) error
	switch args[0] {
	case "gateway":
		serve = runGateway
	case "operator":
		serve = runOperator
	case "router":
		serve = runRouter
	case "fetch", "push":
		return carry(ctx, args[0], args[1:], stderr)
	case "version":
		fmt.Fprintln(stderr, version())
		return 0
	default:
		fmt.Fprintf(stderr, "sallyport-ml: %q is none of gateway, operator and router\n\n%s", args[0], usage)
		return 2
	}
	c, err := parseFlags(args[0], args[1:], stderr)
	if err != nil {
		return 2
	}
	kube, err := c.clients()
	if err == nil {
		err = serve(ctx, c, kube, stderr)
	}
	if err != nil && ctx.Err() == nil {
		fmt.Fprintf(stderr, "sallyport-ml %s: %v\n", args[0], err)
		return 1
	}
	return 0
}

func parseFlags(part string, args []string, stderr io.Writer) (*config, error) {
	var c config
	var namespaces string
	f := flag.NewFlagSet("sallyport-ml "+part, flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&namespaces, "namespaces", "", "`names`, separated by commas, of the namespaces that may be attached")
	f.StringVar(&c.kubeconfig, "kubeconfig", "", "kubeconfig `file`; default: this pod's ServiceAccount")
	f.StringVar(&c.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&c.logFormat, "log-format", "json", "json or text")
	if part == "gateway" {
		f.StringVar(&c.listen, "listen", ":8443", "`address` to serve on")
		f.StringVar(&c.issuer, "issuer", "", "`URL` of the issuer of workspaces' tokens")
		f.StringVar(&c.tenant, "tenant", "", "tenant `GUID` of workspaces")
		f.StringVar(&c.audience, "audience", "", "this extension, as tokens name it")
		f.StringVar(&c.keyFile, "ml-key", "", "PEM `file` with the public key of the ML service, which signs newer key sets")
		f.BoolVar(&c.training, "training", true, "take jobs; without, what is served alone")
		f.StringVar(&c.logDir, "log-dir", "/var/lib/sallyport-ml/logs", "`folder` for jobs' logs")
	}
	if part == "router" {
		f.StringVar(&c.listen, "listen", ":8080", "`address` to score on")
		f.StringVar(&c.audience, "audience", "", "this extension, as tokens name it")
		f.StringVar(&c.keyFile, "ml-key", "", "PEM `file` with the public key of the ML service, which signs tokens of endpoints")
		c.router.flags(f)
	}
	if part == "operator" {
		f.StringVar(&c.image, "image", "", "`image` of this program, in which the bytes of jobs are moved")
		f.Func("node-selector", "`JSON` object of the labels of nodes that everything runs on", func(s string) error { return json.Unmarshal([]byte(s), &c.nodeSelector) })
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	err := c.complete(part, f.Args(), namespaces)
	if err != nil {
		fmt.Fprintf(stderr, "sallyport-ml %s: %v\n", part, err)
	}
	return &c, err
}

func (c *config) complete(part string, rest []string, namespaces string) error {
	if len(rest) > 0 {
		return fmt.Errorf("unexpected %q", rest)
	}
	for n := range strings.SplitSeq(namespaces, ",") {
		if n = strings.TrimSpace(n); n != "" {
			c.namespaces = append(c.namespaces, n)
		}
	}
	if len(c.namespaces) == 0 {
		return fmt.Errorf("--namespaces is missing: where jobs may run")
	}
	if part == "operator" && c.image == "" {
		return fmt.Errorf("--image is missing: 'sallyport ml extension manifest' writes it")
	}
	if part == "gateway" && (c.issuer == "" || c.tenant == "" || c.audience == "" || c.keyFile == "") {
		return fmt.Errorf("--issuer, --tenant, --audience and --ml-key are needed: 'sallyport ml extension manifest' writes them")
	}
	if part == "router" {
		if c.audience == "" || c.keyFile == "" {
			return fmt.Errorf("--audience and --ml-key are needed: 'sallyport ml extension manifest' writes them")
		}
		return c.router.complete()
	}
	return nil
}

// clients are of the one API server there is.
type clients struct {
	kube    kubernetes.Interface
	dynamic dynamic.Interface
}

func (c *config) clients() (*clients, error) {
	conf, err := rest.InClusterConfig()
	if c.kubeconfig != "" {
		conf, err = clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	conf.QPS, conf.Burst = 50, 100
	kube, err := kubernetes.NewForConfig(conf)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	dyn, err := dynamic.NewForConfig(conf)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	return &clients{kube, dyn}, nil
}

// logger writes this process's lines, client-go's among them.
func (c *config) logger(w io.Writer) (*slog.Logger, error) {
	level, err := logs.ParseLevel(c.logLevel)
	if err != nil {
		return nil, err
	}
	log, err := logs.New(w, logs.Options{Level: level, Format: c.logFormat})
	if err != nil {
		return nil, err
	}
	klogs.Install(log)
	return log, nil
}

// version is the module's version, as the Go command recorded it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
