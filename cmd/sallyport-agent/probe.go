package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"github.com/sallyport/sallyport/internal/logs"
	"github.com/sallyport/sallyport/netenv/probe"
)

// reportKey is where in its ConfigMap a report is.
const reportKey = "report.json"

// runProbe looks at the targets again and again, and keeps the last report in a
// ConfigMap of its own namespace. It speaks to nobody else.
func runProbe(ctx context.Context, args []string, stderr io.Writer) int {
	r, name, err := parseProbe(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 2
	}
	if err != nil {
		fmt.Fprintf(stderr, "sallyport-agent probe: %v\n", err)
		return 2
	}
	config, err := rest.InClusterConfig()
	var core *v1.CoreV1Client
	if err == nil {
		core, err = v1.NewForConfig(config)
	}
	if err == nil {
		r.Log, err = logs.New(stderr, logs.Options{Format: "json"})
	}
	if err != nil {
		fmt.Fprintf(stderr, "sallyport-agent probe: %v\n", err)
		return 1
	}
	maps := core.ConfigMaps(os.Getenv("NAMESPACE"))
	r.Send = func(ctx context.Context, report probe.Report) error {
		text, err := json.Marshal(report)
		if err != nil {
			return err
		}
		patch, err := json.Marshal(map[string]any{"data": map[string]string{reportKey: string(text)}})
		if err != nil {
			return err
		}
		if _, err = maps.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return err
		}
		// Ready means that there is a report.
		return os.WriteFile(readyFile, nil, 0o600)
	}
	if err := r.Run(ctx); err != nil && ctx.Err() == nil {
		fmt.Fprintf(stderr, "sallyport-agent probe: %v\n", err)
		return 1
	}
	return 0
}

// readyFile is there once a report was written. It lies in memory of the pod's own.
const readyFile = "/dev/shm/probed"

// probed tells the kubelet whether a report was written.
func probed() int {
	if _, err := os.Stat(readyFile); err != nil {
		return 1
	}
	return 0
}

func parseProbe(args []string, stderr io.Writer) (r probe.Repeater, report string, err error) {
	var targets, proxyFile string
	f := flag.NewFlagSet("sallyport-agent probe", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&r.Cluster, "cluster", "", "resource `id` of the cluster, as reports name it")
	f.StringVar(&targets, "targets", "", "`name[:port],…` to resolve and connect to; nothing else is ever looked at")
	f.DurationVar(&r.Every, "every", 5*time.Minute, "how often")
	f.StringVar(&report, "report", "", "`ConfigMap` of this namespace that holds the last report")
	f.StringVar(&proxyFile, "proxy-file", "", "`file` with the URL of the CONNECT proxy that workloads use; default: none")
	if err := f.Parse(args); err != nil {
		return r, "", flag.ErrHelp // said already
	}
	if report == "" || r.Every <= 0 || f.NArg() > 0 {
		return r, "", errors.New("--report and a positive --every are needed, and no arguments")
	}
	if r.Targets, err = probe.ParseTargets(strings.Split(targets, ",")); err != nil {
		return r, "", err
	}
	if proxyFile != "" {
		text, err := os.ReadFile(proxyFile)
		if err != nil {
			return r, "", fmt.Errorf("--proxy-file: %w", err)
		}
		if r.Prober.Proxy, err = url.Parse(strings.TrimSpace(string(text))); err != nil || r.Prober.Proxy.Host == "" {
			return r, "", errors.New("--proxy-file holds no URL")
		}
	}
	r.ResolvConf = func() (io.ReadCloser, error) { return os.Open("/etc/resolv.conf") }
	return r, report, nil
}
