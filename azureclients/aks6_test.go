package azureclients

import (
	"context"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	aks6 "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerservice/armcontainerservice/v6"
)

// v6 is armcontainerservice v6.
type v6 struct {
	target
	clusters *aks6.ManagedClustersClient
	access   *aks6.TrustedAccessRoleBindingsClient
	known    *aks6.TrustedAccessRolesClient
}

func newV6(t target) (aks, error) {
	f, err := aks6.NewClientFactory(t.subscription, t.credential, t.options)
	if err != nil {
		return nil, err
	}
	return v6{t, f.NewManagedClustersClient(), f.NewTrustedAccessRoleBindingsClient(), f.NewTrustedAccessRolesClient()}, nil
}

func (v6) clusterOf(c aks6.ManagedCluster) cluster {
	out := cluster{ID: value(c.ID), Name: value(c.Name), Type: value(c.Type), Location: value(c.Location), Tags: valuesOf(c.Tags)}
	if p := c.Properties; p != nil {
		out.State = value(p.ProvisioningState)
		if p.PowerState != nil {
			out.Power = string(value(p.PowerState.Code))
		}
	}
	return out
}

func (v v6) putCluster(ctx context.Context, location string, tags map[string]*string) (cluster, error) {
	p, err := v.clusters.BeginCreateOrUpdate(ctx, v.group, v.cluster, aks6.ManagedCluster{Location: &location, Tags: tags, Properties: &aks6.ManagedClusterProperties{}}, nil)
	if err != nil {
		return cluster{}, err
	}
	r, err := p.PollUntilDone(ctx, nil)
	return v.clusterOf(r.ManagedCluster), err
}

func (v v6) tagCluster(ctx context.Context, tags map[string]*string) (cluster, error) {
	p, err := v.clusters.BeginUpdateTags(ctx, v.group, v.cluster, aks6.TagsObject{Tags: tags}, nil)
	if err != nil {
		return cluster{}, err
	}
	r, err := p.PollUntilDone(ctx, nil)
	return v.clusterOf(r.ManagedCluster), err
}

func (v v6) getCluster(ctx context.Context) (cluster, error) {
	r, err := v.clusters.Get(ctx, v.group, v.cluster, nil)
	return v.clusterOf(r.ManagedCluster), err
}

func (v v6) listClusters(ctx context.Context) (inSubscription, inGroup []string, err error) {
	for p := v.clusters.NewListPager(nil); p.More(); {
		page, err := p.NextPage(ctx)
		if err != nil {
			return nil, nil, err
		}
		for _, c := range page.Value {
			inSubscription = append(inSubscription, value(c.ID))
		}
	}
	for p := v.clusters.NewListByResourceGroupPager(v.group, nil); p.More(); {
		page, err := p.NextPage(ctx)
		if err != nil {
			return nil, nil, err
		}
		for _, c := range page.Value {
			inGroup = append(inGroup, value(c.ID))
		}
	}
	return inSubscription, inGroup, nil
}

func (v v6) deleteCluster(ctx context.Context) error {
	p, err := v.clusters.BeginDelete(ctx, v.group, v.cluster, nil)
	if err == nil {
		_, err = p.PollUntilDone(ctx, nil)
	}
	return err
}

func (v v6) stop(ctx context.Context) error {
	p, err := v.clusters.BeginStop(ctx, v.group, v.cluster, nil)
	if err == nil {
		_, err = p.PollUntilDone(ctx, nil)
	}
	return err
}

func (v v6) start(ctx context.Context) error {
	p, err := v.clusters.BeginStart(ctx, v.group, v.cluster, nil)
	if err == nil {
		_, err = p.PollUntilDone(ctx, nil)
	}
	return err
}

func (v v6) userCredential(ctx context.Context) (string, []byte, error) {
	r, err := v.clusters.ListClusterUserCredentials(ctx, v.group, v.cluster, &aks6.ManagedClustersClientListClusterUserCredentialsOptions{Format: to.Ptr(aks6.FormatExec)})
	if err != nil || len(r.Kubeconfigs) == 0 {
		return "", nil, err
	}
	return value(r.Kubeconfigs[0].Name), r.Kubeconfigs[0].Value, nil
}

func (v v6) adminCredential(ctx context.Context) error {
	_, err := v.clusters.ListClusterAdminCredentials(ctx, v.group, v.cluster, nil)
	return err
}

func (v v6) roles(ctx context.Context, location string) (out []role, err error) {
	for p := v.known.NewListPager(location, nil); p.More(); {
		page, err := p.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, r := range page.Value {
			out = append(out, role{value(r.SourceResourceType), value(r.Name), len(r.Rules)})
		}
	}
	return out, nil
}

func (v6) bindingOf(b aks6.TrustedAccessRoleBinding) binding {
	out := binding{ID: value(b.ID), Name: value(b.Name), Type: value(b.Type)}
	if p := b.Properties; p != nil {
		out.Source, out.State, out.Roles = value(p.SourceResourceID), string(value(p.ProvisioningState)), values(p.Roles)
	}
	return out
}

func (v v6) putBinding(ctx context.Context, name, source string, roles []*string) (binding, error) {
	body := aks6.TrustedAccessRoleBinding{Properties: &aks6.TrustedAccessRoleBindingProperties{SourceResourceID: &source, Roles: roles}}
	p, err := v.access.BeginCreateOrUpdate(ctx, v.group, v.cluster, name, body, nil)
	if err != nil {
		return binding{}, err
	}
	r, err := p.PollUntilDone(ctx, nil)
	return v.bindingOf(r.TrustedAccessRoleBinding), err
}

func (v v6) getBinding(ctx context.Context, name string) (binding, error) {
	r, err := v.access.Get(ctx, v.group, v.cluster, name, nil)
	return v.bindingOf(r.TrustedAccessRoleBinding), err
}

func (v v6) listBindings(ctx context.Context) (out []binding, err error) {
	for p := v.access.NewListPager(v.group, v.cluster, nil); p.More(); {
		page, err := p.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, b := range page.Value {
			out = append(out, v.bindingOf(*b))
		}
	}
	return out, nil
}

func (v v6) deleteBinding(ctx context.Context, name string) error {
	p, err := v.access.BeginDelete(ctx, v.group, v.cluster, name, nil)
	if err == nil {
		_, err = p.PollUntilDone(ctx, nil)
	}
	return err
}
