package arm

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/trust"
)

func TestTranslate(t *testing.T) {
	id := mustID(t, cluster)
	tests := []struct {
		err     error
		status  int
		code    string
		message string
	}{
		{Errorf(trust.Invalid, InvalidParameter, "m"), 400, "InvalidParameter", "m"},
		{trust.Errorf(trust.Unauthenticated, "m"), 401, "AuthenticationFailed", "m"},
		{NotAuthorized("c", "o", "N/t/write", "/s"), 403, "AuthorizationFailed", "The client 'c' with object id 'o' does not have authorization to perform action 'N/t/write' over scope '/s' or the scope is invalid. If access was recently granted, please refresh your credentials."},
		{NoResource(id), 404, "ResourceNotFound", "The Resource 'Microsoft.ContainerService/managedClusters/Blue' under resource group 'rg-1' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix"},
		{NoResource(id.GroupID()), 404, "ResourceGroupNotFound", "Resource group 'rg-1' could not be found."},
		{NoResource(id.SubscriptionID()), 404, "SubscriptionNotFound", "The subscription '0B1f6471-1bf0-4dda-aec3-111122223333' could not be found."},
		{NoParent(id), 404, "ParentResourceNotFound", "Can not perform requested operation on nested resource. Parent resource 'Blue' not found."},
		{trust.Errorf(trust.Exists, "m"), 409, "Conflict", "m"},
		{trust.Errorf(trust.Conflict, "m"), 409, "Conflict", "m"},
		{trust.Errorf(trust.Precondition, "m"), 412, "PreconditionFailed", "m"},
		{trust.Errorf(trust.TooLarge, "m"), 413, "RequestEntityTooLarge", "m"},
		{trust.Errorf(trust.Throttled, "m"), 429, "TooManyRequests", "m"},
		{trust.Errorf(trust.Unsupported, "m"), 400, "NotSupported", "m"},
		{Errorf(trust.Unsupported, MethodNotAllowed, "m"), 405, "MethodNotAllowed", "m"},
		{trust.Errorf(trust.Unavailable, "m"), 503, "ServiceUnavailable", "m"},
		{trust.Errorf(trust.Timeout, "m"), 504, "GatewayTimeout", "m"},
		{BadParameter("properties.roles", "non-exist role: X"), 400, "InvalidParameter", "The value of parameter properties.roles is invalid. Error details: non-exist role: X. Please see https://aka.ms/aks-naming-rules for more details."},
	}
	for _, tt := range tests {
		status, body := Translate(tt.err)
		if status != tt.status || body.Error.Code != tt.code || body.Error.Message != tt.message {
			t.Errorf("%v: %d %+v, want %d %s %q", tt.err, status, body.Error, tt.status, tt.code, tt.message)
		}
	}
	for _, err := range []error{io.EOF, trust.Errorf(trust.Internal, "secret text"), errors.Join(io.EOF, trust.Errorf(trust.Internal, "secret text"))} {
		if status, body := Translate(err); status != 500 || strings.Contains(body.Error.Message, "secret") || strings.Contains(body.Error.Message, "EOF") {
			t.Errorf("%v: %d %+v", err, status, body)
		}
	}
	hinted := trust.Errorf(trust.Invalid, "m").Because(io.EOF)
	hinted.Hint = "type this"
	if _, body := Translate(hinted); len(body.Error.AdditionalInfo) != 1 || body.Error.AdditionalInfo[0].Info["hint"] != "type this" || strings.Contains(body.Error.Message, "EOF") {
		t.Errorf("%+v", body)
	}
}

