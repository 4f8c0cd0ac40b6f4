package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"

	"github.com/sallyport/sallyport/deploy"
	"github.com/sallyport/sallyport/extension"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/rbac"
)

// accepted is an extension that may be installed: what is wanted, held to the
// type's rules once more, with the owner's chart and values.
type accepted struct {
	mandate.Extension
	typ      extension.Type
	settings extension.Values
	consent  deploy.Consent
	chart    *chart.Chart
	digest   string
	place    string // namespace of the release
}

// problem is why an extension is not as it shall be.
func problem(code, format string, args ...any) *mandate.ExtensionProblem {
	return &mandate.ExtensionProblem{Code: code, Message: fmt.Sprintf(format, args...)}
}

// place is the namespace that an extension is installed in.
func place(x *mandate.Extension) string {
	if x.Namespace != "" {
		return x.Namespace
	}
	return x.Release
}

// accept checks what is wanted against the owner's consent, and settings against
// the type's rules: control has done the latter, and is not believed.
func (r *releases) accept(ctx context.Context, x mandate.Extension) (*accepted, *mandate.ExtensionProblem, error) {
	a := &accepted{Extension: x, place: place(&x)}
	var err error
	if a.typ, err = extension.Find(x.Type); err != nil {
		return nil, problem(mandate.ExtensionNotAccepted, "This installer has no chart for extension type %.100s.", x.Type), nil
	}
	files, err := deploy.ExtensionChart(x.Type)
	if err != nil {
		return nil, nil, err
	}
	a.digest = deploy.ChartDigest(files)
	cm, err := r.kube.typed.CoreV1().ConfigMaps(rbac.SystemNamespace).Get(ctx, deploy.ConsentName(x.Type), metav1.GetOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return nil, problem(mandate.ExtensionNotAccepted, "The cluster's owner has not accepted extension type %s.", a.typ.Name), nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the owner's consent: %w", err)
	}
	if a.consent, err = deploy.ParseConsent(cm.Data); err != nil {
		return nil, problem(mandate.ExtensionNotAccepted, "The consent in ConfigMap %s of namespace %s cannot be read: %v.", cm.Name, cm.Namespace, err), nil
	}
	c := a.consent
	switch {
	case c.Digest != a.digest && !x.Remove: // what is removed is what Helm's records name, not this chart
		return nil, problem(mandate.ExtensionDigestRefused, "The cluster's owner has accepted the chart %s of extension type %s; this installer has %s, version %s, and installs no other.", c.Digest, a.typ.Name, a.digest, a.typ.Version), nil
	case c.Namespace != "" && a.place != c.Namespace, c.Namespace == "" && !slices.Contains(c.Namespaces, a.place):
		where := c.Namespace
		if where == "" {
			where = strings.Join(c.Namespaces, ", ")
		}
		return nil, problem(mandate.ExtensionNotAccepted, "The cluster's owner has accepted extension type %s in namespace %s, not in %s.", a.typ.Name, where, a.place), nil
	}
	if x.Remove {
		return a, nil, nil
	}
	named := extension.Cluster{ID: x.Settings["cluster_name"], Name: x.Settings["cluster_name_friendly"], Location: x.Settings["location"]}
	if a.settings, _, err = a.typ.Resolve(extension.Values{Plain: x.Settings, Protected: x.Protected}, named); err != nil {
		return nil, problem("InvalidConfigurationSettings", "%s", hidden(err.Error(), x)), nil
	}
	var all []*archive.BufferedFile
	for name, data := range files {
		all = append(all, &archive.BufferedFile{Name: name, Data: data})
	}
	if a.chart, err = loader.LoadFiles(all); err != nil {
		return nil, nil, fmt.Errorf("load the chart of %s: %w", x.Type, err)
	}
	return a, nil, nil
}

// values are the chart's: the owner's, and the settings.
func (a *accepted) values() map[string]any {
	owner := a.consent.Owner
	if owner == nil {
		owner = map[string]any{}
	}
	return map[string]any{"owner": owner, "settings": a.typ.ChartValues(a.settings)}
}

// hidden takes protected settings out of a text, as they are, as Go and JSON
// Schema quote them, and in base64, and cuts it to what a report takes.
func hidden(text string, x mandate.Extension) string {
	var secrets []string
	for _, v := range x.Protected {
		secrets = append(secrets, base64.StdEncoding.EncodeToString([]byte(v)))
		if decoded, err := base64.StdEncoding.DecodeString(v); err == nil {
			v += "\n" + string(decoded)
		}
		for line := range strings.Lines(v) {
			if line = strings.TrimSpace(line); len(line) <= 3 || strings.HasPrefix(line, "-----") {
				continue
			}
			quoted := strings.Trim(strconv.Quote(line), `"`)
			secrets = append(secrets, line, quoted, strings.ReplaceAll(line, "'", `\'`), strings.ReplaceAll(quoted, "'", `\'`))
		}
	}
	// The longest first: one may be part of another.
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	for _, s := range secrets {
		if len(s) > 3 {
			text = strings.ReplaceAll(text, s, "[protected]")
		}
	}
	const limit = 1500
	if len(text) > limit {
		text = text[:limit] + "…"
	}
	return text
}
