package azureclients

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/trust"
)

// issuer signs tokens that are not the server's: a cluster's ServiceAccounts',
// or a workload's.
type issuer struct {
	url string
	key *ecdsa.PrivateKey
}

func newIssuer(t *testing.T, url string) issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return issuer{url, key}
}

func (i issuer) keys(t *testing.T) json.RawMessage {
	t.Helper()
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: "k1", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func (i issuer) token(audience, subject string) (string, error) {
	now := time.Now()
	claims, err := json.Marshal(map[string]any{"iss": i.url, "aud": audience, "sub": subject, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix()})
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: "k1"}}, nil)
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// runAgents plays both agents of a cluster whose owner accepted the roles: they
// apply whatever they are told. There is no Kubernetes; the agents' API is real.
func runAgents(t *testing.T, id string, roles ...trust.RoleName) {
	t.Helper()
	own, cluster := the.own(t), newIssuer(t, "https://kubernetes.default.svc")
	defer own.Close()
	conn, err := own.PutConnection(t.Context(), id, cluster.url, cluster.keys(t))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(conn.Properties.MandateKey))
	if block == nil {
		t.Fatalf("mandate key %q", conn.Properties.MandateKey)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	var accepted []mandate.Accepted
	for _, r := range trust.Published() {
		for _, name := range roles {
			if r.FullName().Equal(name) {
				accepted = append(accepted, mandate.Accepted{Role: r.FullName(), Revision: r.Revision(), Rules: r.Rules})
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	uid := trust.ClusterUID(conn.Properties.ClusterUID)
	for _, name := range []string{"proxy", "reconciler"} {
		agent, err := client.NewAgent(client.AgentConfig{Server: the.admin.Server, Trust: client.ServerTrust{CA: the.admin.CA}, Cluster: uid, Name: name, Instance: name + "-1", Version: "test",
			Token: func(context.Context) (string, error) {
				return cluster.token(client.EnrolAudience(uid), "system:serviceaccount:sallyport-system:sallyport-"+name)
			}})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { _ = agent.Run(ctx) }) // ends with ctx
		wg.Go(func() { follow(ctx, t, agent, uid, key.(ed25519.PublicKey), name == "reconciler", accepted) })
	}
}

// follow says at once of every state that it is applied.
func follow(ctx context.Context, t *testing.T, agent *client.Agent, uid trust.ClusterUID, key ed25519.PublicKey, reports bool, accepted []mandate.Accepted) {
	var held mandate.State
	err := agent.States(ctx, func() mandate.Floor { return held.Floor() }, func(signed []byte) error {
		s, err := mandate.Open(key, uid, held.Floor(), signed)
		if err != nil {
			return err
		}
		held = s
		if _, err := agent.Ask(ctx, mandate.NewNonce(), s.Floor()); err != nil || !reports {
			return err
		}
		r := mandate.Report{Epoch: s.Epoch, Revision: s.Revision, KubernetesVersion: "v1.36.3", Nodes: 3, Accepted: accepted}
		for _, b := range s.Bindings {
			r.Bindings = append(r.Bindings, mandate.BindingReport{UID: b.UID, Applied: true})
		}
		return agent.Report(ctx, r)
	})
	if ctx.Err() == nil {
		t.Errorf("agent: %v", err)
	}
}
