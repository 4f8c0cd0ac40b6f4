package main

import (
	"bytes"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
)

// configMapData is what the configmap that is fetched holds: about 1 KB.
func configMapData() map[string]string {
	data := map[string]string{}
	for i := range 16 {
		data[fmt.Sprintf("key-%02d", i)] = fmt.Sprintf("%040d", i)
	}
	return data
}

// configMap is an answer of the size and shape that a small GET has.
func configMap() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"bench","namespace":"default",`+
		`"uid":"6f0c2a0e-0c0e-4c55-9d70-0b1f3b7f5a11","resourceVersion":"48213","creationTimestamp":"2026-11-22T05:00:00Z"},"data":{`)
	for i := range 16 {
		fmt.Fprintf(&b, `%q:%q,`, fmt.Sprintf("key-%02d", i), fmt.Sprintf("%040d", i))
	}
	b.WriteString(`"last":"value"}}` + "\n")
	return b.Bytes()
}

// runBackend is the stand-in of an API server: TLS, HTTP/2, a bearer token
// that is compared, one fixed answer with the headers of a real one. With an
// API server behind it, it is that server in everything but the one request
// that is measured, see front.
func runBackend(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("backend", flag.ContinueOnError)
	dir := f.String("pki", "", "folder of the test's certificates")
	behind := f.String("api", "", "URL of the API server behind it")
	ca := f.String("ca", "", "that server's CA")
	path := f.String("path", "", "what is answered here")
	if err := f.Parse(args); err != nil {
		return err
	}
	p, err := loadPKI(*dir)
	if err != nil {
		return err
	}
	var handler http.Handler = &fixed{want: []byte("Bearer " + p.token), answer: answer{body: configMap(), header: http.Header{
		"Audit-Id":                          {"5d0c9b1e-5b0a-4b40-9d1f-1b9e8f1f0e11"},
		"Cache-Control":                     {"no-cache, private"},
		"Content-Type":                      {"application/json"},
		"X-Kubernetes-Pf-Flowschema-Uid":    {"a5e2b1c4-33c4-4a7e-8f55-0fa5a9d7d9a1"},
		"X-Kubernetes-Pf-Prioritylevel-Uid": {"0c4ed1a1-2d7e-4bb4-9a35-3c46b1a6a8f7"},
	}}}
	if *behind != "" {
		target, err := url.Parse(*behind)
		if err != nil {
			return err
		}
		roots, err := loadRoots(*ca)
		if err != nil {
			return err
		}
		via := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, ForceAttemptHTTP2: true, DisableCompression: true}
		handler = &front{path: *path, target: target, via: via, pass: proxyTo(target, via)}
	}
	return serveTLS(untilOrphaned(ctx), out, p, handler, "")
}

type answer struct {
	header http.Header
	body   []byte
}

func (a *answer) write(w http.ResponseWriter) {
	h := w.Header()
	for name, values := range a.header {
		h[name] = values
	}
	_, _ = w.Write(a.body)
}

// fixed answers everything the same.
type fixed struct {
	want []byte
	answer
}

func (s *fixed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), s.want) != 1 {
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	s.write(w)
}

// front passes everything on to a real API server, but answers the request
// that is measured by itself, with what that server said to the same token
// before. So agents find a whole API server, and the measured requests find one
// that costs next to nothing.
type front struct {
	path   string
	target *url.URL
	via    http.RoundTripper
	pass   *httputil.ReverseProxy
	known  sync.Map // Authorization header → *answer
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || r.RequestURI != f.path {
		f.pass.ServeHTTP(w, r)
		return
	}
	auth := r.Header.Get("Authorization")
	a, ok := f.known.Load(auth)
	if !ok {
		learned, err := f.ask(r, auth)
		if err != nil {
			log.New(os.Stderr, "backend: ", 0).Print(err)
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		a, _ = f.known.LoadOrStore(auth, learned)
	}
	a.(*answer).write(w)
}

func (f *front) ask(r *http.Request, auth string) (*answer, error) {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, f.target.String()+f.path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", auth)
	req.Header.Set("Accept", "application/json")
	resp, err := f.via.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(body)))
	}
	resp.Header.Del("Date") // each answer has its own
	return &answer{resp.Header, body}, nil
}
