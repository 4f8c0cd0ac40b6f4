package control

import (
	"context"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// gatewayServerLife is how long a gateway's certificate for callers lasts.
const gatewayServerLife = 30 * 24 * time.Hour

// certify issues certificates to gateways, which hold no key that signs. They
// ask in the store: that they are gateways is known by the etcd user that alone
// may write there, and what a certificate names is decided here.
func (c *Control) certify(ctx context.Context) error {
	k := &certifier{Control: c, asked: map[string]store.KV{}, answered: map[string]bool{}}
	return store.Follow(ctx, c.Store, store.CertificateRequestPrefix,
		func(all []store.KV, _ int64) error {
			clear(k.asked)
			for _, kv := range all {
				k.asked[kv.Key] = kv
			}
			clear(k.answered)
			k.stale = true
			k.work(ctx)
			return nil
		},
		func(b store.Batch) error {
			for _, e := range b.Events {
				delete(k.answered, e.Key)
				if e.Type == store.EventDelete {
					delete(k.asked, e.Key)
					k.stale = true
					continue
				}
				k.asked[e.Key] = store.KV{Key: e.Key, Value: e.Value, Revision: e.Revision}
			}
			k.work(ctx)
			return nil
		})
}

// certifier is what certify has before it. Batches come at least every second,
// so what fails is tried again.
type certifier struct {
	*Control
	asked    map[string]store.KV
	answered map[string]bool
	stale    bool // there may be certificates that nobody asks for any more
}

func (k *certifier) work(ctx context.Context) {
	for key, kv := range k.asked {
		if k.answered[key] {
			continue
		}
		if err := k.answer(ctx, kv); err != nil {
			k.Log.WarnContext(ctx, "gateway's certificate not issued", "request", key, "error", err)
			continue
		}
		k.answered[key] = true
	}
	if k.stale {
		if err := k.sweep(ctx); err != nil {
			k.Log.WarnContext(ctx, "old certificates of gateways not removed", "error", err)
			return
		}
		k.stale = false
	}
}

// sweep removes certificates whose requests have gone.
func (k *certifier) sweep(ctx context.Context) error {
	all, _, err := store.List[store.GatewayCertificate](ctx, k.Store, store.GatewayCertificatePrefix)
	if err != nil {
		return err
	}
	for _, cert := range all {
		v := cert.Value
		if _, there := k.asked[store.CertificateRequest{Replica: v.Replica, Use: v.Use}.Key()]; there {
			continue
		}
		if _, err := k.Store.Commit(ctx, store.Delete(v.Key(), 0)); err != nil {
			return err
		}
	}
	return nil
}

// answer answers one request, unless another server of this role did.
func (k *certifier) answer(ctx context.Context, kv store.KV) error {
	r, err := store.Decode[store.CertificateRequest](kv.Value)
	if err != nil {
		return err
	}
	if r.Key() != kv.Key {
		return fmt.Errorf("the request at %s names another replica or use", kv.Key)
	}
	out := store.GatewayCertificate{Replica: r.Replica, Use: r.Use, Request: kv.Revision}
	have, err := store.Get[store.GatewayCertificate](ctx, k.Store, out.Key())
	if err != nil && trust.KindOf(err) != trust.NotFound {
		return err
	}
	if have.Value.Request >= kv.Revision {
		return nil
	}
	if err := k.issue(&out, &r); err != nil {
		out.Chain, out.Refused = nil, err.Error()
		k.Log.WarnContext(ctx, "gateway's certificate refused", "replica", r.Replica, "use", r.Use, "reason", err)
	} else {
		k.Log.InfoContext(ctx, "gateway's certificate issued", "replica", r.Replica, "use", r.Use, "expires", out.Expires)
	}
	_, err = k.Store.Commit(ctx, store.Put(out))
	return err
}

// issue makes the certificate. Its error is for whoever runs the gateway.
func (c *Control) issue(out *store.GatewayCertificate, r *store.CertificateRequest) error {
	ca, leaf := c.GatewayCA, pki.Leaf{}
	var err error
	switch r.Use {
	case store.UsePeer:
		if leaf, err = pki.GatewayLeaf(r.Replica); err != nil {
			return err
		}
	case store.UseServer:
		if ca = c.ServerTLS; ca == nil {
			return fmt.Errorf("the control plane has a certificate of its owner's and no CA to sign one for gateways: set tls.certFile and tls.keyFile in the gateway's configuration")
		}
		if leaf, err = pki.HostLeaf(c.GatewayBase, gatewayServerLife); err != nil {
			return err
		}
	default:
		return fmt.Errorf("certificates are for %s or %s, not for %.40q", store.UsePeer, store.UseServer, r.Use)
	}
	if ca == nil {
		return fmt.Errorf("this control plane has no CA of gateways")
	}
	cert, err := ca.IssueCSR(r.CSR, leaf)
	if err != nil {
		return err
	}
	out.Chain = append(cert, ca.PEM()...)
	out.Expires = c.Now().Add(leaf.Life).UTC()
	return nil
}
