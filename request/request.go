package request

import (
	"net/http"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/sallyport/sallyport/trust"
)

// The upgrades that Kubernetes speaks, as sent in the Upgrade header.
const (
	WebSocket = "websocket"
	SPDY      = "SPDY/3.1"
)

// Request is one Kubernetes request, parsed.
type Request struct {
	Method     string // of the original request, an upgrade's too
	Target     Target
	Attributes trust.Attributes
	Upgrade    string // WebSocket, SPDY, or "" for an ordinary request
	Stream     bool   // runs until somebody ends it: watch, followed log, exec, attach, portforward, any upgrade
}

var resolver = apirequest.RequestInfoFactory{
	APIPrefixes:          sets.NewString("api", "apis"),
	GrouplessAPIPrefixes: sets.NewString("api"),
}

// Parse cleans and reads a request: its method, its target in origin-form and
// what it upgrades to (see Upgrade). The attributes are those that the API
// server authorizes (k8s.io/apiserver's RequestInfoFactory on the same path),
// with one difference: exec, attach and port-forward are always "create",
// whatever the method, since a WebSocket GET runs commands just as a POST does.
func Parse(method, uri, upgrade string) (*Request, error) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
	default:
		return nil, trust.Errorf(trust.Unsupported, "method %.20q is not one of the Kubernetes API's", method)
	}
	target, err := ParseTarget(uri)
	if err != nil {
		return nil, err
	}
	// What reads the request is given what the API server will be given.
	probe := http.Request{Method: method, URL: &url.URL{Path: target.Path, RawPath: target.Raw, RawQuery: target.Query}}
	if target.Loose {
		probe.URL.RawQuery = "" // the service's own
	}
	info, err := resolver.NewRequestInfo(&probe)
	if err != nil {
		return nil, trust.Errorf(trust.Invalid, "the path is neither a resource's nor another path of the Kubernetes API").Because(err)
	}
	if target.Loose != (info.IsResourceRequest && info.Subresource == "proxy") {
		return nil, trust.Errorf(trust.Invalid, "the path has two readings")
	}
	if info.Verb == "" {
		return nil, trust.Errorf(trust.Unsupported, "method %q has no verb on this path", method)
	}
	r := &Request{
		Method: method, Target: target, Upgrade: upgrade,
		Attributes: trust.Attributes{
			Verb: info.Verb, APIGroup: info.APIGroup, APIVersion: info.APIVersion,
			Namespace: info.Namespace, Resource: info.Resource, Subresource: info.Subresource,
			Name: info.Name, Path: info.Path, ResourceRequest: info.IsResourceRequest,
		},
	}
	if shell(r.Attributes) {
		r.Attributes.Verb = "create"
		r.Stream = true
	}
	if upgrade != "" || info.Verb == "watch" || followsLog(info, target.Query) {
		r.Stream = true
	}
	return r, nil
}

// shell reports whether the request opens a connection into a workload.
func shell(a trust.Attributes) bool {
	if !a.ResourceRequest {
		return false
	}
	switch a.Subresource {
	case "exec", "attach", "portforward":
		return true
	}
	return false
}

func followsLog(info *apirequest.RequestInfo, query string) bool {
	if info.Subresource != "log" || query == "" {
		return false
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return true
	}
	// As Kubernetes reads a bool parameter: absent, "false" and "0" are false.
	switch v, ok := values["follow"]; {
	case !ok:
		return false
	case len(v) > 0 && (strings.EqualFold(v[0], "false") || v[0] == "0"):
		return false
	}
	return true
}

// Redacted is the request target as it may be written down: what an exec runs
// and what is asked of a proxied service are replaced.
func (r *Request) Redacted() string {
	if r.Target.Query == "" {
		return r.Target.Raw
	}
	if r.Target.Loose {
		return r.Target.Raw + "?redacted"
	}
	if r.Attributes.Subresource != "exec" {
		return r.Target.URI()
	}
	var b strings.Builder
	b.WriteString(r.Target.Raw)
	sep := byte('?')
	for pair := range strings.SplitSeq(r.Target.Query, "&") {
		key, _, _ := strings.Cut(pair, "=")
		if name, err := url.QueryUnescape(key); err != nil || name == "command" {
			pair = "command=redacted"
		}
		b.WriteByte(sep)
		b.WriteString(pair)
		sep = '&'
	}
	return b.String()
}
