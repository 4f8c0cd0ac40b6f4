package control

import (
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
)

// The server's own health is /providers/Sallyport.Access/status/default: what
// its processes say of themselves in the store, what agents were last heard,
// and what somebody should look after, each with what to do next. It names
// every cluster, so it is for readers of everything.
func (c *Control) statusRoutes() []*route {
	return []*route{{method: "GET", pattern: "/providers/Sallyport.Access/status/default", typ: statusType, versions: arm.Sallyport,
		action: statusType + "/read", handle: (*call).getStatus}}
}

const statusType = "Sallyport.Access/status"

type statusBody struct {
	ID         string           `json:"id"`
	Name       string           `json:"name"`
	Type       string           `json:"type"`
	Properties statusProperties `json:"properties"`
}

type statusProperties struct {
	Time         string              `json:"time"`
	URL          string              `json:"url"`
	Locations    []string            `json:"locations"`
	Version      string              `json:"version"`
	RolesApart   bool                `json:"rolesApart"`
	Servers      []serverBody        `json:"servers"`
	Gateways     int                 `json:"gateways"` // live replicas that let requests through
	Tunnels      int                 `json:"tunnels"`
	Clusters     fleetBody           `json:"clusters"`
	Store        storeBody           `json:"store"`
	Certificates []endingBody        `json:"certificates"`
	SigningKeys  []signingKeyBody    `json:"signingKeys"`
	Warnings     []statusWarningBody `json:"warnings"`
}

type serverBody struct {
	Replica   string   `json:"replica"`
	Host      string   `json:"host"`
	Version   string   `json:"version"`
	Roles     []string `json:"roles"`
	Location  string   `json:"location"`
	Started   string   `json:"started"`
	HandsOver bool     `json:"handsOver"`
	Ready     bool     `json:"ready"`
	Problems  []string `json:"problems"`
	Audit     string   `json:"audit"` // Taken, Failing; None where no gateway runs
}

type fleetBody struct {
	Total     int        `json:"total"`
	Connected int        `json:"connected"`
	Away      []awayBody `json:"away"` // the first of those that are not
	AwayTotal int        `json:"awayTotal"`
}

type awayBody struct {
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

type storeBody struct {
	Kind       string `json:"kind"` // embedded, external
	SizeBytes  int64  `json:"sizeBytes,omitempty"`
	QuotaBytes int64  `json:"quotaBytes,omitempty"`
	NearlyFull bool   `json:"nearlyFull"`
	Known      bool   `json:"known"` // etcd tells its size to root alone
}

type endingBody struct {
	Name    string `json:"name"`
	Server  string `json:"server,omitempty"` // the replica that presents it
	Expires string `json:"expires"`
	Renewed bool   `json:"renewedByItself"`
	expires time.Time
}

type signingKeyBody struct {
	KeyID   string `json:"keyId"`
	State   string `json:"state"` // Next, Signing, Retired, Revoked
	Expires string `json:"signsUntil"`
}

type statusWarningBody struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Next    string `json:"next,omitempty"`
}

func (p *statusProperties) warn(code, message, next string) {
	p.Warnings = append(p.Warnings, statusWarningBody{code, message, next})
}

func (k *call) getStatus() (*answer, error) {
	p := statusProperties{Time: arm.Time(k.Now()), URL: k.BaseURL, Locations: k.Locations, Version: k.Version,
		Servers: []serverBody{}, Certificates: []endingBody{}, SigningKeys: []signingKeyBody{}, Warnings: []statusWarningBody{}}
	for _, fill := range []func(*statusProperties) error{k.servers, k.gateways, k.fleet, k.sharedCertificates, k.signingKeys} {
		if err := fill(&p); err != nil {
			return nil, err
		}
	}
	p.expiries(k.Now())
	return ok(statusBody{ID: "/providers/" + statusType + "/default", Name: "default", Type: statusType, Properties: p}), nil
}

