package arm

import (
	"encoding/base64"
	"net/url"
	"strconv"

	"github.com/sallyport/sallyport/trust"
)

// Page is which part of a list a request wants.
type Page struct {
	After string // the opaque position that the last page ended at, "" for the first
	Top   int    // at most so many entries
}

// ParsePage reads $skipToken and $top; most is both the default and the limit
// of $top. An error is of kind Invalid.
func ParsePage(query url.Values, most int) (Page, error) {
	p := Page{Top: most}
	if t := value(query, "$top"); t != "" {
		n, err := strconv.Atoi(t)
		if err != nil || n < 1 {
			return p, Errorf(trust.Invalid, InvalidRequestContent, "The value of the query parameter $top is invalid: '%.20s' is not a positive number.", t)
		}
		p.Top = min(n, most)
	}
	if t := value(query, "$skipToken"); t != "" {
		b, err := base64.RawURLEncoding.DecodeString(t)
		if err != nil || len(b) == 0 || len(t) > maxID*2 {
			return p, Errorf(trust.Invalid, InvalidSkipToken, "The value of the query parameter $skipToken is invalid. It is to be sent as a nextLink gave it.")
		}
		p.After = string(b)
	}
	return p, nil
}

// value finds a query parameter without regard to the case of its name.
func value(query url.Values, name string) string {
	for k, v := range query {
		if is(k, name) && len(v) > 0 {
			return v[0]
		}
	}
	return ""
}

// List is the body of every list. Next is the position after its last entry,
// "" on the last page.
type List[T any] struct {
	Value    []T    `json:"value"`
	NextLink string `json:"nextLink,omitempty"`
}

// NewList makes a list's body; an empty one is [], never null.
func NewList[T any](values []T, nextLink string) List[T] {
	if values == nil {
		values = []T{}
	}
	return List[T]{Value: values, NextLink: nextLink}
}

// NextLink is the absolute URL of the page after the given position: the
// request's own path and query on base ("https://host:port") with another
// $skipToken.
func NextLink(base string, request *url.URL, after string) string {
	q := url.Values{}
	for k, v := range request.Query() {
		if !is(k, "$skipToken") {
			q[k] = v
		}
	}
	q.Set("$skipToken", base64.RawURLEncoding.EncodeToString([]byte(after)))
	return base + request.EscapedPath() + "?" + q.Encode()
}
