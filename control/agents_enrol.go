package control

import (
	"context"
	"net/http"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// The agents' ServiceAccounts in the cluster, as Kubernetes names them in a
// token's subject.
var agentSubjects = map[string]string{
	proxy:      "system:serviceaccount:sallyport-system:sallyport-proxy",
	reconciler: "system:serviceaccount:sallyport-system:sallyport-reconciler",
	installer:  "system:serviceaccount:sallyport-system:sallyport-installer",
}

// enrolAudience is the audience of the tokens that agents of a cluster enrol
// with.
func enrolAudience(uid trust.ClusterUID) string { return "sallyport:enrol:" + string(uid) }

// enrol exchanges a projected ServiceAccount token of the cluster for a
// certificate of one hour. Of the request for a certificate only its key counts.
func (c *Control) enrol(w http.ResponseWriter, r *http.Request, _ *agent, body []byte) error {
	var in enrolRequest
	if err := arm.Decode(body, &in); err != nil {
		return err
	}
	subject, known := agentSubjects[in.Agent]
	if !known {
		return trust.Errorf(trust.Invalid, "agent %.32q is none of %s, %s and %s", in.Agent, proxy, reconciler, installer)
	}
	item, err := c.clusterByUID(r.Context(), in.Cluster)
	if err != nil {
		return err
	}
	if item.Value.Enrolment == nil || item.Value.Deleting {
		return trust.Errorf(trust.Forbidden, "cluster %s is not to be connected", in.Cluster)
	}
	if err := c.checkEnrolment(r.Context(), item.Value.Enrolment, in, subject); err != nil {
		return err
	}
	leaf, err := pki.AgentLeaf(string(in.Cluster), in.Agent)
	if err != nil {
		return err
	}
	cert, err := c.AgentCA.IssueCSR([]byte(in.CSR), leaf)
	if err != nil {
		return trust.Errorf(trust.Invalid, "the certificate request cannot be used").Because(err)
	}
	c.Log.InfoContext(r.Context(), "agent enrolled", "cluster", in.Cluster, "agent", in.Agent)
	writeJSON(w, http.StatusOK, struct {
		Certificate string `json:"certificate"`
		CA          string `json:"ca"`
	}{string(cert), string(c.AgentCA.PEM())})
	return nil
}

// checkEnrolment verifies the token against the keys that were handed over at
// connect: nobody is asked for others.
func (c *Control) checkEnrolment(ctx context.Context, e *store.Enrolment, in enrolRequest, subject string) error {
	keys, err := authn.ParseKeys(e.JWKS)
	if err != nil {
		return trust.Errorf(trust.Forbidden, "the keys handed over for cluster %s cannot be read; connect it again", in.Cluster).Because(err)
	}
	claims, err := authn.NewKeyRing(e.ServiceAccountIssuer, authn.StaticKeys(keys), c.Now, c.Log).Verify(ctx, in.Token)
	if err != nil {
		return err
	}
	if want := enrolAudience(in.Cluster); claims.Audience != want {
		return trust.Errorf(trust.Unauthenticated, "the token's audience is %.200q, it must be %q", claims.Audience, want)
	}
	if claims.Subject != subject {
		return trust.Errorf(trust.Forbidden, "the token is of %.200q, the %s agent is %q", claims.Subject, in.Agent, subject)
	}
	return nil
}
