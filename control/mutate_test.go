package control

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// Mutations of valid requests are refused or served, and never a 5xx.
func TestMutatedRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload))
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	bodies := []string{
		`{"location":"local","tags":{"a":"b"},"properties":{}}`, `{"properties":{"sourceResourceId":"` + sourcePath + `","roles":["` + mlworkload + `"]}}`,
		`{"properties":{"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["pods"]}]}}`, `{"properties":{"roleDefinitionId":"` + readerGUID + `","principalId":"p"}}`,
		`{"identity":{"type":"SystemAssigned"}}`, `{"properties":{"issuer":"https://x","subject":"s","audiences":["a"]}}`, `{"properties":null}`, `{}`, `[]`, ``,
		`{"displayName":"x"}`, `{"validFor":"P1D"}`, `{"properties":{"apiServerAccessProfile":{"authorizedIPRanges":["10.0.0.0/8"]},"agentPoolProfiles":[{"count":0}]},"location":"local"}`,
	}
	mutate := func(s string) string {
		if s == "" {
			return s
		}
		i := random.IntN(len(s))
		switch random.IntN(6) {
		case 0:
			return s[:i] + s[i+1:]
		case 1:
			return s[:i] + pick("%2f", "%00", "..", "\u212a", " ", "'", `"`, "{", "null", "[]", ":", "%", "A") + s[i:]
		case 2:
			return s[:i] + strings.ToUpper(s[i:])
		case 3:
			return s[:i] + s[i:] + s[i:]
		}
		return s
	}
	histogram := map[int]int{}
	const n = 3000
	for i := range n {
		if i%40 == 0 { // put back what was deleted; what is still going says so
			w.call("admin", "PUT", groupPath, map[string]any{"location": "local"})
			w.call("admin", "PUT", clusterPath, map[string]any{"location": "local"})
			w.call("admin", "PUT", sourcePath, map[string]any{"identity": map[string]any{"type": "SystemAssigned"}})
		}
		rt := w.control.routes[random.IntN(len(w.control.routes))]
		path := example(rt)
		if strings.HasPrefix(path, subPath) && len(path) == len(subPath) && rt.method == "DELETE" {
			continue
		}
		if random.IntN(2) == 0 {
			path = (&url.URL{Path: mutate(path)}).EscapedPath()
		}
		if random.IntN(8) == 0 {
			path += "?api-version=" + url.QueryEscape(mutate(version(path))) + "&$top=" + pick("0", "1", "x") + "&$skipToken=" + pick("", "AA", "*")
		}
		body := bodies[random.IntN(len(bodies))]
		if random.IntN(2) == 0 {
			body = mutate(body)
		}
		method := rt.method
		if random.IntN(10) == 0 {
			method = pick("GET", "PUT", "POST", "PATCH", "DELETE", "HEAD")
		}
		if method == "DELETE" && random.IntN(3) > 0 {
			continue // leave something to work on
		}
		r, err := w.try("admin", method, path, body)
		if err != nil {
			continue // the URL could not be sent, or the body of a HEAD
		}
		histogram[r.status]++
		if r.status >= http.StatusInternalServerError {
			t.Errorf("seed %d: %s %s %s: %d %s", seed, method, path, body, r.status, r.raw)
		}
	}
	t.Log(fmt.Sprint("statuses: ", histogram))
}
