package control

import (
	"slices"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const featureType = "Microsoft.Features/features"

// feature is a preview flag that scripts for Azure register. Nothing here waits
// for one.
type feature struct{ namespace, name string }

var features = []feature{{"Microsoft.ContainerService", "TrustedAccessPreview"}}

func (c *Control) featureRoutes() []*route {
	const at = "/subscriptions/{subscription}/providers/Microsoft.Features"
	const of = at + "/providers/{namespace}/features"
	r := func(method, pattern, action string, drop int, handle func(*call) (*answer, error)) *route {
		return &route{method: method, pattern: pattern, typ: featureType, versions: arm.Features, drop: drop,
			action: "Microsoft.Features/" + action, need: needSubscription, handle: handle}
	}
	return []*route{
		r("GET", at+"/features", "features/read", 3, (*call).listFeatures),
		r("GET", of, "providers/features/read", 5, (*call).listFeatures),
		r("GET", of+"/{feature}", "providers/features/read", 6, (*call).getFeature),
		r("POST", of+"/{feature}/register", "providers/features/register/action", 7, func(k *call) (*answer, error) { return k.setFeature(true) }),
		r("POST", of+"/{feature}/unregister", "providers/features/unregister/action", 7, func(k *call) (*answer, error) { return k.setFeature(false) }),
	}
}

type featureBody struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Properties map[string]string `json:"properties"`
}

// featureDelay is how long a feature shows Registering: clients written for
// Azure expect to see it and poll. Nothing waits for it.
const featureDelay = 3 * time.Second

func (f feature) full() string { return f.namespace + "/" + f.name }

// state shows Registering for a while before Registered, and Unregistering
// before Unregistered.
func (f feature) state(r *store.Registrations, now time.Time) string {
	asked, there := r.Features[trust.Fold(f.full())]
	if !there {
		return notRegistered
	}
	done, doing := unregistered, "Unregistering"
	if asked.Registered {
		done, doing = registered, registering
	}
	if now.Sub(asked.Since) < featureDelay {
		return doing
	}
	return done
}

func (k *call) bodyOfFeature(f feature, r *store.Registrations) featureBody {
	return featureBody{
		ID:   k.id.String() + "/providers/Microsoft.Features/providers/" + f.namespace + "/features/" + f.name,
		Name: f.full(), Type: "Microsoft.Features/providers/features", Properties: map[string]string{"state": f.state(r, k.Now())},
	}
}

func (k *call) listFeatures() (*answer, error) {
	r, err := k.registrations()
	if err != nil {
		return nil, err
	}
	namespace := k.vars["namespace"]
	list := []featureBody{}
	for _, f := range features {
		if namespace == "" || is(f.namespace, namespace) {
			list = append(list, k.bodyOfFeature(f, &r.Value))
		}
	}
	return ok(arm.NewList(list, "")), nil
}

// knownFeature finds the feature of the path.
func (k *call) knownFeature() (feature, error) {
	i := slices.IndexFunc(features, func(f feature) bool { return is(f.namespace, k.vars["namespace"]) && is(f.name, k.vars["feature"]) })
	if i < 0 {
		return feature{}, arm.Errorf(trust.NotFound, arm.FeatureNotFound, "The feature '%.100s' could not be found.", k.vars["feature"])
	}
	return features[i], nil
}

func (k *call) getFeature() (*answer, error) {
	f, err := k.knownFeature()
	if err != nil {
		return nil, err
	}
	r, err := k.registrations()
	if err != nil {
		return nil, err
	}
	return ok(k.bodyOfFeature(f, &r.Value)), nil
}

func (k *call) setFeature(want bool) (*answer, error) {
	f, err := k.knownFeature()
	if err != nil {
		return nil, err
	}
	r, err := k.register(func(r *store.Registrations) map[string]store.Registration { return r.Features }, f.full(), want)
	if err != nil {
		return nil, err
	}
	return ok(k.bodyOfFeature(f, r)), nil
}