func TestVersions(t *testing.T) {
	// azure-wire 1.4 and 2.1: what clients in the field send.
	for _, v := range []string{"2023-09-01", "2023-10-01", "2023-11-01", "2024-01-01", "2024-02-01", "2024-05-01", "2024-07-01", "2024-08-01", "2024-09-01", "2024-10-01",
		"2025-01-01", "2025-02-01", "2025-03-01", "2025-08-01", "2025-09-01", "2025-10-01", "2026-01-01", "2026-02-01", "2026-03-01", "2026-04-01", "2017-08-31",
		"2022-04-02-preview", "2022-11-02-preview", "2023-03-02-preview", "2023-08-02-preview", "2025-01-02-preview", "2022-11-01", "2023-08-02-PREVIEW"} {
		if _, err := ContainerService.Check(url.Values{"api-version": {v}}, "Microsoft.ContainerService/managedClusters", "local"); err != nil {
			t.Errorf("%s: %v", v, err)
		}
	}
	tests := []struct {
		versions Versions
		query    url.Values
		code     string
	}{
		{ContainerService, nil, MissingAPIVersionParameter},
		{ContainerService, url.Values{"api-version": {""}}, MissingAPIVersionParameter},
		{ContainerService, url.Values{"api-version": {"v1"}}, InvalidAPIVersionParameter},
		{ContainerService, url.Values{"api-version": {"2025-02-01", "2024-01-01"}}, InvalidAPIVersionParameter},
		{ContainerService, url.Values{"api-version": {"2001-01-01"}}, NoRegisteredProviderFound},
		{Resources, url.Values{"api-version": {"2001-01-01"}}, InvalidAPIVersionParameter},
		{Versions{}, url.Values{"api-version": {"2001-01-01"}}, ""},
		{Versions{}, url.Values{"api-version": {"2001-13-01"}}, InvalidAPIVersionParameter},
		{Versions{}, url.Values{"api-version": {"2001-01-01 "}}, InvalidAPIVersionParameter},
	}
	for _, tt := range tests {
		_, err := tt.versions.Check(tt.query, "Microsoft.ContainerService/managedClusters", "local")
		var e *trust.Error
		switch {
		case tt.code == "" && err != nil:
			t.Errorf("%v: %v", tt.query, err)
		case tt.code != "" && (!errors.As(err, &e) || e.Code != tt.code || e.Kind != trust.Invalid):
			t.Errorf("%v: %v, want %s", tt.query, err, tt.code)
		}
	}
	_, err := ContainerService.Check(url.Values{"api-version": {"2001-01-01"}}, "Microsoft.ContainerService/managedClusters", "west")
	if want := "No registered resource provider found for location 'west' and API version '2001-01-01' for type 'managedClusters'. The supported api-versions are '2026-04-01, "; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v", err)
	}
}

func TestRequestIDsAndHeaders(t *testing.T) {
	const fresh, corr = "11111111-0000-4000-8000-000000000000", "22222222-0000-4000-8000-000000000000"
	in := http.Header{}
	in.Set("x-ms-correlation-request-id", corr)
	in.Set("x-ms-client-request-id", "abc")
	out := http.Header{}
	NewRequestIDs(in, fresh).Write(out, "West Europe", time.Date(2026, 11, 22, 5, 6, 7, 0, time.UTC))
	for k, want := range map[string]string{
		"X-Ms-Request-Id": fresh, "X-Ms-Correlation-Request-Id": corr, "X-Ms-Client-Request-Id": "abc",
		"X-Ms-Routing-Request-Id": "WESTEUROPE:20261122T050607Z:" + corr, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff",
		"Strict-Transport-Security": "max-age=31536000; includeSubDomains", "Pragma": "no-cache", "Expires": "-1",
	} {
		if got := out.Get(k); got != want {
			t.Errorf("%s: %q, want %q", k, got, want)
		}
	}
	in.Set("x-ms-correlation-request-id", "x\r\ny")
	in.Set("x-ms-client-request-id", strings.Repeat("a", 500))
	if ids := NewRequestIDs(in, fresh); ids.Correlation != fresh || ids.Client != "" {
		t.Errorf("%+v", ids)
	}
	if c := Challenge("https://h/t", "invalid_token", "a \"b\"\r\n"); c != `Bearer authorization_uri="https://h/t", error="invalid_token", error_description="a b"` {
		t.Error(c)
	}
	for in, want := range map[string]string{"Bearer x.y": "x.y", "bearer  x": "x", "Basic x": "", "Bearer": "", "Bearer ": "", "": ""} {
		h := http.Header{}
		if in != "" {
			h.Set("Authorization", in)
		}
		if got, ok := Bearer(h); got != want || ok != (want != "") {
			t.Errorf("%q: %q", in, got)
		}
	}
	if _, ok := Bearer(http.Header{"Authorization": {"Bearer a", "Bearer b"}}); ok {
		t.Error("two Authorization headers were accepted")
	}
}

