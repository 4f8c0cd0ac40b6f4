package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/trust"
)

const (
	maxBody    = 16 << 20 // of an answer, in bytes
	maxRetries = 3
	maxRetry   = time.Minute // a server that asks for more patience gets none
)

// Config is what a Client needs.
type Config struct {
	Server     string // https://host[:port]
	Trust      ServerTrust
	Credential Credential
	UserAgent  string
	// Trace, if set, is told of each exchange after it ended: never of a body
	// or a token. status is 0 when there was no answer.
	Trace func(method, url string, status int, took time.Duration, requestID string)
}

// Credential gives tokens for the control API. fresh asks for one that was not
// handed out before, because the last was refused.
type Credential interface {
	Token(ctx context.Context, scope string, fresh bool) (string, error)
}

// Client calls the ARM API of one server. It is safe for concurrent use.
type Client struct {
	c    Config
	base string
	http *http.Client
}

// New checks the configuration; it makes no call.
func New(c Config) (*Client, error) {
	conf, err := c.Trust.TLS(c.Server)
	if err != nil {
		return nil, err
	}
	if c.Credential == nil {
		return nil, trust.Errorf(trust.Unauthenticated, "no credential was given for %s", c.Server)
	}
	return &Client{c: c, base: strings.TrimSuffix(c.Server, "/"), http: &http.Client{Transport: newTransport(conf), CheckRedirect: noRedirect}}, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Server is the base URL.
func (c *Client) Server() string { return c.base }

// Request is one call. Path begins with "/" and may have a query; Version is
// added as api-version unless the path has one. A Body that is not a
// json.RawMessage or []byte is encoded.
type Request struct {
	Method, Path, Version string
	Body                  any
	Header                http.Header
}

// Response is an answer of 2xx.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// Do makes a call. A failure with an answer is an *Error. Calls that may be
// repeated are, up to three times, when the server is away or asks to wait.
func (c *Client) Do(ctx context.Context, r Request) (*Response, error) {
	target, err := c.url(r.Path, r.Version)
	if err != nil {
		return nil, err
	}
	var body []byte
	switch b := r.Body.(type) {
	case nil:
	case []byte:
		body = b
	case json.RawMessage:
		body = b
	default:
		if body, err = json.Marshal(b); err != nil {
			return nil, fmt.Errorf("encode body: %w", err)
		}
	}
	id := newGUID()
	retry, fresh := newBackoff(500*time.Millisecond, 8*time.Second), false
	for attempt := 0; ; attempt++ {
		res, err := c.once(ctx, r, target, body, id, fresh)
		if err == nil {
			return res, nil
		}
		kind := trust.KindOf(err)
		if kind == trust.Unauthenticated && !fresh && asError(err) != nil {
			fresh = true // a revoked key, or a clock that ran ahead
			continue
		}
		wait, again := retryAfter(err), repeatable(r.Method, err)
		if !again || attempt >= maxRetries || wait > maxRetry || ctx.Err() != nil {
			return nil, err
		}
		if wait == 0 {
			wait = retry.next()
		}
		if sleep(ctx, wait) != nil {
			return nil, err
		}
	}
}

// repeatable tells whether a failed call may be sent again: a 429 was not acted
// on, and what is idempotent may have been.
func repeatable(method string, err error) bool {
	switch trust.KindOf(err) {
	case trust.Throttled:
		return true
	case trust.Unavailable, trust.Timeout:
		// Without an answer it is said at once: somebody is waiting who can
		// look whether the server runs.
		return asError(err) != nil && method != http.MethodPost
	}
	return false
}

func (c *Client) once(ctx context.Context, r Request, target string, body []byte, id string, fresh bool) (*Response, error) {
	token, err := c.c.Credential.Token(ctx, c.base+"/.default", fresh)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, target, bytes.NewReader(body))
	if err != nil {
		return nil, trust.Errorf(trust.Invalid, "%s %s cannot be sent", r.Method, target).Because(err)
	}
	for k, v := range r.Header {
		req.Header[http.CanonicalHeaderKey(k)] = v
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("X-Ms-Client-Request-Id", id)
	if c.c.UserAgent != "" {
		req.Header.Set("User-Agent", c.c.UserAgent)
	}
	if len(body) > 0 && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	began := time.Now()
	res, err := c.http.Do(req)
	if err != nil {
		c.trace(r.Method, target, 0, time.Since(began), "")
		return nil, unreachable(ctx, c.base, err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	c.trace(r.Method, target, res.StatusCode, time.Since(began), res.Header.Get("X-Ms-Request-Id"))
	if err != nil {
		return nil, unreachable(ctx, c.base, err)
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		e := failure(res, data)
		e.retry = seconds(res.Header.Get("Retry-After"))
		return nil, e
	}
	return &Response{Status: res.StatusCode, Header: res.Header, Body: data}, nil
}

func (c *Client) trace(method, target string, status int, took time.Duration, id string) {
	if c.c.Trace != nil {
		c.c.Trace(method, target, status, took, id)
	}
}

// url makes a path absolute. An absolute URL must be of the same server: the
// token is for nobody else.
func (c *Client) url(path, version string) (string, error) {
	if rest, ok := strings.CutPrefix(path, c.base); ok && (rest == "" || rest[0] == '/' || rest[0] == '?') {
		path = rest
	}
	if !strings.HasPrefix(path, "/") {
		return "", trust.Errorf(trust.Invalid, "%.200q is not below %s", path, c.base)
	}
	u, err := url.Parse(path)
	if err != nil || u.Host != "" {
		return "", trust.Errorf(trust.Invalid, "%.200q is not a path", path)
	}
	q := u.Query()
	if version != "" && !q.Has("api-version") {
		q.Set("api-version", version)
		u.RawQuery = q.Encode()
	}
	return c.base + u.EscapedPath() + query(u.RawQuery), nil
}

func query(raw string) string {
	if raw == "" {
		return ""
	}
	return "?" + raw
}

// Get reads a resource as the server sends it.
func (c *Client) Get(ctx context.Context, path, version string) (json.RawMessage, error) {
	res, err := c.Do(ctx, Request{Method: http.MethodGet, Path: path, Version: version})
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// Pages reads a list, following nextLink.
func (c *Client) Pages(ctx context.Context, path, version string) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		for path != "" {
			body, err := c.Get(ctx, path, version)
			if err != nil {
				yield(nil, err)
				return
			}
			var page struct {
				Value    []json.RawMessage `json:"value"`
				NextLink string            `json:"nextLink"`
			}
			if err := json.Unmarshal(body, &page); err != nil {
				yield(nil, trust.Errorf(trust.Internal, "the list at %s cannot be read", path).Because(err))
				return
			}
			for _, v := range page.Value {
				if !yield(v, nil) {
					return
				}
			}
			path = page.NextLink
		}
	}
}

// List reads a whole list.
func (c *Client) List(ctx context.Context, path, version string) ([]json.RawMessage, error) {
	all := []json.RawMessage{}
	for v, err := range c.Pages(ctx, path, version) {
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

func read[T any](ctx context.Context, c *Client, path, version string) (*T, error) {
	body, err := c.Get(ctx, path, version)
	if err != nil {
		return nil, err
	}
	return decode[T](body)
}

func decode[T any](body []byte) (*T, error) {
	v := new(T)
	if err := json.Unmarshal(body, v); err != nil {
		return nil, trust.Errorf(trust.Internal, "the server's answer cannot be read as %T", *v).Because(err)
	}
	return v, nil
}

func list[T any](ctx context.Context, c *Client, path, version string) ([]T, error) {
	all := []T{}
	for raw, err := range c.Pages(ctx, path, version) {
		if err != nil {
			return nil, err
		}
		v, err := decode[T](raw)
		if err != nil {
			return nil, err
		}
		all = append(all, *v)
	}
	return all, nil
}

// seconds reads Retry-After in its integer form; 0 if there is none.
func seconds(s string) time.Duration {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0
	}
	return time.Duration(n) * time.Second
}

// newGUID is a random RFC 9562 UUID, version 4.
func newGUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
