package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/release/common"
	release "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage/driver"

	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/trust"
)

// What Helm's records of our releases are labelled with.
const (
	uidLabel        = "sallyport.dev/extension"
	generationLabel = "sallyport.dev/generation"
	digestLabel     = "sallyport.dev/chart"   // the first 40 digits
	problemLabel    = "sallyport.dev/problem" // the code, on what failed and was rolled back
)

// kept is how many revisions of a release stay: each holds settings.
const kept = 3

// releases makes Helm releases of extensions. A release is named as its extension.
type releases struct {
	kube    *kubeAPI
	begin   func(ctx context.Context, uid string) error // told before anything of an extension is put into the cluster
	timeout time.Duration                               // for what was installed to run
	grace   time.Duration                               // for what ran before to come up again by itself
	log     *slog.Logger
}

func releaseName(x *mandate.Extension) string { return trust.Fold(x.Name) }

// follow makes the cluster hold what is wanted of one extension. Errors are those
// that may pass; everything else is a problem in the state, which says what is in
// the cluster also where nothing may be done to it.
func (r *releases) follow(ctx context.Context, x mandate.Extension, nodes int) (mandate.ExtensionState, error) {
	state := mandate.ExtensionState{UID: x.UID, Generation: x.Generation, Unseen: true}
	h, err := r.kube.helm(place(&x))
	if err != nil {
		return state, err
	}
	history, unseen := revisions(h, releaseName(&x))
	if unseen != nil && passing(unseen) {
		return state, unseen
	}
	state.Unseen = unseen != nil
	others := slices.ContainsFunc(history, ofNobody)
	if others {
		history = nil // nothing of it is ours
	}
	present(&state, history)
	a, why, err := r.accept(ctx, x)
	switch {
	case err == nil && why != nil && x.Remove && unseen == nil && len(history) == 0:
		// It is not there: removing it needs nobody's consent.
	case err != nil || why != nil:
		state.Problem = why
	case others && x.Remove:
		// It stays: the extension was never there.
	case others:
		state.Problem = problem(codeUnknown, "The Helm release %s in namespace %s is not an extension's, and is left alone. Give the extension another name, or remove the release: helm uninstall %s -n %s", releaseName(&x), a.place, releaseName(&x), a.place)
	case unseen != nil:
		err = r.unseen(unseen, a, &state)
	case x.Remove:
		err = r.remove(ctx, h, a, &state)
	default:
		err = r.install(ctx, h, a, history, nodes, &state)
	}
	return state, err
}

