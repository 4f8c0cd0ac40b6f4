package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/netenv/probe"
	"github.com/sallyport/sallyport/trust"
)

const testIssuer = "https://kubernetes.default.svc"

// fakeAgents are a cluster's agents without a cluster: they enrol, follow, ask
// and report as the real ones do, and apply nothing.
type fakeAgents struct {
	uid      trust.ClusterUID
	public   ed25519.PublicKey
	accepted []string

	mu   sync.Mutex // guards held
	held map[string]mandate.Floor
}

func startAgents(ctx context.Context, group, name string, accepted []string) (*sync.WaitGroup, error) {
	admin, err := client.ReadAdminFile(shared.admin)
	if err != nil {
		return nil, err
	}
	server := client.ServerTrust{CA: admin.CA}
	c, err := (&client.Context{Server: admin.Server, CA: admin.CA, Tenant: admin.TenantID, Admin: shared.admin}).Open(nil, "test")
	if err != nil {
		return nil, err
	}
	defer c.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		return nil, err
	}
	id := client.ClusterID("/subscriptions/"+admin.SubscriptionID+"/resourceGroups/"+group, name)
	connection, err := c.PutConnection(ctx, id, testIssuer, keys)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(connection.Properties.MandateKey))
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	f := &fakeAgents{uid: trust.ClusterUID(connection.Properties.ClusterUID), accepted: accepted, held: map[string]mandate.Floor{}}
	f.public, _ = parsed.(ed25519.PublicKey)
	running := &sync.WaitGroup{}
	for _, agent := range []string{"proxy", "reconciler"} {
		a, err := client.NewAgent(client.AgentConfig{Server: admin.Server, Trust: server, Cluster: f.uid, Name: agent, Instance: agent, Version: "test",
			Token: func(context.Context) (string, error) {
				return sign(key, "system:serviceaccount:sallyport-system:sallyport-"+agent, client.EnrolAudience(f.uid))
			}})
		if err != nil {
			return nil, err
		}
		running.Go(func() { a.Run(ctx) })
		running.Go(func() {
			a.States(ctx, func() mandate.Floor { return f.floor(agent) }, func(s []byte) error { return f.take(ctx, a, agent, s) })
		})
	}
	return running, nil
}

func sign(key *ecdsa.PrivateKey, subject, audience string) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil)
	if err != nil {
		return "", err
	}
	now := time.Now()
	return jwt.Signed(signer).Claims(jwt.Claims{Issuer: testIssuer, Subject: subject, Audience: jwt.Audience{audience},
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(10 * time.Minute))}).Serialize()
}

func (f *fakeAgents) floor(agent string) mandate.Floor {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held[agent]
}

// take checks a state and says that it is applied.
func (f *fakeAgents) take(ctx context.Context, a *client.Agent, agent string, signed []byte) error {
	s, err := mandate.Open(f.public, f.uid, f.floor(agent), signed)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.held[agent] = s.Floor()
	f.mu.Unlock()
	if _, err := a.Ask(ctx, mandate.NewNonce(), s.Floor()); err != nil {
		return err
	}
	if agent == "proxy" { // as if its owner allowed a look at one name
		return a.Probe(ctx, probe.Report{Kind: probe.Kind, Cluster: string(f.uid), DNSServers: []string{"10.0.0.10"},
			Names: []probe.Name{{Name: "fraudstore.blob.core.windows.net", Addresses: []string{"10.20.1.6"}}}})
	}
	report := mandate.Report{Epoch: s.Epoch, Revision: s.Revision, KubernetesVersion: "v1.36.3", Nodes: 1}
	for _, r := range trust.Published() {
		if slices.Contains(f.accepted, string(r.FullName())) {
			report.Accepted = append(report.Accepted, mandate.Accepted{Role: r.FullName(), Revision: r.Revision(), Rules: r.Rules})
		}
	}
	for _, b := range s.Bindings {
		one := mandate.BindingReport{UID: b.UID, Applied: true}
		for _, g := range b.Grants {
			if !slices.Contains(f.accepted, string(g.Role)) {
				one = mandate.BindingReport{UID: b.UID, Problem: &mandate.Problem{Code: mandate.RoleNotAccepted, Uncovered: g.Rules,
					Message: fmt.Sprintf("the cluster's owner has not accepted role %s", g.Role), Command: "sallyport cluster accept-roles --roles " + string(g.Role)}}
			}
		}
		report.Bindings = append(report.Bindings, one)
	}
	return a.Report(ctx, report)
}