func TestPaging(t *testing.T) {
	u, _ := url.Parse("/subscriptions/x?api-version=2021-04-01&$top=2&%24skiptoken=abc")
	next := NextLink("https://h:1", u, "/arm/x")
	parsed, err := url.Parse(next)
	if err != nil || parsed.Host != "h:1" || parsed.Path != "/subscriptions/x" || parsed.Query().Get("api-version") != "2021-04-01" || parsed.Query().Get("$top") != "2" {
		t.Fatalf("%s, %v", next, err)
	}
	p, err := ParsePage(parsed.Query(), 100)
	if err != nil || p.After != "/arm/x" || p.Top != 2 {
		t.Errorf("%+v, %v", p, err)
	}
	for _, bad := range []string{"$top=0", "$top=x", "$top=-1", "$skipToken=%00", "$skiptoken=*"} {
		q, _ := url.ParseQuery(bad)
		if _, err := ParsePage(q, 100); trust.KindOf(err) != trust.Invalid || err == nil {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if p, err := ParsePage(url.Values{"$TOP": {"1000"}}, 100); err != nil || p.Top != 100 {
		t.Errorf("%+v, %v", p, err)
	}
	if NewList[int](nil, "").Value == nil {
		t.Error("an empty list is null")
	}
}

func TestConditions(t *testing.T) {
	tag := ETag(255)
	if tag != `"ff"` {
		t.Error(tag)
	}
	tests := []struct {
		match, none, etag string
		ok                bool
	}{
		{"", "", "", true}, {"", "", tag, true},
		{"*", "", tag, true}, {"*", "", "", false},
		{tag, "", tag, true}, {"ff", "", tag, true}, {`W/"ff"`, "", tag, true}, {`"fe"`, "", tag, false}, {`"fe", "ff"`, "", tag, true}, {tag, "", "", false},
		{"", "*", tag, false}, {"", "*", "", true}, {"", `"ff"`, tag, false}, {"", `"fe"`, tag, true},
	}
	for _, tt := range tests {
		h := http.Header{}
		if tt.match != "" {
			h.Set("If-Match", tt.match)
		}
		if tt.none != "" {
			h.Set("If-None-Match", tt.none)
		}
		err := ParseConditions(h).Check(tt.etag)
		if (err == nil) != tt.ok || err != nil && trust.KindOf(err) != trust.Precondition {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

func TestOperationLinks(t *testing.T) {
	l := Links("https://h:1", "s", "Microsoft.ContainerService", "West Europe", "op", OperationVersion)
	if want := "https://h:1/subscriptions/s/providers/Microsoft.ContainerService/locations/westeurope/operations/op?api-version=2025-03-01"; l.Async != want {
		t.Errorf("%s, want %s", l.Async, want)
	}
	h := http.Header{}
	l.Created(h, time.Second)
	if h.Get("Location") != "" || h.Get("Azure-AsyncOperation") != l.Async || h.Get("Retry-After") != "1" {
		t.Errorf("%v: a PUT is followed by Azure-AsyncOperation alone", h)
	}
	l.Accepted(h, 1500*time.Millisecond)
	if h.Get("Location") != l.Result || h.Get("Retry-After") != "2" {
		t.Errorf("%v", h)
	}
	if Time(time.Time{}) != "" || !Terminal("succeeded") || Terminal("Updating") {
		t.Error("times and states")
	}
}