// servers are the live processes.
func (k *call) servers(p *statusProperties) error {
	var all []store.Server
	for _, prefix := range []string{store.ServerPrefix, store.AuthorityServerPrefix, store.GatewayServerPrefix} {
		some, _, err := store.List[store.Server](k.ctx, k.Store, prefix)
		if err != nil {
			return err
		}
		for _, s := range some {
			all = append(all, s.Value)
		}
	}
	slices.SortStableFunc(all, func(a, b store.Server) int { return a.Started.Compare(b.Started) })
	p.RolesApart = len(all) > 0
	p.Store.Kind = "external"
	versions, together := map[string]bool{}, false
	for _, s := range all {
		versions[s.Version] = true
		p.RolesApart = p.RolesApart && len(s.Roles) == 1
		together = together || len(s.Roles) > 1 && slices.Contains(s.Roles, "gateway")
		p.server(&s)
	}
	// A thief of control or authority can do what a thief of the other can, so
	// only a gateway beside them is worth a warning.
	if together {
		p.warn("RolesTogether", "A gateway shares its process with the control plane or the authority: whoever steals it has them too, on every connected cluster. Run gateways apart in production.",
			"set roles and store.endpoints in sallyportd's configuration (docs/production.md)")
	}
	if len(versions) > 1 {
		p.warn("VersionsDiffer", "Servers run in different versions: "+strings.Join(sorted(versions), ", ")+".", "finish the upgrade: restart the older ones")
	}
	if p.Store.NearlyFull {
		p.warn("StoreNearlyFull", "The store has reached 80 % of what etcd takes; at 100 % nothing can be changed any more.",
			"delete what is not needed, then defragment: an embedded store does it when sallyportd restarts, else etcdctl defrag")
	}
	return nil
}

func sorted(set map[string]bool) []string {
	var all []string
	for s := range set {
		all = append(all, s)
	}
	slices.Sort(all)
	return all
}

// server shows one process.
func (p *statusProperties) server(s *store.Server) {
	b := serverBody{Replica: s.Replica, Host: s.Host, Version: s.Version, Roles: s.Roles, Location: s.Location, Started: arm.Time(s.Started),
		HandsOver: s.HandsOver, Ready: len(s.Problems) == 0, Problems: append([]string{}, s.Problems...), Audit: "None"}
	if slices.Contains(s.Roles, "gateway") {
		b.Audit = "Taken"
		if s.Audit != "" {
			b.Audit = "Failing"
			p.warn("AuditFailing", "Server "+s.Host+" takes no audit records, so it lets nobody through: "+s.Audit+".", "make room or repair the file at audit.file of its configuration")
		}
	}
	for _, problem := range s.Problems {
		if problem != s.Audit {
			p.warn("ServerNotReady", "Server "+s.Host+" ("+strings.Join(s.Roles, ", ")+") is not ready: "+problem+".", "look at its log")
		}
	}
	for _, c := range s.Certificates {
		name := "towards callers"
		if c.Use == store.UsePeer {
			name = "towards other gateways"
		}
		p.Certificates = append(p.Certificates, endingBody{Name: name, Server: s.Replica, Expires: arm.Time(c.Expires), Renewed: c.Renewed, expires: c.Expires})
	}
	if u := s.Store; u != nil {
		p.Store = storeBody{Kind: "external", SizeBytes: u.Size, QuotaBytes: u.Quota, Known: u.Size > 0, NearlyFull: u.Quota > 0 && u.Size >= u.Quota/10*8}
		if u.Embedded {
			p.Store.Kind = "embedded"
		}
	}
	p.Servers = append(p.Servers, b)
}

// gateways are the live replicas, and the tunnels they hold.
func (k *call) gateways(p *statusProperties) error {
	live, _, err := store.List[store.Gateway](k.ctx, k.Store, store.GatewayPrefix)
	if err != nil {
		return err
	}
	tunnels, _, err := store.List[store.Tunnel](k.ctx, k.Store, store.TunnelPrefix)
	if err != nil {
		return err
	}
	p.Gateways, p.Tunnels = len(live), len(tunnels)
	here := map[string]int{}
	alone := 0
	for _, g := range live {
		here[arm.NormalLocation(g.Value.Location)]++
		if g.Value.Address == "" {
			alone++
		}
	}
	for _, l := range k.Locations {
		if here[arm.NormalLocation(l)] == 0 && arm.SameLocation(l, k.Location) {
			p.warn("NoGateway", "No gateway of location "+l+" lives: nobody reaches its clusters.", "start a server that plays gateway there, or look at its log")
		}
	}
	if len(live) > 1 && alone > 0 {
		p.warn("NoHandOver", "There are several gateways, and not all hand requests over: one without a cluster's tunnel refuses its requests.", "set peers.listen in every gateway's configuration")
	}
	return nil
}

// mostAway is how many clusters that are not connected are named.
const mostAway = 20