// install installs or updates, unless that is done. What fails is taken back: an
// installation whole, an update to what was there before.
func (r *releases) install(ctx context.Context, h *action.Configuration, a *accepted, history []*release.Release, nodes int, state *mandate.ExtensionState) error {
	if !slices.ContainsFunc(history, a.owns) {
		if err := r.begin(ctx, a.UID); err != nil {
			return fmt.Errorf("say that it begins: %w", err)
		}
	}
	if err := settle(h, history); err != nil {
		return r.unseen(err, a, state)
	}
	before := deployed(history)
	if before != nil && before == history[len(history)-1] {
		failed := a.tried(history)
		if failed != nil {
			state.Problem = problem(failed.Labels[problemLabel], "%s", failed.Info.Description)
			state.Statuses = []mandate.ExtensionStatus{{Code: state.Problem.Code, Level: "Error", Message: state.Problem.Message}}
		} else if a.is(before) {
			state.Statuses = []mandate.ExtensionStatus{installed(before, a.digest)}
		}
		if len(state.Statuses) > 0 {
			return r.keep(ctx, h, a, before, state)
		}
	}
	if found := r.checks(ctx, a, nodes); len(found) > 0 {
		r.report(ctx, a, phase(before), found)
		state.Problem, state.Statuses = problemOf(found), statusesOf(found)
		return nil
	}
	var done *release.Release
	var err error
	if before == nil && len(history) == 0 {
		done, err = r.helmInstall(ctx, h, a)
	} else {
		done, err = r.helmUpgrade(ctx, h, a)
	}
	if err == nil {
		present(state, []*release.Release{done})
		r.report(ctx, a, phase(before), nil)
		state.Statuses = append(state.Statuses, installed(done, a.digest))
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.log.Warn("release failed", "name", a.Name, "error", hidden(err.Error(), a.Extension))
	found := r.diagnose(ctx, a, err)
	r.report(ctx, a, phase(before), found)
	state.Problem, state.Statuses = problemOf(found), statusesOf(found)
	if before == nil {
		err = r.uninstall(ctx, h, a)
		state.Present = err != nil
		state.Problem.Message += after(err, a.Extension, " What had been installed was removed.")
		return nil
	}
	err = r.rollback(ctx, h, a, before.Version)
	state.Problem.Message += after(err, a.Extension, fmt.Sprintf(" It was rolled back to what it was before, revision %d.", before.Version))
	r.noteFailure(h, done, state.Problem)
	return nil
}

// after says how what had failed was taken back.
func after(err error, x mandate.Extension, well string) string {
	if err == nil {
		return well
	}
	return " Taking it back failed, too: " + cut(hidden(err.Error(), x)) + "."
}

func cut(s string) string { return s[:min(len(s), 300)] }

// unseen is a release that cannot be looked at: for good, or for now.
func (r *releases) unseen(err error, a *accepted, state *mandate.ExtensionState) error {
	if passing(err) {
		return err
	}
	state.Problem = problem(codeUnknown, "Helm's records in namespace %s cannot be read or written: %s.", a.place, cut(hidden(err.Error(), a.Extension)))
	if apierrors.IsForbidden(err) {
		state.Problem = problem(mandate.ExtensionNotAccepted, "The installer's rights in namespace %s are not what the accepted chart needs: %s.", a.place, cut(hidden(err.Error(), a.Extension)))
	}
	return nil
}

// present says what of an extension is in the cluster, by Helm's records of it.
func present(state *mandate.ExtensionState, history []*release.Release) {
	state.Present, state.Version = len(history) > 0, ""
	if rel := deployed(history); rel != nil && rel.Chart != nil && rel.Chart.Metadata != nil {
		state.Version = rel.Chart.Metadata.Version
	}
}

func installed(rel *release.Release, digest string) mandate.ExtensionStatus {
	return mandate.ExtensionStatus{Code: "Installed", Level: "Information",
		Message: fmt.Sprintf("Version %s runs, of chart %s; Helm release %s in namespace %s, revision %d.", rel.Chart.Metadata.Version, digest, rel.Name, rel.Namespace, rel.Version)}
}

func phase(before *release.Release) string {
	if before == nil {
		return "install"
	}
	return "upgrade"
}

// revisions are a release's, oldest first; none is no error.
func revisions(h *action.Configuration, name string) ([]*release.Release, error) {
	found, err := h.Releases.History(name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []*release.Release
	for _, f := range found {
		if rel, ok := f.(*release.Release); ok {
			all = append(all, rel)
		}
	}
	slices.SortFunc(all, func(a, b *release.Release) int { return a.Version - b.Version })
	return all, nil
}

// settle calls failed what a process that ended was doing: Helm does nothing more
// with a release that is being worked on, and nobody else works here.
func settle(h *action.Configuration, history []*release.Release) error {
	for _, rel := range history {
		if rel.Info.Status.IsPending() {
			rel.SetStatus(common.StatusFailed, "the installer ended while it was at it")
			if err := h.Releases.Update(rel); err != nil {
				return err
			}
		}
	}
	return nil
}

// deployed is the newest revision that is in force; nil if there is none.
func deployed(history []*release.Release) *release.Release {
	for _, rel := range slices.Backward(history) {
		if rel.Info.Status == common.StatusDeployed {
			return rel
		}
	}
	return nil
}

func (a *accepted) labels() map[string]string {
	return map[string]string{uidLabel: a.UID, generationLabel: strconv.FormatInt(a.Generation, 10), digestLabel: strings.TrimPrefix(a.digest, "sha256:")[:40]}
}

// ofNobody tells whether a revision was made by somebody else than an installer.
func ofNobody(rel *release.Release) bool { return rel.Labels[uidLabel] == "" }

// owns tells whether a revision is of this extension, and not of one that had its
// name before.
func (a *accepted) owns(rel *release.Release) bool { return rel.Labels[uidLabel] == a.UID }

func (r *releases) helmInstall(ctx context.Context, h *action.Configuration, a *accepted) (*release.Release, error) {
	i := action.NewInstall(h)
	i.ReleaseName, i.Namespace, i.Labels = releaseName(&a.Extension), a.place, a.labels()
	i.WaitStrategy, i.WaitOptions, i.Timeout = kube.StatusWatcherStrategy, []kube.WaitOption{kube.WithWaitContext(ctx)}, r.timeout
	i.DisableOpenAPIValidation = true                                             // the API server's own is enough
	out, err := i.RunWithContext(context.WithoutCancel(ctx), a.chart, a.values()) // with ctx it would return and go on behind us; the waiting ends with ctx
	return released(out, err)
}

func (r *releases) helmUpgrade(ctx context.Context, h *action.Configuration, a *accepted) (*release.Release, error) {
	u := action.NewUpgrade(h)
	u.Namespace, u.Labels, u.MaxHistory, u.ResetValues = a.place, a.labels(), kept, true
	u.Labels[problemLabel] = "null" // not inherited
	u.WaitStrategy, u.WaitOptions, u.Timeout = kube.StatusWatcherStrategy, []kube.WaitOption{kube.WithWaitContext(ctx)}, r.timeout
	u.DisableOpenAPIValidation, u.CleanupOnFail, u.ServerSideApply = true, true, "auto"
	u.ForceConflicts = true // what was changed by hand is put right
	out, err := u.RunWithContext(context.WithoutCancel(ctx), releaseName(&a.Extension), a.chart, a.values())
	return released(out, err)
}

func released(out any, err error) (*release.Release, error) {
	rel, _ := out.(*release.Release)
	if err == nil && rel == nil {
		err = fmt.Errorf("a release was expected of Helm, not a %T", out)
	}
	return rel, err
}

func (r *releases) rollback(ctx context.Context, h *action.Configuration, a *accepted, to int) error {
	b := action.NewRollback(h)
	b.Version, b.MaxHistory, b.ServerSideApply, b.ForceConflicts, b.CleanupOnFail = to, kept, "auto", true, true
	b.WaitStrategy, b.WaitOptions, b.Timeout = kube.StatusWatcherStrategy, []kube.WaitOption{kube.WithWaitContext(ctx)}, r.timeout
	return b.Run(releaseName(&a.Extension))
}

func (r *releases) uninstall(ctx context.Context, h *action.Configuration, a *accepted) error {
	u := action.NewUninstall(h)
	u.IgnoreNotFound, u.DeletionPropagation = true, "foreground"
	u.WaitStrategy, u.WaitOptions, u.Timeout = kube.StatusWatcherStrategy, []kube.WaitOption{kube.WithWaitContext(ctx)}, r.timeout
	_, err := u.Run(releaseName(&a.Extension))
	return err
}

// report writes what the checks of a phase found where Azure's extension does, for
// whoever looks from inside the cluster. It is no part of the state: a failure is
// logged.
func (r *releases) report(ctx context.Context, a *accepted, phase string, found []finding) {
	text := "Status: Passed\n"
	if len(found) > 0 {
		text = ""
	}
	for _, f := range found {
		text += fmt.Sprintf("Status: Failed Name: %s ErrorCode: %s ErrorMessage: %s\n", f.checker, f.code, f.message)
	}
	maps := r.kube.typed.CoreV1().ConfigMaps(a.place)
	cm, err := maps.Get(ctx, healthReport, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		cm.Name, cm.Namespace = healthReport, a.place
		cm.Data = map[string]string{"reports-" + phase: text}
		_, err = maps.Create(ctx, cm, metav1.CreateOptions{})
	} else if err == nil {
		if cm.Data == nil {
			cm.Data = map[string]string{}
		}
		cm.Data["reports-"+phase] = text
		_, err = maps.Update(ctx, cm, metav1.UpdateOptions{})
	}
	if err != nil {
		r.log.Warn("health report not written", "namespace", a.place, "error", err)
	}
}
