package arm

import (
	"net/url"
	"regexp"
	"strings"

	"github.com/sallyport/sallyport/trust"
)

// Versions are the api-versions that a resource type answers to. Nothing
// depends on which one a request names: unknown properties of newer ones are
// kept, and a version once listed is never dropped, because clients pin them
// for years.
type Versions struct {
	// Known, newest first. Empty means that every well-formed version is taken:
	// for types whose versions are their owners' business.
	Known []string
	// Tenant says that the type has no provider to be registered and no
	// location: an unknown version is answered as Microsoft.Resources does.
	Tenant bool
}

var versionPattern = regexp.MustCompile(`^\d{4}-(0\d|1[0-2])-([0-2]\d|3[01])(-[a-z]+)?$`)

// Check reads the api-version of a request for resourceType at a location;
// locations are all that it could be at. An error is of kind Invalid.
func (v Versions) Check(query url.Values, resourceType, location string, locations ...string) (string, error) {
	given := query["api-version"]
	if len(given) == 0 || given[0] == "" {
		return "", Errorf(trust.Invalid, MissingAPIVersionParameter, "The api-version query parameter (?api-version=) is required for all requests.")
	}
	version := given[0]
	if len(given) > 1 || !versionPattern.MatchString(strings.ToLower(version)) {
		return "", v.invalid(version)
	}
	if len(v.Known) == 0 {
		return version, nil
	}
	for _, k := range v.Known {
		if is(version, k) {
			return version, nil
		}
	}
	if v.Tenant {
		return "", v.invalid(version)
	}
	return "", Errorf(trust.Invalid, NoRegisteredProviderFound, "No registered resource provider found for location '%s' and API version '%s' for type '%s'. The supported api-versions are '%s'. The supported locations are '%s'.",
		location, version, shortType(resourceType), strings.Join(v.Known, ", "), strings.Join(locations, ", "))
}

func (v Versions) invalid(version string) error {
	if len(v.Known) == 0 {
		return Errorf(trust.Invalid, InvalidAPIVersionParameter, "The api-version '%.40s' is invalid. It must read yyyy-MM-dd or yyyy-MM-dd-preview.", version)
	}
	return Errorf(trust.Invalid, InvalidAPIVersionParameter, "The api-version '%.40s' is invalid. The supported versions are '%s'.", version, strings.Join(v.Known, ","))
}

// shortType is a type without its namespace.
func shortType(t string) string {
	_, short, _ := strings.Cut(t, "/")
	return short
}

// ContainerService are the versions of Microsoft.ContainerService: every stable
// and preview version in which trusted access existed, the older ones that
// installed clients send for managed clusters, and the ones that operation URLs
// carry.
var ContainerService = Versions{Known: strings.Fields(`
	2026-04-01 2026-03-01 2026-02-01 2026-01-01
	2025-10-01 2025-09-01 2025-08-01 2025-07-01 2025-06-01 2025-05-01 2025-04-01 2025-03-01 2025-02-01 2025-01-01
	2024-10-01 2024-09-01 2024-08-01 2024-07-01 2024-06-01 2024-05-01 2024-04-01 2024-03-01 2024-02-01 2024-01-01
	2023-11-01 2023-10-01 2023-09-01 2023-08-01 2023-07-01 2023-06-01 2023-05-01 2023-04-01 2023-03-01 2023-02-01 2023-01-01
	2022-11-01 2022-09-01 2022-08-01 2022-07-01 2022-06-01 2022-04-01 2022-03-01 2022-02-01 2022-01-01
	2021-10-01 2021-09-01 2021-08-01 2021-07-01 2021-05-01 2021-03-01 2021-02-01
	2020-12-01 2020-11-01 2020-09-01 2020-07-01 2020-06-01 2020-04-01 2020-03-01 2020-02-01 2020-01-01
	2019-11-01 2019-10-01 2019-08-01 2019-06-01 2019-04-01 2019-02-01 2018-03-31 2017-08-31
	2026-04-02-preview 2026-03-02-preview 2026-02-02-preview 2026-01-02-preview
	2025-10-02-preview 2025-09-02-preview 2025-08-02-preview 2025-07-02-preview 2025-06-02-preview 2025-05-02-preview
	2025-04-02-preview 2025-03-02-preview 2025-02-02-preview 2025-01-02-preview
	2024-10-02-preview 2024-09-02-preview 2024-08-02-preview 2024-07-02-preview 2024-06-02-preview 2024-05-02-preview
	2024-04-02-preview 2024-03-02-preview 2024-02-02-preview 2024-01-02-preview
	2023-11-02-preview 2023-10-02-preview 2023-09-02-preview 2023-08-02-preview 2023-07-02-preview 2023-06-02-preview
	2023-05-02-preview 2023-04-02-preview 2023-03-02-preview 2023-02-02-preview 2023-01-02-preview
	2022-11-02-preview 2022-10-02-preview 2022-09-02-preview 2022-08-03-preview 2022-08-02-preview 2022-07-02-preview
	2022-06-02-preview 2022-05-02-preview 2022-04-02-preview 2022-03-02-preview 2022-02-02-preview 2022-01-02-preview`)}

