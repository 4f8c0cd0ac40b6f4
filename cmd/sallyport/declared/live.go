package declared

import (
	"crypto"
	"encoding/json"
	"maps"
	"slices"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/trust"
)

// Live is a resource as a server has it.
type Live struct {
	Spec    any    // as a file would declare it; ids and names in the server's casing
	Set     string // the set of files that keeps it, "" for none
	Problem string // why a binding is Failed, "" if it is not
	Raw     json.RawMessage
}

// resource is what the resources of all kinds look like.
type resource struct {
	ID, Name, Location string
	Tags               map[string]string
	Identity           *client.Identity
	Properties         struct {
		SallyportSet      string
		ProvisioningState string
		Error             *client.Detail

		SourceResourceID string
		Roles            []string

		RoleName string
		Rules    []client.Rule

		Issuer, Subject string
		Audiences       []string
		Keys            any

		DisableLocalAccounts   bool
		APIServerAccessProfile *client.APIServerAccessProfile
	}
}

// FromServer reads a resource as ARM shows it.
func FromServer(kind Kind, raw json.RawMessage) (*Live, error) {
	var r resource
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, trust.Errorf(trust.Internal, "the server's answer cannot be read as a %s", kind).Because(err)
	}
	id, err := arm.ParseID(r.ID)
	if err != nil {
		return nil, trust.Errorf(trust.Internal, "the server's answer cannot be read as a %s", kind).Because(err)
	}
	l := &Live{Raw: raw, Set: r.Properties.SallyportSet}
	tags := map[string]string{}
	for k, v := range r.Tags {
		if k == SetTag {
			l.Set = v
		} else {
			tags[k] = v
		}
	}
	p := &r.Properties
	switch kind {
	case KindGroup:
		l.Spec = &Group{Kind: kind, Name: r.Name, Location: r.Location, Tags: tags}
	case KindRole:
		role := &Role{Kind: kind, Name: p.RoleName}
		for _, rule := range p.Rules {
			role.Rules = append(role.Rules, Rule{APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames, NonResourceURLs: rule.NonResourceURLs, Verbs: rule.Verbs})
		}
		l.Spec = role
	case KindSource:
		s := &Source{Kind: kind, ID: r.ID, Location: r.Location, Identity: "None", Tags: tags}
		if r.Identity != nil && r.Identity.PrincipalID != "" {
			s.Identity = ""
		}
		l.Spec = s
	case KindFederated:
		l.Spec = &Federated{Name: r.Name, Issuer: p.Issuer, Subject: p.Subject, Audiences: p.Audiences, Keys: p.Keys}
	case KindCluster:
		c := &Cluster{Kind: kind, ResourceGroup: id.Group, Name: r.Name, Location: r.Location, DisableLocalAccounts: &p.DisableLocalAccounts, AuthorizedIPRanges: []string{}, Tags: tags}
		if a := p.APIServerAccessProfile; a != nil && a.AuthorizedIPRanges != nil {
			c.AuthorizedIPRanges = a.AuthorizedIPRanges
		}
		l.Spec = c
	case KindBinding:
		l.Spec = &Binding{Kind: kind, ResourceGroup: id.Group, ClusterName: id.Chain[0].Names[0], Name: r.Name, SourceResourceID: p.SourceResourceID, Roles: p.Roles}
		if p.ProvisioningState == arm.Failed {
			l.Problem = "it is Failed"
			if p.Error != nil {
				l.Problem = p.Error.Message
			}
		}
	}
	return l, nil
}

// Texts are what a server has and what a file declares, as YAML that is equal
// when nothing has to be done: what the file says nothing about is left out of
// the first, and where both mean the same it is written as the file has it. A
// source's federated credentials are objects of their own.
func Texts(live *Live, want any) (before, after []byte, err error) {
	if s, ok := want.(*Source); ok {
		alone := *s
		alone.FederatedCredentials = nil
		want = &alone
	}
	if after, err = Text(want); err != nil || live == nil {
		return nil, after, err
	}
	before, err = Text(like(live.Spec, want))
	return before, after, err
}

// like is a server's resource as far as want speaks of it, in want's spelling.
func like(live, want any) any {
	switch w := want.(type) {
	case *Group:
		l := *live.(*Group)
		l.Name, l.Tags = w.Name, said(w.Tags, l.Tags)
		return &l
	case *Role:
		l := *live.(*Role)
		l.Name = w.Name
		if trust.RevisionOf(l.TrustRules()) == trust.RevisionOf(w.TrustRules()) {
			l.Rules = w.Rules
		}
		return &l
	case *Source:
		l := *live.(*Source)
		l.ID, l.Tags = w.ID, said(w.Tags, l.Tags)
		if w.Location == "" {
			l.Location = ""
		}
		return &l
	case *Federated:
		l := *live.(*Federated)
		l.Name = w.Name
		if sameKeys(&l, w) {
			l.Keys = w.Keys
		}
		return &l
	case *Cluster:
		l := *live.(*Cluster)
		l.ResourceGroup, l.Name, l.Tags = w.ResourceGroup, w.Name, said(w.Tags, l.Tags)
		if w.Location == "" {
			l.Location = ""
		}
		if w.DisableLocalAccounts == nil {
			l.DisableLocalAccounts = nil
		}
		if w.AuthorizedIPRanges == nil {
			l.AuthorizedIPRanges = nil
		}
		return &l
	case *Binding:
		l := *live.(*Binding)
		l.ResourceGroup, l.ClusterName, l.Name = w.ResourceGroup, w.ClusterName, w.Name
		if arm.SameID(l.SourceResourceID, w.SourceResourceID) {
			l.SourceResourceID = w.SourceResourceID
		}
		return &l
	}
	return live
}

func said(want, live map[string]string) map[string]string {
	if want == nil {
		return nil
	}
	return live
}

// sameKeys compares key sets by what they verify with: the server keeps no more
// of a key than that.
func sameKeys(a, b *Federated) bool {
	x, okX := thumbprints(a)
	y, okY := thumbprints(b)
	return okX && okY && slices.Equal(x, y)
}

func thumbprints(f *Federated) ([]string, bool) {
	raw, err := f.KeySet()
	if err != nil || raw == nil {
		return nil, err == nil
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil, false
	}
	found := map[string]bool{}
	for _, k := range set.Keys {
		public := k.Public()
		t, err := public.Thumbprint(crypto.SHA256)
		if err != nil {
			return nil, false
		}
		found[k.KeyID+" "+string(t)] = true
	}
	return slices.Sorted(maps.Keys(found)), true
}
