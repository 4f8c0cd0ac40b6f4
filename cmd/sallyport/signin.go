package main

import (
	"context"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/trust"
)

// signIn signs a person in and gives the context for it, without a name yet, and
// the session to be kept.
func (l login) signIn(ctx context.Context, a *app, file *client.File, ca string) (*client.Context, *client.Session, error) {
	known := a.knownServer(file, l.server)
	server := strings.TrimSuffix(l.server, "/")
	if server == "" {
		if known == nil {
			return nil, nil, usagef("the following arguments are required: --server; or --admin-file FILE, or --service-principal with a credential")
		}
		server = known.Server
	}
	if strings.EqualFold(l.tenant, "consumers") {
		return nil, nil, usagef("argument --tenant/-t: there are no personal accounts here: leave --tenant out, or give the tenant's id")
	}
	if anyTenant(l.tenant) {
		l.tenant = ""
	}
	var err error
	if ca == "" && l.caHash != "" {
		if ca, err = client.FetchCA(ctx, server, l.caHash); err != nil {
			return nil, nil, err
		}
	}
	c := &client.Context{Server: server, CA: ca, Tenant: l.tenant, ClientID: client.LoginClientID}
	if known != nil {
		c.Authority, c.Subscription = known.Authority, known.Subscription
		if c.CA == "" {
			c.CA = known.CA
		}
		if c.Tenant == "" {
			c.Tenant = known.Tenant
		}
	}
	if c.Tenant == "" {
		if c.Tenant, err = client.FindTenant(ctx, server, client.ServerTrust{CA: c.CA}); err != nil {
			return nil, nil, err
		}
	}
	s := &client.SignIn{Authority: c.Authority, Trust: client.ServerTrust{CA: c.CA}, Tenant: c.Tenant}
	if s.Authority == "" {
		s.Authority = server
	}
	var session *client.Session
	if l.deviceCode {
		session, err = s.Device(ctx, func(d client.DeviceCode) {
			text := d.Message
			if text == "" {
				text = "To sign in, use a web browser to open the page " + d.VerificationURI + " and enter the code " + d.UserCode + " to authenticate."
			}
			a.warn("%s", text)
		})
	} else {
		session, err = s.Browser(ctx, a.openBrowser)
	}
	if err != nil {
		return nil, nil, err
	}
	c.User = session.UserName
	return c, session, nil
}

// knownServer is the context whose server is meant: the named one's, the current
// one's, or any with that address.
func (a *app) knownServer(file *client.File, server string) *client.Context {
	server = strings.TrimSuffix(server, "/")
	var found *client.Context
	for i := range file.Contexts {
		c := &file.Contexts[i]
		if server != "" && c.Server != server {
			continue
		}
		if server == "" && c.Name != file.Current {
			continue
		}
		if found == nil || c.Name == file.Current {
			found = c
		}
	}
	return found
}

// openBrowser shows a page to the person at this machine: with $BROWSER, or as
// the system does it.
func (a *app) openBrowser(page string) error {
	u, err := url.Parse(page)
	if err != nil || u.Scheme != "https" {
		return trust.Errorf(trust.Internal, "the sign-in page has no https URL").Because(err)
	}
	var command []string
	switch browser := os.Getenv("BROWSER"); {
	case browser != "":
		command = append(strings.Fields(browser), page)
	case runtime.GOOS == "darwin":
		command = []string{"open", page}
	case runtime.GOOS == "windows":
		command = []string{"rundll32", "url.dll,FileProtocolHandler", page}
	default:
		command = []string{"xdg-open", page}
	}
	a.warn("A web browser has been opened at %s. Please continue the login in the web browser. If no web browser is available or if the web browser fails to open, use device code flow with `sallyport login --use-device-code`.", u.Scheme+"://"+u.Host+u.Path)
	cmd := exec.Command(command[0], command[1:]...) //nolint:noctx // it may outlive us
	if err := cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			a.say("No browser could be opened. On this machine, open:\n%s", page)
			return nil
		}
		return trust.Errorf(trust.Unavailable, "the browser cannot be opened").Because(err)
	}
	go func() { _ = cmd.Wait() }() // until it ends: nothing depends on it
	return nil
}

// keepSignIn keeps a person's session for a context, in place of the one that
// was there.
func keepSignIn(ctx context.Context, a *app, file *client.File, c *client.Context, s *client.Session) error {
	for i := range file.Contexts {
		old := file.Contexts[i]
		if old.Name != c.Name || old.SessionFile == "" {
			continue
		}
		if err := client.EndSession(ctx, &old); err != nil {
			a.warn("the sign-in before this one could not be ended: %s", message(err))
		}
	}
	var err error
	c.SessionFile, err = file.KeepSession(c.Name, s)
	return err
}
