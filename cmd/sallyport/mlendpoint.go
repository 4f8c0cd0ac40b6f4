package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
	"github.com/sallyport/sallyport/trust"
)

const endpointType = "onlineEndpoints"

var endpointColumns = []output.Column{{Heading: "Name", Path: "name"}, {Heading: "State", Path: "provisioningState"}, {Heading: "AuthMode", Path: "authMode"},
	{Heading: "ScoringUri", Path: "scoringUri"}, {Heading: "Reason", Path: "properties.statusReason"}}

func (a *app) mlEndpoint() *cobra.Command {
	return a.noun("online-endpoint", "Serve models under a name, on an attached compute.",
		a.endpointPut("create"), a.endpointPut("update"), a.childShow("show", "Show an endpoint.", "online-endpoint", endpointType, endpointColumns),
		a.childList("List the endpoints of a workspace.", "online-endpoint", endpointType, endpointColumns),
		a.endpointDelete(), a.endpointInvoke(), a.endpointCredentials(), a.endpointRegenerate())
}

// endpointPut is create and update: the first makes what is not there, the second
// changes what is named of what is there.
func (a *app) endpointPut(use string) *cobra.Command {
	var n inWorkspace
	var file, authMode string
	var traffic, sets []string
	var noWait bool
	s := spec{use: use, short: "Create an endpoint.", columns: endpointColumns,
		example: "sallyport ml online-endpoint create -g MyResourceGroup -w MyWorkspace -f endpoint.yml"}
	if use == "update" {
		s.short = "Change an endpoint: what is not named stays as it is."
		s.example = `
			sallyport ml online-endpoint update -g MyResourceGroup -w MyWorkspace -n fraud --traffic "blue=90 green=10"
			sallyport ml online-endpoint update -g MyResourceGroup -w MyWorkspace -n fraud --set auth_mode=aml_token`
	}
	s.flags = func(f *flags) {
		f.text(&file, "file", "f", "The endpoint's YAML, as az ml takes it: name, compute, auth_mode, tags, traffic.")
		f.text(&n.name, "name", "n", "Name of the endpoint. Default: the file's.")
		f.alias("name", "endpoint-name", "")
		n.flags(f)
		if use == "update" {
			f.many(&traffic, "traffic", "", `Percent by deployment, such as "blue=90 green=10".`)
		} else {
			f.text(&authMode, "auth-mode", "", "key or aml_token. Default: key.")
		}
		f.many(&sets, "set", "", "Changes to the YAML: PATH=VALUE, such as tags.team=risk.")
		f.flag(&noWait, "no-wait", "", "Do not wait until it is so in the cluster.")
	}
	s.run = func(ctx context.Context, _ []string) (any, error) {
		var e endpointFile
		if err := readServed(file, sets, &e, "an online endpoint"); err != nil {
			return nil, err
		}
		if split, err := parseTraffic(traffic); err != nil {
			return nil, err
		} else if split != nil {
			e.Traffic = split
		}
		if authMode != "" {
			e.AuthMode = authMode
		}
		if n.name == "" {
			n.name = e.Name
		}
		if n.name == "" {
			return nil, usagef("the following arguments are required: --name/-n, or name in --file/-f")
		}
		workspace, err := a.workspaceID(ctx, n.group, n.workspace)
		if err != nil {
			return nil, err
		}
		id, err := n.id(ctx, a, endpointType)
		if err != nil {
			return nil, err
		}
		r := client.Request{Method: http.MethodPatch, Path: id, Version: mlVersion, Body: e.body(workspace)}
		if use == "create" {
			if e.Compute == "" {
				return nil, usagef("an endpoint needs a compute: compute: azureml:NAME in --file/-f, or --set compute=azureml:NAME; see 'sallyport ml compute list'")
			}
			r.Method, r.Header = http.MethodPut, ifNone()
			if err := a.absent(ctx, id, "endpoint", n.name); err != nil {
				return nil, err
			}
		}
		shown, err := a.change(ctx, use, n.name, r, noWait)
		return shown, made(err, servedExists("endpoint", n.name))
	}
	return a.command(s)
}

// servedExists says of an endpoint or a deployment that it is there.
func servedExists(what, name string) error {
	return trust.Errorf(trust.Exists, "the %s %s exists; change it with update", what, name)
}

