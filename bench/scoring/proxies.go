package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy" // and the server that it is part of
)

// runReverseProxy is the least there can be: httputil.ReverseProxy that keeps
// enough connections, and nothing else.
func runReverseProxy(ctx context.Context, args []string, out io.Writer) error {
	target, err := url.Parse("http://" + args[0])
	if err != nil {
		return err
	}
	p := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true},
	}
	return serve(ctx, out, p)
}

// runCaddy is Caddy's reverse_proxy to the model server, with as many
// connections, without logs, metrics and administration.
func runCaddy(ctx context.Context, args []string, out io.Writer) error {
	l, err := net.Listen("tcp", "127.0.0.1:0") // a free port
	if err != nil {
		return err
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return err
	}
	conf, err := json.Marshal(map[string]any{
		"admin":   map[string]any{"disabled": true},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"level": "ERROR"}}},
		"apps": map[string]any{"http": map[string]any{"servers": map[string]any{"score": map[string]any{
			"listen": []string{address}, "automatic_https": map[string]any{"disable": true},
			"routes": []any{map[string]any{"handle": []any{map[string]any{"handler": "reverse_proxy",
				"upstreams": []any{map[string]any{"dial": args[0]}},
				"transport": map[string]any{"protocol": "http", "compression": false, "keep_alive": map[string]any{"max_idle_conns_per_host": 1024}},
			}}}},
		}}}},
	})
	if err != nil {
		return err
	}
	if err := caddy.Load(conf, true); err != nil {
		return err
	}
	fmt.Fprintln(out, address)
	<-ctx.Done()
	return caddy.Stop()
}
