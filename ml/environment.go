package ml

import (
	"encoding/json"
	"net/http"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// An environment is a container image by a name and a version. A version never
// changes, so that a job that names it is the same job later.

var assetName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}$`)

type environmentBody struct {
	Image       string
	Build       json.RawMessage
	CondaFile   string
	IsArchived  bool
	IsAnonymous bool
	// InferenceConfig is where a model server in the image answers.
	InferenceConfig *inferenceConfig
}

type inferenceConfig struct{ ScoringRoute, LivenessRoute, ReadinessRoute *routeBody }

type routeBody struct {
	Path string
	Port int
}

// check of routes, so that what names the environment need not.
func (c *inferenceConfig) check() error {
	if c == nil {
		return nil
	}
	for name, r := range map[string]*routeBody{"scoringRoute": c.ScoringRoute, "livenessRoute": c.LivenessRoute, "readinessRoute": c.ReadinessRoute} {
		if r == nil {
			continue
		}
		if !routePath.MatchString(r.Path) || r.Port < 1 || r.Port > 65535 {
			return arm.BadParameter("properties.inferenceConfig."+name, "it needs a path that begins with '/' and a port from 1 to 65535")
		}
	}
	return nil
}

var routePath = regexp.MustCompile(`^/[A-Za-z0-9._~!$&'()*+,;=:@%/-]{0,1000}$`)

func (k *call) putEnvironment() (*arm.Answer, error) {
	b, err := k.decode()
	if err != nil {
		return nil, err
	}
	container := k.ID.Parent()
	for _, n := range []string{container.Name(), k.ID.Name()} {
		if !assetName.MatchString(n) {
			return nil, arm.BadParameter("name", "'%.100s' must have 1 to 255 letters, digits, '_', '-' and '.'", n)
		}
	}
	var e environmentBody
	if err := json.Unmarshal(b.Properties, &e); err != nil {
		return nil, arm.BadParameter("properties", "a member has the wrong type")
	}
	switch {
	case len(e.Build) > 0 && string(e.Build) != "null":
		return nil, arm.BadParameter("properties.build", "images are not built here: build it, push it, and name it as image")
	case e.CondaFile != "":
		return nil, arm.BadParameter("properties.condaFile", "images are not built here: put the packages into an image, and name it as image")
	case !validImage(e.Image):
		return nil, arm.BadParameter("properties.image", "'%.200s' is not an image reference", e.Image)
	}
	if err := e.InferenceConfig.check(); err != nil {
		return nil, err
	}
	old, write, err := k.old()
	if err != nil {
		return nil, err
	}
	status := http.StatusCreated
	if old.Revision != 0 {
		var was environmentBody
		if err := json.Unmarshal(old.Value.Properties, &was); err != nil {
			return nil, trust.Errorf(trust.Internal, "a stored environment cannot be read").Because(err)
		}
		if was.Image != e.Image {
			return nil, arm.Errorf(trust.Conflict, arm.Conflict, "Version %s of the environment '%s' names the image %s and cannot name another. Make a new version.", k.ID.Name(), container.Name(), was.Image)
		}
		if !reflect.DeepEqual(was.InferenceConfig, e.InferenceConfig) {
			return nil, arm.Errorf(trust.Conflict, arm.Conflict, "Version %s of the environment '%s' has another inferenceConfig, which cannot change. Make a new version.", k.ID.Name(), container.Name())
		}
		status = http.StatusOK
	}
	r := k.record(old, b)
	r.State = arm.Succeeded
	ops, err := k.containerOf(container, environments)
	if err != nil {
		return nil, err
	}
	if err := k.commit(append(ops, write(r))...); err != nil {
		return nil, err
	}
	return k.shown(status, &store.Item[store.Provided]{Value: r})
}

// validImage is loose: the cluster's runtime has the last word.
func validImage(s string) bool {
	return s != "" && len(s) <= 1024 && imagePattern.MatchString(s)
}

var imagePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._/:@-]*[a-zA-Z0-9]$`)

// putContainer makes the name without a version, or archives it.
func (k *call) putContainer() (*arm.Answer, error) {
	b, err := k.decode()
	if err != nil {
		return nil, err
	}
	if !assetName.MatchString(k.ID.Name()) {
		return nil, arm.BadParameter("name", "'%.100s' must have 1 to 255 letters, digits, '_', '-' and '.'", k.ID.Name())
	}
	old, write, err := k.old()
	if err != nil {
		return nil, err
	}
	r, status := k.record(old, b), http.StatusCreated
	r.State = arm.Succeeded
	if old.Revision != 0 {
		status = http.StatusOK
	}
	if r.Properties, err = overlay(r.Properties, []string{"latestVersion", "nextVersion", "provisioningState"}, nil); err != nil {
		return nil, err
	}
	if err := k.commit(write(r)); err != nil {
		return nil, err
	}
	return k.shown(status, &store.Item[store.Provided]{Value: r})
}

// showContainer adds the newest version, by number where they are numbers.
func (k *call) showContainer(r *store.Provided, set map[string]any) error {
	all, _, err := store.List[store.Provided](k.ctx, k.Store, store.ProvidedKey(r.ID)+"/"+versions+"/")
	if err != nil {
		return err
	}
	var latest *store.Provided
	highest := 0
	for i := range all {
		v := &all[i].Value
		if v.Parent != k.workspace.Created {
			continue
		}
		if latest == nil || v.Stamp.CreatedAt.After(latest.Stamp.CreatedAt) {
			latest = v
		}
		if n, err := strconv.Atoi(v.ID[strings.LastIndexByte(v.ID, '/')+1:]); err == nil {
			highest = max(highest, n)
		}
	}
	set["provisioningState"], set["nextVersion"] = r.State, strconv.Itoa(highest+1)
	if latest != nil {
		set["latestVersion"] = latest.ID[strings.LastIndexByte(latest.ID, '/')+1:]
	}
	return nil
}

// removeContainer removes an asset with all its versions.
func (k *call) removeContainer() (*arm.Answer, error) {
	all, revision, err := store.List[store.Provided](k.ctx, k.Store, store.ProvidedKey(k.ID.String()))
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return &arm.Answer{Status: http.StatusNoContent}, nil
	}
	var ops []store.Op
	for i := range all {
		ops = append(ops, store.Delete(all[i].Value.Key(), all[i].Revision))
	}
	ops = append(ops, store.Quiet(store.ProvidedKey(k.ID.String())+"/", revision))
	if err := k.commit(ops...); err != nil {
		return nil, err
	}
	return &arm.Answer{Status: http.StatusOK}, nil
}

func (k *call) removeVersion() (*arm.Answer, error) {
	item, err := k.find()
	if trust.KindOf(err) == trust.NotFound {
		return &arm.Answer{Status: http.StatusNoContent}, nil
	}
	if err == nil {
		err = k.conditions(item.Revision)
	}
	if err == nil {
		err = k.commit(store.Delete(item.Value.Key(), item.Revision))
	}
	if err != nil {
		return nil, err
	}
	return &arm.Answer{Status: http.StatusOK}, nil
}

// image resolves an environment's id to its image.
func (k *call) image(id string) (string, error) {
	e, err := k.environment(id)
	return e.Image, err
}

// environment reads the one of an id.
func (k *call) environment(environment string) (e environmentBody, err error) {
	bad := func(format string, args ...any) error {
		return arm.BadParameter("properties.environmentId", format, args...)
	}
	id, err := arm.ParseID(environment)
	if err != nil || !arm.SameID(id.Type(), Namespace+"/"+Tracked+"/"+environments+"/"+versions) {
		return e, bad("'%.300s' is not the id of an environment's version", environment)
	}
	if workspaceOf(environment) != trust.Fold(k.workspace.Value.ID) {
		return e, bad("the environment is of another workspace")
	}
	item, err := k.at(id)
	if trust.KindOf(err) == trust.NotFound {
		return e, bad("version %s of the environment '%s' does not exist", id.Name(), id.Parent().Name())
	}
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(item.Value.Properties, &e); err != nil {
		return e, trust.Errorf(trust.Internal, "a stored environment cannot be read").Because(err)
	}
	return e, nil
}
