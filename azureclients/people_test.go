package azureclients

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"
	"github.com/google/uuid"

	"github.com/sallyport/sallyport/client"
)

// builtInUser makes a built-in user who may read a resource group, and returns name
// and password.
func builtInUser(t *testing.T, in string) (name, password string) {
	t.Helper()
	own := the.own(t)
	defer own.Close()
	name = "user-" + strings.ToLower(rand.Text()[:8]) + "@example.com"
	res, err := own.Do(t.Context(), client.Request{Method: "PUT", Path: "/providers/Sallyport.Identity/users/" + url.PathEscape(name), Version: client.SallyportVersion, Body: map[string]any{"properties": map[string]any{}}})
	if err != nil {
		t.Fatal(err)
	}
	var user struct {
		Properties struct{ ObjectID, Password string }
	}
	if err := json.Unmarshal(res.Body, &user); err != nil || user.Properties.Password == "" {
		t.Fatalf("%s, %v", res.Body, err)
	}
	if _, err := own.Do(t.Context(), client.Request{Method: "PUT", Path: group(in) + "/providers/Microsoft.Authorization/roleAssignments/" + uuid.NewString(), Version: "2022-04-01", Body: map[string]any{
		"properties": map[string]any{"roleDefinitionId": reader, "principalId": user.Properties.ObjectID, "principalType": "User"}}}); err != nil {
		t.Fatal(err)
	}
	return name, user.Properties.Password
}

// browser signs a person in on our pages, as far as a browser is needed for it.
type browser struct{ *http.Client }

func newBrowser(t *testing.T) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{&http.Client{Transport: the.http.Transport, Jar: jar, Timeout: 30 * time.Second}}
}

var (
	formAction  = regexp.MustCompile(`<form[^>]* action="([^"]+)"`)
	hiddenField = regexp.MustCompile(`<input type="hidden" name="([^"]+)" value="([^"]*)">`)
)

func (b *browser) open(page string) (string, error) { return text(b.Get(page)) }

// send posts a page's first form with more filled in.
func (b *browser) send(at, page string, fill url.Values) (string, error) {
	base, err := url.Parse(at)
	action := formAction.FindStringSubmatch(page)
	if err != nil || action == nil {
		return "", fmt.Errorf("no form: %s", page)
	}
	to, err := base.Parse(html.UnescapeString(action[1]))
	if err != nil {
		return "", err
	}
	form := url.Values{}
	first, _, _ := strings.Cut(page, "</form>")
	for _, m := range hiddenField.FindAllStringSubmatch(first, -1) {
		form.Set(m[1], html.UnescapeString(m[2]))
	}
	for name, values := range fill {
		form[name] = values
	}
	return text(b.PostForm(to.String(), form))
}

