package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/trust"
)

func (a *app) rest() *cobra.Command {
	var method, target, body, resource string
	var headers, parameters []string
	return a.command(spec{
		use: "rest", short: "Invoke a custom request.",
		long: `Invoke a custom request on the server's ARM API. {subscriptionId} in the URL stands
for the subscription in use. The URL must be of the context's own server: the
token is for nobody else.`,
		example: `
			sallyport rest --url "/subscriptions/{subscriptionId}/resourceGroups?api-version=2021-04-01"
			sallyport rest -m put -u /subscriptions/{subscriptionId}/resourceGroups/g?api-version=2021-04-01 -b '{"location":"westeurope"}'`,
		flags: func(f *flags) {
			f.need(&target, "url", "u", "Request URL, with or without the server.")
			f.alias("url", "uri", "")
			f.text(&method, "method", "m", "HTTP request method: delete, get, head, patch, post, put.")
			f.text(&body, "body", "b", "Request body, @FILE to read it from a file.")
			f.many(&headers, "headers", "", "Space-separated headers, KEY=VALUE, or JSON.")
			f.many(&parameters, "url-parameters", "", "Query parameters, KEY=VALUE, or JSON.")
			f.alias("url-parameters", "uri-parameters", "")
			f.text(&resource, "resource", "", "Accepted for az's sake; the token is always the server's own.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			r := client.Request{Method: strings.ToUpper(method), Header: http.Header{}}
			if method == "" {
				r.Method = http.MethodGet
			}
			if strings.Contains(target, "{subscriptionId}") {
				sub, err := a.subscription(ctx)
				if err != nil {
					return nil, err
				}
				target = strings.ReplaceAll(target, "{subscriptionId}", sub)
			}
			c, err := a.session()
			if err != nil {
				return nil, err
			}
			r.Path = target
			pairs, err := keyValues("--url-parameters", parameters)
			if err != nil {
				return nil, err
			}
			for k, v := range pairs {
				sep := "?"
				if strings.Contains(r.Path, "?") {
					sep = "&"
				}
				r.Path += sep + url.QueryEscape(k) + "=" + url.QueryEscape(v)
			}
			if pairs, err = keyValues("--headers", headers); err != nil {
				return nil, err
			}
			for k, v := range pairs {
				r.Header.Set(k, v)
			}
			text, err := a.fromFile("--body/-b", body)
			if err != nil {
				return nil, err
			}
			if text != "" {
				r.Body = []byte(text)
			}
			res, err := c.Do(ctx, r)
			if err != nil {
				return nil, err
			}
			if len(res.Body) == 0 {
				return nil, nil
			}
			var v any
			if json.Unmarshal(res.Body, &v) != nil {
				_, err := a.out.Write(res.Body)
				return nil, err
			}
			return v, nil
		},
	})
}

// keyValues reads "a=b c=d", or a JSON object.
func keyValues(argument string, values []string) (map[string]string, error) {
	all := map[string]string{}
	for _, v := range values {
		if strings.HasPrefix(strings.TrimSpace(v), "{") {
			if err := json.Unmarshal([]byte(v), &all); err != nil {
				return nil, usagef("argument %s: %q is not a JSON object of strings", argument, v)
			}
			continue
		}
		name, value, ok := strings.Cut(v, "=")
		if !ok || name == "" {
			return nil, usagef("argument %s: %q is not KEY=VALUE", argument, v)
		}
		all[name] = value
	}
	return all, nil
}

// fromFile gives an argument's text, or that of the file that "@FILE" names;
// "@-" is stdin.
func (a *app) fromFile(argument, value string) (string, error) {
	path, file := strings.CutPrefix(value, "@")
	if !file {
		return value, nil
	}
	var data []byte
	var err error
	if path == "-" {
		data, err = io.ReadAll(a.in)
	} else {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return "", trust.Errorf(trust.Invalid, "argument %s: %s cannot be read", argument, path).Because(err)
	}
	return string(data), nil
}

func (a *app) versionCommand() *cobra.Command {
	return a.command(spec{
		use: "version", short: "Show the version of this command.",
		example: "sallyport version -o tsv",
		run: func(context.Context, []string) (any, error) {
			return map[string]any{"sallyport": version, "extensions": map[string]any{}}, nil
		},
	})
}
