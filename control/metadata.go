package control

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/trust"
)

// The metadata endpoint tells clients made for Azure where the parts of a cloud
// are. It is the one route without a caller: clients ask it before they can get
// a token, and it says nothing that the server's address does not say.
const (
	metadataPath = "metadata/endpoints"
	cloudName    = "Sallyport"
)

// nowhere are the suffixes of Azure services that do not exist here. Terraform's
// provider refuses to start without them; the domain never resolves (RFC 2606).
const nowhere = "sallyport.invalid"

// metadataFor tells whether a request is one for metadata. Some clients write
// two slashes.
func metadataFor(r *http.Request) bool {
	return trust.Fold(strings.Trim(r.URL.Path, "/")) == metadataPath
}

type loginBody struct {
	LoginEndpoint    string   `json:"loginEndpoint"`
	Audiences        []string `json:"audiences"`
	Tenant           string   `json:"tenant,omitempty"`
	IdentityProvider string   `json:"identityProvider,omitempty"`
}

// cloudBody is a cloud in the form of 2019-05-01 and later. Azure's array has
// one element per cloud.
type cloudBody struct {
	Name             string            `json:"name"`
	ResourceManager  string            `json:"resourceManager"`
	Authentication   loginBody         `json:"authentication"`
	Portal           string            `json:"portal"`
	Gallery          string            `json:"gallery"`
	Graph            string            `json:"graph"`
	GraphAudience    string            `json:"graphAudience"`
	MicrosoftGraph   string            `json:"microsoftGraphResourceId"`
	Batch            string            `json:"batch"`
	Media            string            `json:"media"`
	SQLManagement    string            `json:"sqlManagement"`
	ImageAliases     string            `json:"vmImageAliasDoc"`
	DataLakeAudience string            `json:"activeDirectoryDataLake"`
	LogAnalytics     string            `json:"logAnalyticsResourceId"`
	Suffixes         map[string]string `json:"suffixes"`
}

// metadata is the cloud in the shape of an api-version: an object as of
// 2015-01-01, clouds by name as of 2018, an array as of 2019 to 2021, and one
// object with the array's members from 2022-09-01 on, as Terraform reads it.
//
// What Azure has and Sallyport has not (Graph, Batch, …) is the server itself:
// Terraform's provider asks for a token for Graph before anything else and only
// reads who it is for.
func (c *Control) metadata(version string) any {
	login := loginBody{LoginEndpoint: c.BaseURL, Audiences: []string{c.BaseURL, c.BaseURL + "/"}, Tenant: "common", IdentityProvider: "AAD"}
	switch {
	case version < "2018":
		login.Tenant, login.IdentityProvider = "", ""
		return map[string]any{"galleryEndpoint": c.BaseURL, "graphEndpoint": c.BaseURL, "portalEndpoint": c.BaseURL, "authentication": login}
	case version < "2019":
		return map[string]any{"cloudEndpoint": map[string]any{cloudName: map[string]any{"endpoint": strings.TrimPrefix(c.BaseURL, "https://"), "locations": c.locationNames()}}}
	}
	one := cloudBody{
		Name: cloudName, ResourceManager: c.BaseURL, Authentication: login, Portal: c.BaseURL, Gallery: c.BaseURL, Graph: c.BaseURL, GraphAudience: c.BaseURL,
		MicrosoftGraph: c.BaseURL, Batch: c.BaseURL, Media: c.BaseURL, SQLManagement: c.BaseURL, ImageAliases: c.BaseURL, DataLakeAudience: c.BaseURL, LogAnalytics: c.BaseURL,
		Suffixes: map[string]string{},
	}
	for _, s := range []string{"storage", "storageSyncEndpointSuffix", "keyVaultDns", "mhsmDns", "acrLoginServer", "sqlServerHostname", "mysqlServerEndpoint",
		"mariadbServerEndpoint", "postgresqlServerEndpoint", "azureDataLakeStoreFileSystem", "azureDataLakeAnalyticsCatalogAndJob",
		"synapseAnalytics", "attestationEndpoint", "azureFrontDoorEndpointSuffix"} {
		one.Suffixes[s] = nowhere
	}
	if version < "2022" {
		return []cloudBody{one}
	}
	return one
}

func (c *Control) locationNames() []string {
	var names []string
	for _, l := range c.Locations {
		names = append(names, arm.NormalLocation(l))
	}
	return names
}

// serveMetadata answers anybody.
func (c *Control) serveMetadata(w http.ResponseWriter, r *http.Request) {
	ids := arm.NewRequestIDs(r.Header, newUID())
	ids.Write(w.Header(), c.Location, c.Now())
	status, body := http.StatusOK, any(nil)
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		status, body = arm.Translate(arm.Errorf(trust.Unsupported, arm.MethodNotAllowed, "The requested resource does not support http method '%.20s'.", r.Method))
	} else if version, err := (arm.Versions{}).Check(r.URL.Query(), "", c.Location); err != nil {
		status, body = arm.Translate(err)
	} else {
		body = c.metadata(version)
	}
	data, err := json.Marshal(body)
	if err != nil {
		http.Error(w, "", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", arm.ContentType)
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(data) // the client is gone: nothing to do
	}
}
