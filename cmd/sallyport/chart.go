package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sallyport/sallyport/deploy"
	"github.com/sallyport/sallyport/trust"
)

// writeChart writes the agents' chart.
func (a *app) writeChart(c *connect, o deploy.Options) error {
	files, err := deploy.Chart(o, version)
	if err != nil {
		return err
	}
	if err := writeChartFiles(c.chart, files); err != nil {
		return err
	}
	a.say("Wrote the chart %s. Next, as the cluster's owner: helm install sallyport-agents %s -n default --kube-context CONTEXT", c.chart, c.chart)
	if c.issuer == "" && !c.owner.given() {
		a.warn("the server does not know the cluster's keys yet, so its agents cannot enrol. Name the owner's --kube-context, or give --service-account-issuer and --service-account-keys-file.")
	}
	return nil
}

// writeChartFiles writes a chart into a folder that is not there yet, or holds that
// chart: nothing of anybody's is overwritten.
func writeChartFiles(folder string, files map[string][]byte) error {
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return trust.Errorf(trust.Invalid, "the folder %s cannot be read", folder).Because(err)
	}
	for _, e := range entries {
		if _, ours := files[e.Name()]; !ours && e.Name() != "templates" {
			return trust.Errorf(trust.Conflict, "the folder %s holds something else than this chart: %s", folder, e.Name())
		}
	}
	for name, data := range files {
		path := filepath.Join(folder, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return trust.Errorf(trust.Invalid, "the chart cannot be written").Because(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return trust.Errorf(trust.Invalid, "the chart cannot be written").Because(err)
		}
	}
	return nil
}
