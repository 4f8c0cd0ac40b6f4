package control

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
)

// fuzzed is one request of the mutation test.
type fuzzed struct{ method, path, body string }

// validBody is a body that a route takes.
func validBody(rt *route) string {
	if rt.method == http.MethodPatch && rt.typ != extensionType {
		return `{"tags":{"a":"b"},"properties":{}}`
	}
	switch rt.typ {
	case subscriptionType:
		return `{"displayName":"x"}`
	case groupType, clusterType:
		return `{"location":"local","tags":{"a":"b"},"properties":{"apiServerAccessProfile":{"authorizedIPRanges":["10.0.0.0/8"]}}}`
	case bindingType:
		return `{"properties":{"sourceResourceId":"` + sourcePath + `","roles":["` + mlworkload + `"]}}`
	case assignmentType:
		return `{"properties":{"roleDefinitionId":"` + readerGUID + `","principalId":"p","principalType":"User"}}`
	case definitionType:
		return `{"properties":{"roleName":"r","assignableScopes":["` + groupPath + `"],"permissions":[{"actions":["*/read"],"notActions":["a/b"]}]}}`
	case lockType:
		return `{"properties":{"level":"CanNotDelete","notes":"n"}}`
	case ownRoleType:
		return `{"properties":{"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["pods"]}]}}`
	case extensionType:
		return `{"identity":{"type":"SystemAssigned"},"properties":{"extensionType":"` + azureMLType + `","scope":{"cluster":{}},"configurationSettings":{"enableTraining":"True"},"configurationProtectedSettings":{}}}`
	case connectionType:
		return `{"properties":{"serviceAccountIssuer":"https://k","serviceAccountKeys":{"keys":[{"kty":"EC","crv":"P-256","x":"a","y":"b"}]}}}`
	}
	return `{"location":"local","identity":{"type":"SystemAssigned"},"properties":{"issuer":"https://x","subject":"s","audiences":["a"],"validFor":"P1D","a":[1,null,{"b":"c"}]}}`
}

// mutations makes n requests out of valid ones, the same for the same seed.
func mutations(routes []*route, seed uint64, n int) []fuzzed {
	random := rand.New(rand.NewPCG(seed, 1))
	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	mutate := func(s string) string {
		if s == "" {
			return s
		}
		i := random.IntN(len(s))
		switch random.IntN(7) {
		case 0:
			return s[:i] + s[i+1:]
		case 1:
			return s[:i] + pick("%2f", "%00", "..", "\u212a", " ", "'", `"`, "{", "null", "[]", ":", "%", "A", "\xff", "1e999") + s[i:]
		case 2:
			return s[:i] + strings.ToUpper(s[i:])
		case 3:
			return s[:i] + s[i:] + s[i:]
		case 4:
			return s[:i]
		case 5:
			return strings.Replace(s, pick(`"a"`, `"x"`, `"local"`, `{}`, `["a"]`, "rg", "blue"), pick("null", "7", `[]`, `{"a":{}}`, "true", strings.Repeat("x", 300)), 1)
		}
		return s
	}
	query := func() string {
		filter := mutate(pick("atScope()", "principalId eq 'p'", "resourceType eq 'A/b'", "eventTimestamp ge 2026-01-01 and caller eq 'x'", "roleName eq 'Reader'"))
		return "&$top=" + pick("0", "1", "x", "200") + "&$skipToken=" + pick("", "AA", "*") + "&$filter=" + url.QueryEscape(filter) + "&forceDelete=" + pick("true", "x")
	}
	var all []fuzzed
	for len(all) < n {
		rt := routes[random.IntN(len(routes))]
		f := fuzzed{rt.method, example(rt), ""}
		if rt.method != http.MethodGet && rt.method != http.MethodDelete {
			f.body = validBody(rt)
		}
		if rt.method == http.MethodDelete && (len(f.path) <= len(groupPath) || random.IntN(3) > 0) {
			continue // leave something to work on
		}
		api := version(f.path)
		switch random.IntN(3) { // one part or two are wrong, so that most get past routing
		case 0:
			f.path = (&url.URL{Path: mutate(f.path)}).EscapedPath()
		case 1:
			f.body = mutate(mutate(f.body))
		}
		if random.IntN(12) == 0 {
			api = mutate(api)
		}
		if random.IntN(20) == 0 {
			f.method = pick("GET", "PUT", "POST", "PATCH", "HEAD", "OPTIONS")
		}
		f.path += "?api-version=" + url.QueryEscape(api)
		if random.IntN(4) == 0 {
			f.path += query()
		}
		all = append(all, f)
	}
	return all
}

// routed tells whether a request got past routing.
func routed(r *reply) bool {
	code, text := r.text("error.code"), r.text("error.message")
	return code != arm.MethodNotAllowed && !strings.HasPrefix(text, "No resource was found") && !strings.Contains(text, "is not a resource id") && !strings.Contains(text, "encoded slash")
}

