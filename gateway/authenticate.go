package gateway

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/trust"
)

// authenticate says who calls. The token's audience must be this gateway's, or
// that of the one cluster that is asked for.
func (g *Gateway) authenticate(ctx context.Context, h http.Header, cluster trust.ClusterUID) (*trust.Caller, error) {
	token, err := bearer(h)
	if err != nil {
		return nil, err
	}
	want := make(authn.Audiences, 0, len(g.audiences)+1)
	want = append(append(want, g.audiences...), g.config.Base+"/clusters/"+string(cluster))
	caller, err := g.config.Authn.Authenticate(ctx, token, want)
	if err != nil {
		return nil, err
	}
	return &caller, nil
}

// bearer finds the one token of a request (RFC 6750 2.1).
func bearer(h http.Header) (string, error) {
	values := h["Authorization"]
	if len(values) > 1 {
		return "", trust.Errorf(trust.Unauthenticated, "several Authorization headers")
	}
	if len(values) == 0 {
		return "", trust.Errorf(trust.Unauthenticated, "no token was presented: send Authorization: Bearer <token>")
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "bearer") || strings.TrimSpace(token) == "" {
		return "", trust.Errorf(trust.Unauthenticated, "the Authorization header is not Bearer <token>")
	}
	return strings.TrimSpace(token), nil
}

// ClientAddress says where a request comes from: the TCP peer, or what trusted
// proxies say in X-Forwarded-For, the last address there that is not one of
// theirs.
func ClientAddress(proxies []netip.Prefix) func(*http.Request) netip.Addr {
	trusted := func(a netip.Addr) bool {
		for _, p := range proxies {
			if p.Contains(a) {
				return true
			}
		}
		return false
	}
	return func(r *http.Request) netip.Addr {
		addr := peerAddress(r.RemoteAddr)
		if len(proxies) == 0 || !trusted(addr) {
			return addr
		}
		var all []string
		for _, v := range r.Header["X-Forwarded-For"] {
			all = append(all, strings.Split(v, ",")...)
		}
		for i := len(all) - 1; i >= 0; i-- {
			next, err := netip.ParseAddr(strings.TrimSpace(all[i]))
			if err != nil {
				return addr // what stands before garbage was written by nobody we know
			}
			addr = next.Unmap()
			if !trusted(addr) {
				return addr
			}
		}
		return addr
	}
}

func peerAddress(remote string) netip.Addr {
	if ap, err := netip.ParseAddrPort(remote); err == nil {
		return ap.Addr().Unmap()
	}
	host, _, _ := net.SplitHostPort(remote)
	a, _ := netip.ParseAddr(host)
	return a.Unmap()
}
