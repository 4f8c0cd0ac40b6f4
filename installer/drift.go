package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/release/common"
	release "helm.sh/helm/v4/pkg/release/v1"

	"github.com/sallyport/sallyport/mandate"
)

// is tells whether a revision is what is wanted: this extension in this generation,
// of this chart, with these values. The owner's values can change without the
// others.
func (a *accepted) is(rel *release.Release) bool {
	for key, value := range a.labels() {
		if rel.Labels[key] != value {
			return false
		}
	}
	have, err := json.Marshal(rel.Config)
	want, bad := json.Marshal(a.values())
	return err == nil && bad == nil && string(have) == string(want)
}

// tried is the revision of an update to what is wanted that failed and was rolled
// back; nil if there is none.
func (a *accepted) tried(history []*release.Release) *release.Release {
	for _, rel := range slices.Backward(history) {
		if rel.Info.Status == common.StatusFailed && rel.Labels[problemLabel] != "" && a.is(rel) {
			return rel
		}
	}
	return nil
}

// noteFailure writes on a revision why it failed, so that the next installer
// neither tries it again nor forgets the reason. It is no part of the state: a
// failure is logged.
func (r *releases) noteFailure(h *action.Configuration, rel *release.Release, p *mandate.ExtensionProblem) {
	if rel == nil {
		return // it failed before there was a revision, and so changed nothing
	}
	rel.SetStatus(common.StatusFailed, p.Message)
	rel.Labels[problemLabel] = p.Code
	if err := h.Releases.Update(rel); err != nil {
		r.log.Warn("failure not noted", "release", rel.Name, "revision", rel.Version, "error", err)
	}
}

// keep holds what runs to what its release says: what was changed or removed by
// others is put right, as an upgrade would do, and what does not run is said.
func (r *releases) keep(ctx context.Context, h *action.Configuration, a *accepted, rel *release.Release, state *mandate.ExtensionState) error {
	what, err := r.drift(ctx, h, rel)
	if err != nil {
		return r.unseen(err, a, state)
	}
	if what != "" {
		r.log.Info("drifted, putting it right", "name", a.Name, "object", what)
		err := r.rollback(ctx, h, a, rel.Version)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			also(state, r.diagnose(ctx, a, err))
			return nil
		}
		state.Statuses = append(state.Statuses, mandate.ExtensionStatus{Code: "Repaired", Level: "Information",
			Message: fmt.Sprintf("%s was not as the release says, and was put right.", what)})
	}
	found, err := r.unwell(ctx, a.place, releaseName(&a.Extension))
	if err != nil {
		return r.unseen(err, a, state)
	}
	if len(found) > 0 {
		found[0].code = codeUnhealthy
		also(state, found)
	}
	return nil
}

// also adds what was found wrong. Why what was asked for is not there comes first.
func also(state *mandate.ExtensionState, found []finding) {
	if state.Problem == nil {
		state.Problem = problemOf(found)
	}
	state.Statuses = append(state.Statuses, statusesOf(found)...)
}

// drift names an object that is not as a revision says; "" if there is none. The
// API server is asked what applying it once more would change.
func (r *releases) drift(ctx context.Context, h *action.Configuration, rel *release.Release) (string, error) {
	objects, err := h.KubeClient.Build(strings.NewReader(rel.Manifest), false)
	if err != nil {
		return "", fmt.Errorf("read the manifest of revision %d: %w", rel.Version, err)
	}
	for _, info := range objects {
		want, ok := info.Object.(*unstructured.Unstructured)
		if !ok {
			return "", fmt.Errorf("revision %d holds a %T", rel.Version, info.Object)
		}
		owned(want, rel)
		name := want.GetKind() + " " + info.Name
		client := r.kube.dynamic.Resource(info.Mapping.Resource).Namespace(info.Namespace)
		have, err := client.Get(ctx, info.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return name, nil
		}
		if err != nil {
			return "", fmt.Errorf("look at %s: %w", name, err)
		}
		would, err := client.Apply(ctx, info.Name, want, metav1.ApplyOptions{FieldManager: "sallyport-installer", Force: true, DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return "", fmt.Errorf("compare %s: %w", name, err)
		}
		for _, o := range []*unstructured.Unstructured{have, would} {
			for _, field := range []string{"managedFields", "resourceVersion", "generation"} {
				unstructured.RemoveNestedField(o.Object, "metadata", field)
			}
		}
		if !equality.Semantic.DeepEqual(have.Object, would.Object) {
			return name, nil
		}
	}
	return "", nil
}

// owned marks an object of a release's manifest as Helm does before it applies it.
func owned(o *unstructured.Unstructured, rel *release.Release) {
	labels, annotations := o.GetLabels(), o.GetAnnotations()
	if labels == nil {
		labels = map[string]string{}
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	labels["app.kubernetes.io/managed-by"] = "Helm"
	annotations["meta.helm.sh/release-name"], annotations["meta.helm.sh/release-namespace"] = rel.Name, rel.Namespace
	o.SetLabels(labels)
	o.SetAnnotations(annotations)
}