// absent tells that there is nothing at an id yet.
func (a *app) absent(ctx context.Context, id, what, name string) error {
	c, err := a.session()
	if err != nil {
		return err
	}
	if _, err := c.Get(ctx, id, mlVersion); err == nil {
		return servedExists(what, name)
	} else if !notFound(err) {
		return err
	}
	return nil
}

// change sends a write and, unless told otherwise, waits for its end.
func (a *app) change(ctx context.Context, use, name string, r client.Request, noWait bool) (any, error) {
	c, err := a.session()
	if err != nil {
		return nil, err
	}
	what := map[string]string{"create": "Creating ", "update": "Updating "}[use] + name
	o, err := c.Begin(ctx, r)
	if err != nil {
		return nil, err
	}
	raw := o.Initial.Body
	if !noWait {
		if raw, err = a.wait(ctx, what, o); err != nil {
			return nil, err
		}
	}
	return flat(raw)
}

func (a *app) endpointDelete() *cobra.Command {
	var n inWorkspace
	var yes, noWait bool
	return a.command(spec{
		use: "delete", short: "Delete an endpoint with its deployments.",
		example: "sallyport ml online-endpoint delete -g MyResourceGroup -w MyWorkspace -n fraud",
		flags: func(f *flags) {
			n.named(f, "endpoint")
			f.flag(&noWait, "no-wait", "", "Do not wait until it is gone.")
			f.flag(&yes, "yes", "y", "Do not prompt for confirmation.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.id(ctx, a, endpointType)
			if err != nil {
				return nil, err
			}
			if err := a.confirm(yes, sure); err != nil {
				return nil, err
			}
			return nil, a.remove(ctx, "Deleting "+n.name, id, mlVersion, noWait)
		},
	})
}

// credentials are what scores an endpoint: two keys, or a token.
type credentials struct {
	PrimaryKey          string `json:"primaryKey,omitempty"`
	SecondaryKey        string `json:"secondaryKey,omitempty"`
	AccessToken         string `json:"accessToken,omitempty"`
	TokenType           string `json:"tokenType,omitempty"`
	ExpiryTimeUTC       int64  `json:"expiryTimeUtc,omitempty"`
	RefreshAfterTimeUTC int64  `json:"refreshAfterTimeUtc,omitempty"`
}

// scored is an endpoint as whoever scores it needs it.
type scored struct {
	Properties struct{ ScoringURI, AuthMode string }
}

// credentials reads an endpoint and what scores it.
func (a *app) credentials(ctx context.Context, id string) (e scored, c credentials, err error) {
	session, err := a.session()
	if err != nil {
		return e, c, err
	}
	raw, err := session.Get(ctx, id, mlVersion)
	if err != nil {
		return e, c, err
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return e, c, err
	}
	action := "/listKeys"
	if e.Properties.AuthMode == "AMLToken" {
		action = "/token"
	}
	return e, c, a.post(ctx, id+action, map[string]any{}, &c)
}

func (a *app) endpointCredentials() *cobra.Command {
	var n inWorkspace
	return a.command(spec{
		use: "get-credentials", short: "Show the keys of an endpoint, or a token for it.",
		example: "sallyport ml online-endpoint get-credentials -g MyResourceGroup -w MyWorkspace -n fraud --query primaryKey -o tsv",
		flags:   func(f *flags) { n.named(f, "endpoint") },
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.id(ctx, a, endpointType)
			if err != nil {
				return nil, err
			}
			_, c, err := a.credentials(ctx, id)
			if err != nil {
				return nil, err
			}
			raw, err := json.Marshal(c)
			if err != nil {
				return nil, err
			}
			return whole(raw)
		},
	})
}

