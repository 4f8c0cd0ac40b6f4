// Package signed moves one file between here and a store, by a URL that somebody
// else has signed. Such a URL is a secret: it is in no error.
//
// It owns the exchange with the store and what its refusals mean. Signing is
// package bucket's; which files are moved, and what is tried again, is its
// caller's business. Standard library only: it is linked into what runs in other
// people's clusters.
package signed

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// What a store may say, or not. All else may go better another time.
var (
	ErrUnreachable = errors.New("the store is not reachable")
	ErrExpired     = errors.New("the signed URL is not taken any more") // ask for another
	ErrFull        = errors.New("the store's disk is full")
)

// Client is one for a store whose certificate is signed by ca (PEM), or, if that
// is empty, by one of the usual CAs. It follows no redirects: a signature is good
// for one host.
func Client(ca string) *http.Client {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		conf.RootCAs = x509.NewCertPool()
		conf.RootCAs.AppendCertsFromPEM([]byte(ca)) // none: nobody is believed
	}
	return &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: time.Minute,
			IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 16, Proxy: http.ProxyFromEnvironment}}
}

// Put writes size bytes of from, with exactly the headers that were signed.
func Put(ctx context.Context, hc *http.Client, url string, header map[string]string, from io.Reader, size int64) error {
	body := io.NopCloser(io.LimitReader(from, size)) // from is the caller's to close
	if size == 0 {
		body = http.NoBody
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, url, body)
	if err != nil {
		return errors.New("the signed URL cannot be read")
	}
	req.ContentLength = size
	for name, value := range header {
		req.Header.Set(name, value)
	}
	res, err := send(hc, req)
	if err != nil {
		return err
	}
	return res.Close()
}

// Get reads a file. Close what it returns.
func Get(ctx context.Context, hc *http.Client, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, errors.New("the signed URL cannot be read")
	}
	return send(hc, req)
}

func send(hc *http.Client, req *http.Request) (io.ReadCloser, error) {
	res, err := hc.Do(req)
	if err != nil {
		for next := err; next != nil; next = errors.Unwrap(next) { // the outer ones name the URL
			err = next
		}
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if res.StatusCode == http.StatusOK {
		return res.Body, nil
	}
	defer res.Body.Close()
	data, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10)) // what can be read of it
	code, message := between(string(data), "<Code>", "</Code>"), between(string(data), "<Message>", "</Message>")
	if code == "" {
		code = res.Status
	}
	switch res.StatusCode {
	case http.StatusForbidden:
		return nil, fmt.Errorf("%w: %s %s", ErrExpired, code, message)
	case http.StatusInsufficientStorage:
		return nil, fmt.Errorf("%w: %s", ErrFull, message)
	}
	return nil, fmt.Errorf("the store answers %s %s", code, message)
}

func between(s, from, to string) string {
	_, s, ok := strings.Cut(s, from)
	if !ok {
		return ""
	}
	s, _, _ = strings.Cut(s, to)
	return s
}
