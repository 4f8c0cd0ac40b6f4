package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// mute is an API server that says nothing, or nothing after the headers.
type mute struct{ headers bool }

func (m mute) RoundTrip(req *http.Request) (*http.Response, error) {
	if m.headers {
		return &http.Response{StatusCode: 200, Body: io.NopCloser(silence{req.Context()})}, nil
	}
	<-req.Context().Done()
	return nil, context.Cause(req.Context())
}

type silence struct{ ctx context.Context }

func (s silence) Read([]byte) (int, error) { <-s.ctx.Done(); return 0, s.ctx.Err() }

// An API server that does not answer holds nobody for ever, and is asked again.
func TestRequestsAreBounded(t *testing.T) {
	for _, m := range []mute{{}, {headers: true}} {
		synctest.Test(t, func(t *testing.T) {
			client := &http.Client{Transport: bounded{m}}
			began := time.Now()
			res, err := client.Get("http://api/secrets")
			if err == nil {
				_, err = io.ReadAll(res.Body)
				res.Body.Close()
			}
			var network net.Error
			if !errors.As(err, &network) || !passing(err) || !strings.Contains(err.Error(), "did not answer") || time.Since(began) != requestBound {
				t.Errorf("headers %t: %v after %s", m.headers, err, time.Since(began))
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*requestBound)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://api/pods?watch=true", nil)
			if err != nil {
				t.Fatal(err)
			}
			began = time.Now()
			if res, err = client.Do(req); err == nil {
				_, err = io.ReadAll(res.Body)
				res.Body.Close()
			}
			if err == nil || time.Since(began) != 10*requestBound {
				t.Errorf("headers %t: a watch ended with %v after %s", m.headers, err, time.Since(began))
			}
		})
	}
}