// 10,000 mutations of valid requests are refused or served; at least half get
// past routing, and none is a 5xx.
func TestMutatedRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload))
	const seed, n, workers = 20261129, 10_000, 8
	work := make(chan fuzzed)
	var (
		wg              sync.WaitGroup
		mu              sync.Mutex // guards what follows
		histogram       = map[int]int{}
		sent, gotPast   int
		failures, heads int
	)
	for range workers {
		wg.Go(func() {
			for f := range work {
				r, err := w.try("admin", f.method, f.path, f.body)
				mu.Lock()
				switch {
				case err != nil:
					heads++ // the URL could not be sent, or a HEAD's answer is no JSON
				case r.status >= http.StatusInternalServerError:
					if failures++; failures < 10 {
						t.Errorf("%+v: %d %s", f, r.status, r.raw)
					}
					fallthrough
				default:
					histogram[r.status]++
					sent++
					if routed(r) {
						gotPast++
					}
				}
				mu.Unlock()
			}
		})
	}
	for i, f := range mutations(w.control.routes, seed, n) {
		if i%200 == 0 { // put back what was deleted; what is still going says so
			work <- fuzzed{"PUT", groupPath, `{"location":"local"}`}
			work <- fuzzed{"PUT", clusterPath, `{"location":"local"}`}
			work <- fuzzed{"PUT", sourcePath, `{"identity":{"type":"SystemAssigned"}}`}
		}
		work <- f
	}
	close(work)
	wg.Wait()
	var lines []string
	for _, status := range slices.Sorted(maps.Keys(histogram)) {
		lines = append(lines, fmt.Sprintf("%d: %d", status, histogram[status]))
	}
	t.Logf("seed %d: %d of %d requests past routing, %d not sent; %s", seed, gotPast, sent, heads, strings.Join(lines, ", "))
	if 2*gotPast < n || sent < n*9/10 {
		t.Errorf("%d past routing of %d sent: too few to say anything", gotPast, sent)
	}
}

// A caller that hangs up in the middle of a PUT leaves the resource whole: the old
// one when the body did not arrive, the old or the new one when it did.
func TestHangingUpLeavesTheResourceWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	body := func(i int) string {
		return fmt.Sprintf(`{"location":"local","tags":{"n":"%d"},"properties":{"a":"%d","b":"%s","c":"%d"}}`, i, i, strings.Repeat("x", 4000), i)
	}
	w.must(200, "PUT", clusterPath, body(0))
	w.must(201, "PUT", extensionPath, training())
	for i := 1; i <= 60; i++ {
		text := body(i)
		cut := len(text) * i / 40 // from 21 on all of it is sent, and nobody waits for the answer
		path := clusterPath
		if i%4 == 0 {
			path, text = extensionPath, `{"properties":{"extensionType":"`+azureMLType+`","configurationSettings":{"enableTraining":"True","nodeSelector.disk":"`+strings.Repeat("y", i)+`"}}}`
			cut = len(text) * i / 40
		}
		w.hangUp(path, text, min(cut, len(text)), i%2 == 0)
	}
	check := func() {
		t.Helper()
		item, err := store.Get[store.Cluster](t.Context(), w.store, store.ResourceKey(clusterPath))
		if err != nil {
			t.Fatal(err)
		}
		var p struct{ A, B, C string }
		if err := json.Unmarshal(item.Value.Properties, &p); err != nil || p.A != p.C || p.A != item.Value.Tags["n"] || len(p.B) != 4000 {
			t.Errorf("the cluster is torn: %v, a %q, c %q, tag %q", err, p.A, p.C, item.Value.Tags["n"])
		}
		x, err := store.Get[store.Extension](t.Context(), w.store, store.ResourceKey(extensionPath))
		if err != nil {
			t.Fatal(err)
		}
		op, err := store.Get[store.Operation](t.Context(), w.store, store.Operation{ID: x.Value.Operation}.Key())
		if err != nil || !strings.Contains(string(op.Value.Input), fmt.Sprintf(`"Generation":%d`, x.Value.Generation)) {
			t.Errorf("the extension's operation is not its own: %v", err)
		}
	}
	check()
	w.must(200, "PUT", clusterPath, body(99))
	check()
	w.finished(w.must(200, "PUT", extensionPath, training()))
	if r := w.must(200, "GET", extensionPath, nil); !arm.Terminal(r.text("properties.provisioningState")) {
		t.Errorf("%s", r.raw)
	}
}

// hangUp sends a PUT's head and the first bytes of its body, and closes the
// connection, at once or after the server has begun to answer.
func (w *world) hangUp(path, body string, send int, wait bool) {
	w.t.Helper()
	conf := w.client.Transport.(*http.Transport).TLSClientConfig.Clone()
	conf.ServerName = "example.com" // httptest's certificate is for it
	conn, err := (&tls.Dialer{Config: conf}).DialContext(w.t.Context(), "tcp", w.server.Listener.Addr().String())
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	head := fmt.Sprintf("PUT %s?api-version=%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, version(path), len(body))
	if _, err := conn.Write([]byte(head + body[:send])); err != nil {
		w.t.Fatal(err)
	}
	if wait && send == len(body) {
		// One byte of the answer, and no more.
		if _, err := bufio.NewReaderSize(conn, 16).ReadByte(); err != nil {
			w.t.Fatal(err)
		}
	}
}
