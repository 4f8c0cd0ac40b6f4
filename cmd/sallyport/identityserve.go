package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
)

func (a *app) identityServe() *cobra.Command {
	var who asIdentity
	var server, caFile, listen, socket, envFile string
	var imds bool
	return a.command(spec{
		use: "serve", short: "Serve an identity's tokens to programs on this machine, as Azure's managed identity endpoint does.",
		long: `Serve the tokens of one identity to programs on this machine, as Azure's App Service
does: Azure's SDKs find the endpoint by IDENTITY_ENDPOINT and IDENTITY_HEADER, which are
printed, or written to --env-file, mode 0600. With --imds it also answers as the
instance metadata service does, to everybody who can connect: for a machine or a pod
that has one program.

It listens on loopback or a socket, and refuses what came through a proxy or from a
web page. The credential is the identity's own. It serves until it is stopped.`,
		example: `
			sallyport identity serve --client-id CLIENT_ID --federated-token-file /var/run/secrets/tokens/sallyport --env-file /run/identity.env
			sallyport identity serve --client-id CLIENT_ID --client-secret-file secret --listen 169.254.169.254:80 --imds`,
		flags: func(f *flags) {
			who.flags(f)
			f.text(&listen, "listen", "", "Address to listen on. Default: 127.0.0.1 and a free port.")
			f.text(&socket, "socket", "", "Listen on this unix socket instead, mode 0600.")
			f.flag(&imds, "imds", "", "Answer as the instance metadata service too; without a secret.")
			f.text(&envFile, "env-file", "", "Write what programs need into this file, mode 0600, instead of printing it.")
			f.text(&server, "server", "", "URL of the server. Default: the context's.")
			f.text(&caFile, "ca-file", "", "The server's CA, PEM. Default: the context's.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			credential, err := a.identityCredential(&who, server, caFile)
			if err != nil {
				return nil, err
			}
			if socket != "" && (listen != "" || imds) {
				return nil, usagef("argument --socket: not allowed with --listen or --imds")
			}
			e := &client.IdentityEndpoint{Get: credential.Get, ClientID: who.clientID, Header: rand.Text(), IMDS: imds}
			l, endpoint, err := listenIdentity(ctx, listen, socket, e)
			if err != nil {
				return nil, err
			}
			shown := map[string]any{"IDENTITY_ENDPOINT": endpoint, "IDENTITY_HEADER": e.Header}
			if envFile != "" {
				text := fmt.Sprintf("IDENTITY_ENDPOINT=%s\nIDENTITY_HEADER=%s\n", endpoint, e.Header)
				if err := replaceFile(envFile, []byte(text)); err != nil {
					return nil, errors.Join(err, l.Close())
				}
				shown = map[string]any{"IDENTITY_ENDPOINT": endpoint, "file": envFile}
			}
			if err := a.print.Print(a.out, shown, nil); err != nil {
				return nil, errors.Join(err, l.Close())
			}
			return nil, serveUntil(ctx, l, e)
		},
	})
}

// identityCredential is how the identity gets its tokens; server and CA are the
// context's unless they are given.
func (a *app) identityCredential(who *asIdentity, server, caFile string) (*client.AuthorityCredential, error) {
	who.fromEnvironment()
	if who.clientID == "" {
		return nil, usagef("the following arguments are required: --client-id")
	}
	if err := who.check(); err != nil {
		return nil, err
	}
	ca, err := a.fromFile("--ca-file", at(caFile))
	if err != nil {
		return nil, err
	}
	if server == "" || who.tenant == "" {
		if _, err := a.session(); err != nil {
			return nil, err
		}
		if server == "" {
			server, ca = a.context.Server, a.context.CA
		}
		if who.tenant == "" {
			who.tenant = a.context.Tenant
		}
	}
	return who.credential(strings.TrimSuffix(server, "/"), ca, nil)
}

// listenIdentity opens the endpoint where nobody from outside can reach it.
func listenIdentity(ctx context.Context, listen, socket string, e *client.IdentityEndpoint) (net.Listener, string, error) {
	if socket != "" {
		l, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
		if err != nil {
			return nil, "", fmt.Errorf("listen: %w", err)
		}
		// Whoever connects before this still needs the header.
		if err := os.Chmod(socket, 0o600); err != nil {
			return nil, "", errors.Join(fmt.Errorf("listen: %w", err), l.Close())
		}
		return l, "unix:" + socket + ":" + client.IdentityPath, nil
	}
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return nil, "", fmt.Errorf("listen: %w", err)
	}
	if e.Addresses, err = client.IdentityAddresses(l.Addr()); err != nil {
		return nil, "", errors.Join(err, l.Close())
	}
	return l, "http://" + l.Addr().String() + client.IdentityPath, nil
}

// serveUntil serves until ctx ends.
func serveUntil(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 20 * time.Second, MaxHeaderBytes: 16 << 10}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := srv.Shutdown(last); err != nil {
		_ = srv.Close()
	}
	<-done
	return nil
}