func text(res *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

func canRead(t *testing.T, c azcore.TokenCredential, in string) {
	t.Helper()
	groups, err := armresources.NewResourceGroupsClient(the.admin.SubscriptionID, c, options())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := groups.Get(ctx, in, nil); err != nil {
		t.Errorf("a person with Reader: %v", err)
	}
}

// azidentity's device code flow: the person types the code, the program gets
// tokens, silently refreshed for another audience.
func TestDeviceCode(t *testing.T) {
	t.Parallel()
	const in = "Device-Code"
	scene(t, in)
	name, password := builtInUser(t, in)
	signedIn := make(chan error, 1)
	c, err := azidentity.NewDeviceCodeCredential(&azidentity.DeviceCodeCredentialOptions{ClientOptions: clientOptions(), TenantID: the.admin.TenantID, DisableInstanceDiscovery: true,
		UserPrompt: func(_ context.Context, m azidentity.DeviceCodeMessage) error {
			b := newBrowser(t)
			page, err := b.open(m.VerificationURL)
			if err == nil {
				page, err = b.send(m.VerificationURL, page, url.Values{"code": {m.UserCode}})
			}
			if err == nil {
				page, err = b.send(m.VerificationURL, page, url.Values{"username": {name}, "password": {password}})
			}
			if err == nil && !strings.Contains(page, "You have signed in") {
				err = fmt.Errorf("approved: %s", page)
			}
			signedIn <- err
			return err
		}})
	if err != nil {
		t.Fatal(err)
	}
	canRead(t, c, in)
	if err := <-signedIn; err != nil {
		t.Fatal(err)
	}
	// Without the person: by the refresh token.
	token, err := c.GetToken(t.Context(), policy.TokenRequestOptions{EnableCAE: true, Scopes: []string{the.admin.Server + "/gateways/westeurope/.default"}})
	if err != nil || token.Token == "" || len(signedIn) != 0 {
		t.Errorf("another audience: %v, asked again: %d", err, len(signedIn))
	}
}

// azidentity's browser flow. Its browser is a command that gives us the URL.
func TestInteractiveBrowser(t *testing.T) {
	const in = "Interactive-Browser"
	scene(t, in)
	name, password := builtInUser(t, in)
	dir := t.TempDir()
	opened := filepath.Join(dir, "opened")
	script := "#!/bin/sh\nprintf '%s' \"$1\" > " + opened + ".new && mv " + opened + ".new " + opened + "\n"
	if err := os.WriteFile(filepath.Join(dir, "xdg-open"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	c, err := azidentity.NewInteractiveBrowserCredential(&azidentity.InteractiveBrowserCredentialOptions{ClientOptions: clientOptions(), TenantID: the.admin.TenantID, DisableInstanceDiscovery: true, LoginHint: name})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	signedIn := make(chan error, 1)
	go func() {
		signedIn <- func() error {
			var page []byte
			for page == nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				time.Sleep(20 * time.Millisecond)
				page, _ = os.ReadFile(opened)
			}
			b := newBrowser(t)
			at := string(page)
			shown, err := b.open(at)
			if err == nil {
				shown, err = b.send(at, shown, url.Values{"username": {name}, "password": {password}})
			}
			if err == nil { // what the page's script does
				_, err = b.send(at, shown, nil)
			}
			return err
		}()
	}()
	// As the resource clients ask: azidentity keeps sign-ins of two kinds apart.
	if _, err := c.GetToken(ctx, policy.TokenRequestOptions{EnableCAE: true, Scopes: []string{the.admin.Server + "/.default"}}); err != nil {
		t.Errorf("signed in: %v", err)
	}
	if err := <-signedIn; err != nil {
		t.Fatal(err)
	}
	canRead(t, c, in)
}

// azidentity's managed identity, in both forms, against the endpoint that
// "sallyport identity serve" serves.
func TestManagedIdentity(t *testing.T) {
	const in = "Managed-Identity"
	source := scene(t, in)
	own := the.own(t)
	defer own.Close()
	made, err := own.Do(t.Context(), client.Request{Method: "POST", Path: client.SecretsPath(source.ID), Version: client.SallyportVersion})
	if err != nil {
		t.Fatal(err)
	}
	var secret struct{ Properties struct{ SecretText string } }
	if err := json.Unmarshal(made.Body, &secret); err != nil {
		t.Fatal(err)
	}
	ca := client.ServerTrust{CA: the.admin.CA}
	credential := &client.AuthorityCredential{Authority: the.admin.Server, Trust: ca, Tenant: the.admin.TenantID, ClientID: source.Identity.ClientID, Secret: client.Secret{Text: secret.Properties.SecretText}}
	e := &client.IdentityEndpoint{Get: credential.Get, ClientID: source.Identity.ClientID, Header: rand.Text(), IMDS: true}
	srv := httptest.NewServer(e)
	defer srv.Close()
	if e.Addresses, err = client.IdentityAddresses(srv.Listener.Addr()); err != nil {
		t.Fatal(err)
	}
	asked := 0
	get := func(when string, o *azidentity.ManagedIdentityCredentialOptions, ok bool) {
		t.Helper()
		c, err := azidentity.NewManagedIdentityCredential(o)
		if err != nil {
			t.Fatal(err)
		}
		asked++ // each time for something else: tokens are cached by the process
		token, err := c.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{fmt.Sprintf("%s/gateways/region-%d/.default", the.admin.Server, asked)}})
		if (err == nil) != ok || ok && (token.Token == "" || time.Until(token.ExpiresOn) < 10*time.Minute) {
			t.Errorf("%s: %v, %v", when, token.ExpiresOn, err)
		}
	}
	// IMDS has one address; a program without it is led to ours.
	dialer := &net.Dialer{}
	led := azcore.ClientOptions{Transport: &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, srv.Listener.Addr().String())
	}}}, Retry: policy.RetryOptions{MaxRetries: -1}}
	get("IMDS", &azidentity.ManagedIdentityCredentialOptions{ClientOptions: led}, true)
	get("IMDS by client id", &azidentity.ManagedIdentityCredentialOptions{ClientOptions: led, ID: azidentity.ClientID(source.Identity.ClientID)}, true)
	get("IMDS of another", &azidentity.ManagedIdentityCredentialOptions{ClientOptions: led, ID: azidentity.ClientID(uuid.NewString())}, false)

	t.Setenv("IDENTITY_ENDPOINT", srv.URL+client.IdentityPath)
	t.Setenv("IDENTITY_HEADER", e.Header)
	once := azcore.ClientOptions{Retry: policy.RetryOptions{MaxRetries: -1}}
	get("App Service", &azidentity.ManagedIdentityCredentialOptions{ClientOptions: once}, true)
	t.Setenv("IDENTITY_HEADER", "wrong")
	get("App Service, wrong header", &azidentity.ManagedIdentityCredentialOptions{ClientOptions: once}, false)
}