func (a *app) endpointRegenerate() *cobra.Command {
	var n inWorkspace
	var kind string
	var noWait bool
	return a.command(spec{
		use: "regenerate-keys", short: "Change a key of an endpoint. The old one is good until the cluster has the new one.",
		example: "sallyport ml online-endpoint regenerate-keys -g MyResourceGroup -w MyWorkspace -n fraud --key-type primary",
		flags: func(f *flags) {
			n.named(f, "endpoint")
			f.text(&kind, "key-type", "", "primary or secondary. Default: primary.")
			f.flag(&noWait, "no-wait", "", "Do not wait until the cluster has it.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			kinds := map[string]string{"": "Primary", "primary": "Primary", "secondary": "Secondary"}
			key, known := kinds[strings.ToLower(kind)]
			if !known {
				return nil, usagef("argument --key-type: invalid choice: '%s' (choose from primary, secondary)", kind)
			}
			id, err := n.id(ctx, a, endpointType)
			if err != nil {
				return nil, err
			}
			c, err := a.session()
			if err != nil {
				return nil, err
			}
			o, err := c.Begin(ctx, client.Request{Method: http.MethodPost, Path: id + "/regenerateKeys", Version: mlVersion, Body: map[string]any{"keyType": key}})
			if err == nil && !noWait {
				_, err = a.wait(ctx, "Changing the key of "+n.name, o)
			}
			return nil, err
		},
	})
}

func (a *app) endpointInvoke() *cobra.Command {
	var n inWorkspace
	var request, deployment, caFile string
	return a.command(spec{
		use: "invoke", short: "Score an endpoint with a file, and print the answer.",
		long: `Score an endpoint with a file, and print the answer. The request goes to the
endpoint's own address, with its first key or a new token; it does not pass this
server.`,
		example: `
			sallyport ml online-endpoint invoke -g MyResourceGroup -w MyWorkspace -n fraud --request-file sample.json
			sallyport ml online-endpoint invoke -g MyResourceGroup -w MyWorkspace -n fraud --request-file sample.json --deployment-name green`,
		flags: func(f *flags) {
			n.named(f, "endpoint")
			f.need(&request, "request-file", "r", "File with the request's body.")
			f.text(&deployment, "deployment-name", "d", "Score this deployment, whatever the traffic's split.")
			f.alias("deployment-name", "deployment", "")
			f.text(&caFile, "ca-file", "", "PEM file with the CA of the address's certificate. Default: the system's.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			body, err := os.ReadFile(request)
			if err != nil {
				return nil, usagef("argument --request-file/-r: %v", err)
			}
			id, err := n.id(ctx, a, endpointType)
			if err != nil {
				return nil, err
			}
			e, c, err := a.credentials(ctx, id)
			if err != nil {
				return nil, err
			}
			if e.Properties.ScoringURI == "" {
				return nil, trust.Errorf(trust.Unavailable, "the endpoint %s has no address yet; see its state with show", n.name)
			}
			key := c.PrimaryKey
			if key == "" {
				key = c.AccessToken
			}
			a.busy.doing("Scoring "+n.name, e.Properties.ScoringURI)
			answer, err := score(ctx, e.Properties.ScoringURI, key, deployment, caFile, body)
			if err != nil {
				return nil, err
			}
			a.busy.stop()
			_, err = a.out.Write(answer)
			return nil, err
		},
	})
}

// maxScore bounds an answer, in bytes.
const maxScore = 64 << 20

// score asks a router. An answer of other than 2xx is an error that shows it.
func score(ctx context.Context, url, key, deployment, caFile string, body []byte) ([]byte, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if caFile != "" {
		ca, err := os.ReadFile(caFile)
		if err != nil {
			return nil, usagef("argument --ca-file: %v", err)
		}
		conf, err := client.ServerTrust{CA: string(ca)}.TLS(url)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = conf
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, trust.Errorf(trust.Invalid, "the endpoint's address %s is no URL", url).Because(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	if deployment != "" {
		req.Header.Set("azureml-model-deployment", deployment)
	}
	hc := &http.Client{Transport: transport, Timeout: 6 * time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := hc.Do(req)
	if err != nil {
		return nil, trust.Errorf(trust.Unavailable, "the endpoint does not answer at %s; it must be reachable from here", url).Because(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxScore+1))
	if err != nil {
		return nil, trust.Errorf(trust.Unavailable, "the endpoint's answer was cut off").Because(err)
	}
	if len(answer) > maxScore {
		return nil, trust.Errorf(trust.Invalid, "the endpoint's answer has more than %d MiB: score it with a client of your own", maxScore>>20)
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return nil, trust.Errorf(trust.Unavailable, "the endpoint answered %s: %s", res.Status, brief(answer))
	}
	return answer, nil
}

func brief(answer []byte) string {
	text := strings.TrimSpace(strings.ToValidUTF8(string(answer), "?"))
	if len(text) > 500 {
		text = text[:500] + "…"
	}
	if text == "" {
		return "(nothing more)"
	}
	return fmt.Sprintf("%q", text)
}