// fleet counts clusters, and names those whose agents are not there.
func (k *call) fleet(p *statusProperties) error {
	p.Clusters.Away = []awayBody{}
	all, _, err := store.List[store.Cluster](k.ctx, k.Store, "/arm/subscriptions/")
	if err != nil {
		return err
	}
	p.Clusters.Total = len(all)
	for _, c := range all {
		reason, next, err := k.awayCluster(&c.Value)
		if err != nil {
			return err
		}
		if reason == "" {
			p.Clusters.Connected++
			continue
		}
		p.Clusters.AwayTotal++
		if len(p.Clusters.Away) < mostAway {
			p.Clusters.Away = append(p.Clusters.Away, awayBody{c.Value.ID, reason})
			p.warn("ClusterAway", "Cluster "+nameOf(c.Value.ID)+": "+reason+".", next)
		}
	}
	return nil
}

// awayCluster says why a cluster counts as not connected, and what to do.
func (k *call) awayCluster(r *store.Cluster) (reason, next string, err error) {
	names := ""
	if id, err := arm.ParseID(r.ID); err == nil {
		names = " -g " + id.Group + " -n " + id.Name() + " --subscription " + id.Subscription
	}
	if r.Enrolment == nil {
		return "it was never connected, or was disconnected", "sallyport cluster connect" + names, nil
	}
	for _, name := range []string{proxy, reconciler} {
		s, err := k.status(k.ctx, r.UID, name)
		if err != nil {
			return "", "", err
		}
		if why := k.away(&s); why != "" {
			return strings.TrimPrefix(why, "waiting for "), "sallyport cluster status" + names, nil
		}
	}
	return "", "", nil
}

// sharedCertificates are the CAs.
func (k *call) sharedCertificates(p *statusProperties) error {
	keys, _, err := store.List[store.SealedKey](k.ctx, k.Store, store.SharedKeyPrefix)
	if err != nil {
		return err
	}
	for _, key := range keys {
		block, _ := pem.Decode(key.Value.Public)
		if block == nil || block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue // whoever needs it says so
		}
		p.Certificates = append(p.Certificates, endingBody{Name: key.Value.Name, Expires: arm.Time(cert.NotAfter), expires: cert.NotAfter})
	}
	return nil
}

// signingKeys are the authority's.
func (k *call) signingKeys(p *statusProperties) error {
	keys, err := store.SigningKeys(k.ctx, k.Store)
	if err != nil {
		return err
	}
	now := k.Now()
	var last time.Time
	for i := range keys {
		v := &keys[i]
		if !v.Revoked && v.RetireAfter.After(last) {
			last = v.RetireAfter
		}
		p.SigningKeys = append(p.SigningKeys, signingKeyBody{KeyID: v.KeyID, State: signingKeyState(v, now), Expires: arm.Time(v.RetireAfter)})
	}
	if left := last.Sub(now); left < 12*time.Hour {
		p.warn("SigningKeyNotRotated", "No signing key lasts another 12 hours: without a new one no tokens can be had.", "start a server that plays authority, or look at its log")
	}
	return nil
}

// Certificates that nobody renews by themselves are warned about this long
// before their end; those that renew themselves when it has not happened.
const (
	warnCertificate = 21 * 24 * time.Hour
	warnRenewed     = 7 * time.Hour
)

// host names a process by where it runs.
func (p *statusProperties) host(replica string) string {
	for _, s := range p.Servers {
		if s.Replica == replica {
			return s.Host
		}
	}
	return replica
}

// expiries sorts the certificates, the next to end first, and warns.
func (p *statusProperties) expiries(now time.Time) {
	slices.SortStableFunc(p.Certificates, func(a, b endingBody) int { return cmp.Compare(a.expires.UnixNano(), b.expires.UnixNano()) })
	for _, c := range p.Certificates {
		left := c.expires.Sub(now)
		what := "The certificate " + c.Name + " of server " + p.host(c.Server)
		next := "replace the files at tls.certFile and tls.keyFile; they are read again by themselves"
		switch {
		case c.Renewed && left < warnRenewed:
			next = "look at that server's log: it should have been renewed by itself"
		case c.Renewed || left >= warnCertificate:
			continue
		case c.Server == "":
			what, next = "The CA "+c.Name, "plan its replacement: whoever pins it must be told of the new one"
		}
		p.warn("CertificateEnds", what+" ends "+c.Expires+".", next)
	}
}
