package arm

import (
	"net/http"
	"net/url"

	"github.com/sallyport/sallyport/trust"
)

// Call is a request to a resource provider that the control API's front has
// let through: the caller is known and may do this, api-version, subscription,
// registration and group have been checked, and the tracked resource that the
// id lies in exists.
type Call struct {
	Method string
	ID     ID     // the resource; of a list, what the listed lie in
	Type   string // "Namespace/type[/type…]" of the resource, or of the listed
	List   bool
	Action string // of a POST, "" otherwise

	Caller    trust.Caller
	RequestID string // GUID, of this request and of an operation that it starts
	Version   string
	Location  string // of this server
	Base      string // "https://host:port" of this server
	URL       *url.URL
	Header    http.Header
	Body      []byte // of PUT, PATCH and POST, at most MaxBody bytes
}

// SystemData is who made and last changed a resource.
type SystemData struct {
	CreatedBy          string `json:"createdBy,omitempty"`
	CreatedByType      string `json:"createdByType,omitempty"`
	CreatedAt          string `json:"createdAt,omitempty"`
	LastModifiedBy     string `json:"lastModifiedBy,omitempty"`
	LastModifiedByType string `json:"lastModifiedByType,omitempty"`
	LastModifiedAt     string `json:"lastModifiedAt,omitempty"`
}

// Answer is what a resource provider has sent. Errors are returned beside it.
type Answer struct {
	Status int
	Body   any // encoded as JSON; nil: no body
	Header http.Header
}

// ProvidedType is a resource type that a provider serves below a tracked one.
type ProvidedType struct {
	Type     string   // "workspaces/computes", without the namespace
	Methods  []string // of one resource: GET, PUT, PATCH, DELETE; lists come with GET
	Actions  []string // POST …/<name>/<action>
	Versions Versions
}

// MachineLearning are the versions of Microsoft.MachineLearningServices.
var MachineLearning = Versions{Known: []string{
	"2025-12-01", "2025-09-01", "2025-06-01", "2024-10-01", "2024-04-01", "2023-10-01", "2023-04-01", "2022-10-01", "2022-05-01",
	"2025-10-01-preview", "2025-07-01-preview", "2025-04-01-preview", "2025-01-01-preview", "2024-10-01-preview", "2024-07-01-preview",
	"2024-04-01-preview", "2024-01-01-preview", "2023-08-01-preview", "2023-06-01-preview", "2023-04-01-preview", "2023-02-01-preview",
	"2022-12-01-preview", "2022-10-01-preview", "2022-06-01-preview", "2022-02-01-preview", "2021-07-01", "2021-04-01", "2020-08-01"}}
