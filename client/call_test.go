package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/trust"
)

// fixed is a credential that counts how often it was asked.
type fixed struct {
	mu    sync.Mutex
	asked []bool // fresh?
}

func (f *fixed) Token(_ context.Context, scope string, fresh bool) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, fresh)
	return fmt.Sprintf("token-%d", len(f.asked)), nil
}

func newTestClient(t *testing.T, h http.HandlerFunc) (*Client, *fixed, *testServer) {
	t.Helper()
	s := newTestServer(t, h, nil)
	credential := &fixed{}
	c, err := New(Config{Server: s.URL + "/", Trust: s.trust, Credential: credential, UserAgent: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, credential, s
}

func TestPagesFollowNextLinkOnTheSameServerOnly(t *testing.T) {
	t.Parallel()
	next := ""
	c, _, s := newTestClient(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.URL.Query().Get("api-version"); got != "v1" {
			t.Errorf("%s has api-version %q", r.URL, got)
		}
		if r.URL.Query().Get("$skipToken") == "" {
			fmt.Fprintf(w, `{"value":[{"name":"a"}],"nextLink":%q}`, next)
			return
		}
		fmt.Fprint(w, `{"value":[{"name":"b"}]}`)
	})
	next = s.URL + "/x?$skipToken=abc&api-version=v1"
	got, err := list[Group](t.Context(), c, "/x", "v1")
	if err != nil || len(got) != 2 || got[1].Name != "b" {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, elsewhere := range []string{"https://elsewhere.example/x", s.URL + ".elsewhere.example/x", "//elsewhere.example/x"} {
		next = elsewhere
		if _, err := c.List(t.Context(), "/x", "v1"); trust.KindOf(err) != trust.Invalid {
			t.Errorf("a nextLink to %s was followed: %v", elsewhere, err)
		}
	}
}

func TestErrorsKeepCodeHintAndKind(t *testing.T) {
	t.Parallel()
	tests := []struct {
		status int
		body   string
		want   Error
		kind   trust.Kind
	}{
		{404, `{"error":{"code":"ResourceNotFound","message":"gone","additionalInfo":[{"type":"Hint","info":{"hint":"make it"}}]}}`, Error{Code: "ResourceNotFound", Message: "gone", Hint: "make it"}, trust.NotFound},
		{409, `{"code":"EtagMismatch","message":"late","details":[{"code":"c","message":"m"}]}`, Error{Code: "EtagMismatch", Message: "late", Details: []Detail{{Code: "c", Message: "m"}}}, trust.Conflict},
		{403, `{"error":{"code":"AuthorizationFailed","message":"no"}}`, Error{Code: "AuthorizationFailed", Message: "no"}, trust.Forbidden},
		{400, `{"error":"invalid_request","error_description":"which?"}`, Error{Code: "invalid_request", Message: "which?"}, trust.Invalid},
		{418, `<html>`, Error{Message: "HTTP 418 I'm a teapot: <html>"}, trust.Internal},
		{500, ``, Error{Message: "HTTP 500 Internal Server Error: the server gave no reason"}, trust.Internal},
	}
	for _, tt := range tests {
		c, _, _ := newTestClient(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("x-ms-request-id", "id")
			w.WriteHeader(tt.status)
			fmt.Fprint(w, tt.body)
		})
		_, err := c.Get(t.Context(), "/x", "v1")
		got := asError(err)
		if got == nil {
			t.Errorf("%d: %v, want an *Error", tt.status, err)
			continue
		}
		tt.want.Status, tt.want.RequestID = tt.status, "id"
		if d := cmp.Diff(tt.want, *got, cmp.AllowUnexported(Error{})); d != "" || trust.KindOf(err) != tt.kind {
			t.Errorf("%d: kind %v, -want +got\n%s", tt.status, trust.KindOf(err), d)
		}
	}
}

func TestDoRepeatsWhatMayBeRepeated(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, method string
		first        int
		header       string
		want         int // calls
	}{
		{"GET when the server is away", "GET", 503, "0", 2},
		{"PUT when the server is away", "PUT", 503, "0", 2},
		{"POST when the server is away", "POST", 503, "0", 1},
		{"POST that was throttled", "POST", 429, "0", 2},
		{"a refused token, once", "GET", 401, "", 2},
		{"never a refusal", "GET", 403, "", 1},
		{"never when told to wait for hours", "GET", 429, "3600", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var calls int
			c, credential, _ := newTestClient(t, func(w http.ResponseWriter, _ *http.Request) {
				if calls++; calls == 1 {
					if tt.header != "" {
						w.Header().Set("Retry-After", tt.header)
					}
					w.WriteHeader(tt.first)
					fmt.Fprint(w, `{"error":{"code":"X","message":"x"}}`)
					return
				}
				fmt.Fprint(w, `{}`)
			})
			_, err := c.Do(t.Context(), Request{Method: tt.method, Path: "/x", Version: "v1"})
			if calls != tt.want || (err == nil) != (tt.want == 2) {
				t.Errorf("%d calls and %v, want %d calls", calls, err, tt.want)
			}
			if tt.first == 401 && (len(credential.asked) != 2 || !credential.asked[1]) {
				t.Errorf("asked for tokens %v, want a fresh one the second time", credential.asked)
			}
		})
	}
}

func TestAServerThatIsNotThereIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	c, _, s := newTestClient(t, nil)
	c.base = strings.Replace(s.URL, "127.0.0.1", "127.0.0.2", 1)
	if _, err := c.Get(t.Context(), "/x", "v1"); trust.KindOf(err) != trust.Unavailable || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v", err)
	}
}

// operations answers PUT /r with an operation that ends as last after some
// looks.
func operations(t *testing.T, base *string, last string, headers ...string) http.HandlerFunc {
	looks := 0
	return func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.Path {
		case "PUT /r", "DELETE /r":
			for _, h := range headers {
				w.Header().Set(h, *base+"/op?api-version=o")
			}
			if r.Method == "DELETE" {
				w.WriteHeader(http.StatusAccepted)
				return
			}
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, `{"properties":{"provisioningState":"Updating"}}`)
		case "GET /op":
			if looks++; looks < 3 {
				if len(headers) == 1 && headers[0] == "Location" {
					w.WriteHeader(http.StatusAccepted)
					return
				}
				fmt.Fprintf(w, `{"status":"InProgress","properties":{"reason":"look %d"}}`, looks)
				return
			}
			if len(headers) == 1 && headers[0] == "Location" {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			fmt.Fprintf(w, `{"status":%q,"error":{"code":"RoleNotAccepted","message":"no"}}`, last)
		case "GET /r":
			if looks++; len(headers) == 0 && looks < 3 {
				fmt.Fprint(w, `{"properties":{"provisioningState":"Updating","reason":"itself"}}`)
				return
			}
			fmt.Fprint(w, `{"name":"r","properties":{"provisioningState":"Succeeded"}}`)
		default:
			t.Errorf("unexpected %s %s", r.Method, r.URL)
		}
	}
}

func TestOperations(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, method, last string
		headers            []string
		want, reason       string
	}{
		{"PUT with a document", "PUT", "Succeeded", []string{"Azure-AsyncOperation"}, `{"name":"r","properties":{"provisioningState":"Succeeded"}}`, "look 1"},
		{"PUT without headers", "PUT", "", nil, `{"name":"r","properties":{"provisioningState":"Succeeded"}}`, "itself"},
		{"PUT that fails", "PUT", "Failed", []string{"Azure-AsyncOperation"}, "", "look 1"},
		{"DELETE with both headers", "DELETE", "Succeeded", []string{"Azure-AsyncOperation", "Location"}, "", "look 1"},
		{"DELETE with Location", "DELETE", "", []string{"Location"}, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			base := ""
			c, _, s := newTestClient(t, operations(t, &base, tt.last, tt.headers...))
			base = s.URL
			o, err := c.Begin(t.Context(), Request{Method: tt.method, Path: "/r", Version: "v1", Body: json.RawMessage("{}")})
			if err != nil {
				t.Fatal(err)
			}
			var reasons []string
			body, err := o.Wait(t.Context(), func(o *Operation) { reasons = append(reasons, o.Reason) })
			if tt.last == "Failed" {
				if e := asError(err); e == nil || e.Code != "RoleNotAccepted" || trust.KindOf(err) != trust.Invalid {
					t.Errorf("got %v, want RoleNotAccepted", err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			if tt.want != "" && string(body) != tt.want {
				t.Errorf("result %s, want %s", body, tt.want)
			}
			if tt.reason != "" && !strings.Contains(strings.Join(reasons, ","), tt.reason) {
				t.Errorf("reasons %q, want %q among them", reasons, tt.reason)
			}
		})
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	base := ""
	c, _, s := newTestClient(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PUT" {
			w.Header().Set("Azure-AsyncOperation", base+"/op")
		}
		fmt.Fprint(w, `{"status":"InProgress"}`)
	})
	base = s.URL
	o, err := c.Begin(t.Context(), Request{Method: "PUT", Path: "/r"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	looks := 0
	_, err = o.Wait(ctx, func(*Operation) {
		if looks++; looks == 2 {
			cancel()
		}
	})
	if err == nil || looks > 3 {
		t.Errorf("%d looks, %v", looks, err)
	}
}

func FuzzFailure(f *testing.F) {
	for _, s := range []string{`{"error":{"code":"a","message":"b"}}`, `{"error":"a"}`, `{}`, `null`, `[`, `{"error":{"additionalInfo":[{"type":"Hint","info":3}]}}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		e := failure(&http.Response{Status: "400 Bad Request", StatusCode: 400, Header: http.Header{}}, []byte(body))
		if e == nil || e.Status != 400 || e.Error() == "" && e.Code == "" && body != "" && !strings.Contains(body, "message") {
			t.Errorf("failure(%q) = %+v", body, e)
		}
	})
}
