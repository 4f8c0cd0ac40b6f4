package control

import (
	"net/http"
	"slices"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const (
	featureType             = "Microsoft.Features/features"
	featureRegistrationType = "Microsoft.Features/featureProviders/subscriptionFeatureRegistrations"
)

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
	const kept = at + "/featureProviders/{namespace}/subscriptionFeatureRegistrations"
	registration := func(method, pattern, action string, drop int, handle func(*call) (*answer, error)) *route {
		rt := r(method, pattern, action, drop, handle)
		rt.typ = featureRegistrationType
		return rt
	}
	const right = "featureProviders/subscriptionFeatureRegistrations/"
	return []*route{
		registration("GET", at+"/subscriptionFeatureRegistrations", "subscriptionFeatureRegistrations/read", 3, (*call).listFeatureRegistrations),
		registration("GET", kept, right+"read", 5, (*call).listFeatureRegistrations),
		registration("GET", kept+"/{feature}", right+"read", 6, (*call).getFeatureRegistration),
		registration("PUT", kept+"/{feature}", right+"write", 6, (*call).putFeatureRegistration),
		registration("DELETE", kept+"/{feature}", right+"delete", 6, (*call).removeFeatureRegistration),
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
	f, r, err := k.changeFeature(want)
	if err != nil {
		return nil, err
	}
	return ok(k.bodyOfFeature(f, r)), nil
}

// changeFeature registers the feature of the path, or takes that back.
func (k *call) changeFeature(want bool) (feature, *store.Registrations, error) {
	f, err := k.knownFeature()
	if err != nil {
		return f, nil, err
	}
	r, err := k.register(func(r *store.Registrations) map[string]store.Registration { return r.Features }, f.full(), want)
	return f, r, err
}

// The same registrations as resources: what az feature registration asks for.
// Those that nobody registered, and those given up, are not there.

type featureRegistrationBody struct {
	ID         string                        `json:"id"`
	Name       string                        `json:"name"`
	Type       string                        `json:"type"`
	Properties featureRegistrationProperties `json:"properties"`
}

type featureRegistrationProperties struct {
	TenantID       string `json:"tenantId"`
	SubscriptionID string `json:"subscriptionId"`
	FeatureName    string `json:"featureName"`
	DisplayName    string `json:"displayName"`
	Namespace      string `json:"providerNamespace"`
	State          string `json:"state"`
	ApprovalType   string `json:"approvalType"`
	Since          string `json:"registrationDate,omitempty"`
}

// registrationOf shows a feature's registration; false if there is none.
func (k *call) registrationOf(f feature, r *store.Registrations) (featureRegistrationBody, bool) {
	asked := r.Features[trust.Fold(f.full())]
	return featureRegistrationBody{
		ID:   k.id.String() + "/providers/Microsoft.Features/featureProviders/" + f.namespace + "/subscriptionFeatureRegistrations/" + f.name,
		Name: f.name, Type: featureRegistrationType, Properties: featureRegistrationProperties{
			TenantID: k.Tenant, SubscriptionID: r.Subscription, FeatureName: f.name, DisplayName: f.name, Namespace: f.namespace,
			State: f.state(r, k.Now()), ApprovalType: "AutoApproval", Since: arm.Time(asked.Since),
		}}, asked.Registered
}

func (k *call) listFeatureRegistrations() (*answer, error) {
	r, err := k.registrations()
	if err != nil {
		return nil, err
	}
	list := []featureRegistrationBody{}
	for _, f := range features {
		if b, there := k.registrationOf(f, &r.Value); there && (k.vars["namespace"] == "" || is(f.namespace, k.vars["namespace"])) {
			list = append(list, b)
		}
	}
	return ok(arm.NewList(list, "")), nil
}

func (k *call) getFeatureRegistration() (*answer, error) {
	f, err := k.knownFeature()
	if err != nil {
		return nil, err
	}
	r, err := k.registrations()
	if err != nil {
		return nil, err
	}
	b, there := k.registrationOf(f, &r.Value)
	if !there {
		return nil, arm.Errorf(trust.NotFound, arm.ResourceNotFound, "The feature '%s' is not registered in the subscription.", f.full())
	}
	return ok(b), nil
}

func (k *call) putFeatureRegistration() (*answer, error) {
	f, r, err := k.changeFeature(true)
	if err != nil {
		return nil, err
	}
	b, _ := k.registrationOf(f, r)
	return ok(b), nil
}

func (k *call) removeFeatureRegistration() (*answer, error) {
	f, err := k.knownFeature()
	if err != nil {
		return nil, err
	}
	r, err := k.registrations()
	if err != nil {
		return nil, err
	}
	if _, there := k.registrationOf(f, &r.Value); !there {
		return empty(http.StatusNoContent), nil
	}
	if _, _, err := k.changeFeature(false); err != nil {
		return nil, err
	}
	return empty(http.StatusOK), nil
}
