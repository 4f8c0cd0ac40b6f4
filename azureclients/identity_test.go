package azureclients

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
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

const (
	reader           = "/providers/Microsoft.Authorization/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7"
	exchangeAudience = "api://AzureADTokenExchange"
)

// federate lets tokens of an issuer with a subject stand for a source's identity.
func federate(t *testing.T, own *client.Client, source *client.Source, by issuer, subject string) {
	t.Helper()
	if _, err := own.Do(t.Context(), client.Request{Method: "PUT", Path: client.FederatedPath(source.ID) + "/trainer", Version: client.SallyportVersion, Body: map[string]any{
		"properties": map[string]any{"issuer": by.url, "subject": subject, "audiences": []string{exchangeAudience}, "keys": by.keys(t)}}}); err != nil {
		t.Fatal(err)
	}
}

// A workload outside gets the identity of a source for a token of its own
// issuer, by a file and by a function, and can read what the identity may.
func TestWorkloadIdentity(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	const in = "Workload-Identity"
	source := scene(t, in)
	own := the.own(t)
	defer own.Close()
	workload := newIssuer(t, "https://workload.example.com/"+rand.Text())
	const subject = "system:serviceaccount:jobs:trainer"
	federate(t, own, source, workload, subject)
	credential := func(subject string) azcore.TokenCredential {
		token, err := workload.token(exchangeAudience, subject)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{ClientOptions: clientOptions(), TenantID: the.admin.TenantID,
			ClientID: source.Identity.ClientID, TokenFilePath: file, DisableInstanceDiscovery: true})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	groupOf := func(c azcore.TokenCredential) error {
		groups, err := armresources.NewResourceGroupsClient(the.admin.SubscriptionID, c, options())
		if err != nil {
			t.Fatal(err)
		}
		_, err = groups.Get(ctx, in, nil)
		return err
	}
	if err := groupOf(credential(subject)); code(err) != "AuthorizationFailed" {
		t.Errorf("a source without a role: %v", err)
	}
	if _, err := own.Do(ctx, client.Request{Method: "PUT", Path: group(in) + "/providers/Microsoft.Authorization/roleAssignments/" + uuid.NewString(), Version: "2022-04-01", Body: map[string]any{
		"properties": map[string]any{"roleDefinitionId": reader, "principalId": source.Identity.PrincipalID, "principalType": "ServicePrincipal"}}}); err != nil {
		t.Fatal(err)
	}
	if err := groupOf(credential(subject)); err != nil {
		t.Errorf("a reader: %v", err)
	}
	assertion, err := azidentity.NewClientAssertionCredential(the.admin.TenantID, source.Identity.ClientID, func(context.Context) (string, error) { return workload.token(exchangeAudience, subject) },
		&azidentity.ClientAssertionCredentialOptions{ClientOptions: clientOptions(), DisableInstanceDiscovery: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := groupOf(assertion); err != nil {
		t.Errorf("a reader by assertion: %v", err)
	}
	if err := groupOf(credential("system:serviceaccount:jobs:other")); err == nil || !strings.Contains(err.Error(), "AADSTS70021") {
		t.Errorf("another subject: %v", err)
	}
}

// A service with a certificate, as MSAL signs for it: good while the certificate
// is registered, and not with another key.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	const in = "Client-Certificate"
	source := scene(t, in)
	own := the.own(t)
	defer own.Close()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "trainer"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	at := client.Request{Method: "PUT", Path: client.CertificatesPath(source.ID) + "/trainer", Version: client.SallyportVersion, Body: map[string]any{
		"properties": map[string]any{"certificate": base64.StdEncoding.EncodeToString(der)}}}
	token := func(chain bool) error {
		c, err := azidentity.NewClientCertificateCredential(the.admin.TenantID, source.Identity.ClientID, []*x509.Certificate{certificate}, key,
			&azidentity.ClientCertificateCredentialOptions{ClientOptions: clientOptions(), DisableInstanceDiscovery: true, SendCertificateChain: chain})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{the.admin.Server + "/.default"}})
		return err
	}
	if err := token(false); err == nil || !strings.Contains(err.Error(), "AADSTS700027") {
		t.Errorf("before it is registered: %v", err)
	}
	if _, err := own.Do(ctx, at); err != nil {
		t.Fatal(err)
	}
	for _, chain := range []bool{false, true} {
		if err := token(chain); err != nil {
			t.Errorf("chain sent %t: %v", chain, err)
		}
	}
	if _, err := own.Do(ctx, client.Request{Method: "DELETE", Path: at.Path, Version: at.Version}); err != nil {
		t.Fatal(err)
	}
	if err := token(false); err == nil || !strings.Contains(err.Error(), "AADSTS700027") {
		t.Errorf("after it was removed: %v", err)
	}
}

// What a client shows of a refused secret is Azure's own number.
func TestWrongSecret(t *testing.T) {
	t.Parallel()
	c, err := azidentity.NewClientSecretCredential(the.admin.TenantID, the.admin.ClientID, "wrong", &azidentity.ClientSecretCredentialOptions{ClientOptions: clientOptions(), DisableInstanceDiscovery: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{the.admin.Server + "/.default"}}); err == nil || !strings.Contains(err.Error(), "AADSTS7000215") {
		t.Errorf("a wrong secret: %v", err)
	}
}

// The metadata that clients configure themselves from names the endpoints that
// the tests use.
func TestMetadata(t *testing.T) {
	t.Parallel()
	var cloud struct {
		ResourceManager string
		Authentication  struct{ LoginEndpoint string }
	}
	res, err := the.http.Get(the.admin.Server + "/metadata/endpoints?api-version=2022-09-01")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&cloud); err != nil || cloud.ResourceManager != the.admin.Server || cloud.Authentication.LoginEndpoint != the.admin.Server {
		t.Errorf("%s: %s, %v", res.Status, fmt.Sprint(cloud), err)
	}
}