// OperationVersion is the api-version in the URLs of ContainerService's
// operations, as the live service writes it.
const OperationVersion = "2025-03-01"

// Resources are the versions of Microsoft.Resources: subscriptions, tenants,
// locations and resource groups.
var Resources = Versions{Tenant: true, Known: strings.Fields(`
	2025-04-01 2025-03-01 2024-11-01 2024-08-01 2024-07-01 2024-03-01 2023-07-01 2022-12-01 2022-09-01 2022-06-01 2022-05-01
	2021-04-01 2021-01-01 2020-10-01 2020-08-01 2020-06-01 2020-05-01 2020-01-01 2019-11-01 2019-10-01 2019-08-01
	2019-07-01 2019-06-01 2019-05-10 2019-05-01 2019-03-01 2018-11-01 2018-09-01 2018-08-01 2018-07-01 2018-06-01
	2018-05-01 2018-02-01 2018-01-01 2017-08-01 2017-06-01 2017-05-10 2017-05-01 2017-03-01 2016-09-01 2016-07-01
	2016-06-01 2016-02-01 2015-11-01 2015-01-01 2014-04-01`)}

// Features are the versions of Microsoft.Features.
var Features = Versions{Tenant: true, Known: strings.Fields("2021-07-01 2015-12-01 2014-08-01-preview")}

// Authorization are the versions of Microsoft.Authorization's role assignments
// and definitions.
var Authorization = Versions{Tenant: true, Known: strings.Fields(`
	2022-05-01-preview 2022-04-01 2021-04-01-preview 2020-10-01-preview 2020-08-01-preview 2020-04-01-preview 2020-03-01-preview
	2018-12-01-preview 2018-09-01-preview 2018-07-01 2018-01-01-preview 2017-10-01-preview 2015-07-01 2015-06-01 2014-10-01-preview`)}

// Locks are the versions of Microsoft.Authorization's locks.
var Locks = Versions{Tenant: true, Known: strings.Fields("2020-05-01 2017-04-01 2016-09-01 2015-01-01")}

// Insights are the versions of Microsoft.Insights' event types, which the
// activity log is read by.
var Insights = Versions{Tenant: true, Known: strings.Fields("2015-04-01 2014-04-01 2017-03-01-preview")}

// KubernetesConfiguration are the versions of Microsoft.KubernetesConfiguration's
// extensions.
var KubernetesConfiguration = Versions{Known: strings.Fields(`
	2025-03-01 2024-11-01 2023-05-01 2022-11-01 2022-07-01 2022-03-01 2021-09-01
	2024-11-01-preview 2023-05-01-preview 2022-04-02-preview 2022-01-15-preview 2022-01-01-preview 2021-11-01-preview 2021-05-01-preview 2020-07-01-preview`)}

// Kubernetes are the versions of Microsoft.Kubernetes, which is Azure Arc's.
var Kubernetes = Versions{Known: strings.Fields(`
	2024-01-01 2021-10-01 2021-03-01
	2025-08-01-preview 2024-12-01-preview 2024-07-15-preview 2024-07-01-preview 2024-06-01-preview 2024-02-01-preview 2023-11-01-preview
	2022-10-01-preview 2022-05-01-preview 2021-04-01-preview 2020-01-01-preview`)}

// Sallyport are the versions of what only Sallyport has.
var Sallyport = Versions{Known: []string{"2026-11-01"}}

// SallyportVersion is the newest of Sallyport.
const SallyportVersion = "2026-11-01"
