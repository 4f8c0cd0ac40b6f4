package control

import (
	"errors"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/extension"
	"github.com/sallyport/sallyport/trust"
)

const extensionTypeType = "Microsoft.KubernetesConfiguration/extensionTypes"

// The types of extensions that there are, at a cluster and at a location, as az
// k8s-extension extension-types asks for them. They are the same everywhere.
func (c *Control) extensionTypeRoutes() []*route {
	var all []*route
	add := func(at string, drop int, need need) {
		r := func(pattern, action string, drop int, handle func(*call) (*answer, error)) {
			all = append(all, &route{method: "GET", pattern: at + pattern, typ: extensionTypeType, versions: arm.KubernetesConfiguration, drop: drop,
				action: action, need: need | needSubscription, handle: handle})
		}
		const read, versions = extensionTypeType + "/read", extensionTypeType + "/versions/read"
		r("", read, drop, (*call).listExtensionTypes)
		r("/{extensionType}", read, drop+1, (*call).getExtensionType)
		r("/{extensionType}/versions", versions, drop+2, (*call).listExtensionVersions)
		r("/{extensionType}/versions/{version}", versions, drop+3, (*call).getExtensionVersion)
	}
	add("/subscriptions/{subscription}/providers/"+extensionSpace+"/locations/{location}/extensionTypes", 5, 0)
	for _, cluster := range []string{clusterType, connectedType} {
		add("/subscriptions/{subscription}/resourceGroups/{group}/providers/"+cluster+"/{cluster}/providers/"+extensionTypeType, 3, needGroup|needCluster)
	}
	return all
}

type extensionTypeBody struct {
	ID         string                  `json:"id"`
	Name       string                  `json:"name"`
	Type       string                  `json:"type"`
	Properties extensionTypeProperties `json:"properties"`
}

type extensionTypeProperties struct {
	System       bool            `json:"isSystemExtension"`
	Identity     bool            `json:"isManagedIdentityRequired"`
	Publisher    string          `json:"publisher"`
	Scopes       supportedScopes `json:"supportedScopes"`
	ClusterTypes []string        `json:"supportedClusterTypes"`
	Trains       []string        `json:"releaseTrains"`
}

type supportedScopes struct {
	Default string `json:"defaultScope"` // cluster, namespace
	Cluster struct {
		Multiple  bool   `json:"allowMultipleInstances"`
		Namespace string `json:"defaultReleaseNamespace"`
	} `json:"clusterScopeSettings"`
}

// bodyOfExtensionType shows a type as the path names where it is asked for.
func (k *call) bodyOfExtensionType(t *extension.Type) extensionTypeBody {
	p := extensionTypeProperties{Publisher: t.Name[:strings.LastIndexByte(t.Name, '.')], ClusterTypes: []string{"managedClusters", "connectedClusters"}, Trains: t.Trains}
	p.Scopes.Default, p.Scopes.Cluster.Namespace = "cluster", t.ReleaseNamespace
	return extensionTypeBody{ID: k.typesPath() + "/" + t.Name, Name: t.Name, Type: extensionTypeType, Properties: p}
}

// typesPath is where the types are listed that the path is about.
func (k *call) typesPath() string {
	i := slices.IndexFunc(k.path, func(s string) bool { return is(s, "extensionTypes") })
	return "/" + strings.Join(k.path[:i], "/") + "/extensionTypes"
}

// extensionType finds the type of the path.
func (k *call) extensionType() (extension.Type, error) {
	t, err := extension.Find(k.vars["extensionType"])
	if err != nil {
		e := trust.Errorf(trust.NotFound, "%s", err)
		if as := (*trust.Error)(nil); errors.As(err, &as) {
			e.Code, e.Message, e.Hint = as.Code, as.Message, as.Hint
		}
		return t, e
	}
	return t, nil
}

// knownPlace refuses a location that there is not.
func (k *call) knownPlace() error {
	if l, named := k.vars["location"]; named {
		if _, known := k.knownLocation(l); !known {
			return arm.Errorf(trust.Invalid, arm.LocationNotAvailable, "The provided location '%.64s' is not available for resource type '%s'. List of available regions for the resource type is '%s'.", l, extensionTypeType, joined(k.Locations))
		}
	}
	return nil
}

func (k *call) listExtensionTypes() (*answer, error) {
	var list []extensionTypeBody
	for _, t := range extension.Types() {
		if train := k.request.URL.Query().Get("releaseTrain"); train != "" {
			if _, err := t.Train(train); err != nil {
				continue
			}
		}
		list = append(list, k.bodyOfExtensionType(&t))
	}
	return ok(arm.NewList(list, "")), k.knownPlace()
}

func (k *call) getExtensionType() (*answer, error) {
	t, err := k.extensionType()
	if err == nil {
		err = k.knownPlace()
	}
	if err != nil {
		return nil, err
	}
	return ok(k.bodyOfExtensionType(&t)), nil
}

type extensionVersionBody struct {
	ID         string                     `json:"id"`
	Name       string                     `json:"name"`
	Type       string                     `json:"type"`
	Properties extensionVersionProperties `json:"properties"`
}

type extensionVersionProperties struct {
	Version     string              `json:"version"`
	Unsupported map[string][]string `json:"unsupportedKubernetesVersions"`
}

// bodyOfExtensionVersion shows the one version that a type has.
func (k *call) bodyOfExtensionVersion(t *extension.Type) extensionVersionBody {
	return extensionVersionBody{ID: k.typesPath() + "/" + t.Name + "/versions/" + t.Version, Name: t.Version, Type: extensionTypeType + "/versions",
		Properties: extensionVersionProperties{Version: t.Version, Unsupported: map[string][]string{}}}
}

func (k *call) listExtensionVersions() (*answer, error) {
	t, err := k.extensionType()
	if err == nil {
		err = k.knownPlace()
	}
	if err != nil {
		return nil, err
	}
	list := []extensionVersionBody{k.bodyOfExtensionVersion(&t)}
	query := k.request.URL.Query()
	major, _, _ := strings.Cut(t.Version, ".")
	if m := query.Get("majorVersion"); m != "" && m != major {
		list = list[:0]
	}
	if train := query.Get("releaseTrain"); train != "" {
		if _, err := t.Train(train); err != nil {
			list = list[:0]
		}
	}
	return ok(arm.NewList(list, "")), nil
}

func (k *call) getExtensionVersion() (*answer, error) {
	t, err := k.extensionType()
	if err == nil {
		err = k.knownPlace()
	}
	if err != nil {
		return nil, err
	}
	if k.vars["version"] != t.Version {
		return nil, arm.Errorf(trust.NotFound, "ExtensionTypeVersionNotFound", "The extension type '%s' has no version '%.64s'. There is: %s.", t.Name, k.vars["version"], t.Version)
	}
	return ok(k.bodyOfExtensionVersion(&t)), nil
}
