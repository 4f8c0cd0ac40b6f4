package azureclients

import (
	"context"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
)

// aks is one version of armcontainerservice, on one cluster: the versions have
// types of their own, and this is what the tests ask of each. Calls that start
// an operation return when it has ended.
type aks interface {
	putCluster(ctx context.Context, location string, tags map[string]*string) (cluster, error)
	tagCluster(ctx context.Context, tags map[string]*string) (cluster, error)
	getCluster(ctx context.Context) (cluster, error)
	listClusters(ctx context.Context) (inSubscription, inGroup []string, err error)
	deleteCluster(ctx context.Context) error
	stop(ctx context.Context) error
	start(ctx context.Context) error
	userCredential(ctx context.Context) (name string, kubeconfig []byte, err error)
	adminCredential(ctx context.Context) error
	bindings
}

// bindings are trusted access, as each version has it.
type bindings interface {
	roles(ctx context.Context, location string) ([]role, error)
	putBinding(ctx context.Context, name, source string, roles []*string) (binding, error)
	getBinding(ctx context.Context, name string) (binding, error)
	listBindings(ctx context.Context) ([]binding, error)
	deleteBinding(ctx context.Context, name string) error
}

type cluster struct {
	ID, Name, Type, Location, State, Power string
	Tags                                   map[string]string
}

type binding struct {
	ID, Name, Type, Source, State string
	Roles                         []string
}

type role struct {
	Source, Name string
	Rules        int
}

// target is which cluster an aks speaks of, and as whom.
type target struct {
	subscription, group, cluster string
	credential                   azcore.TokenCredential
	options                      *arm.ClientOptions
}

// azure is the cloud that Azure's clients are told of: the server.
func azure() cloud.Configuration {
	return cloud.Configuration{
		ActiveDirectoryAuthorityHost: the.admin.Server,
		Services:                     map[cloud.ServiceName]cloud.ServiceConfiguration{cloud.ResourceManager: {Endpoint: the.admin.Server, Audience: the.admin.Server}},
	}
}

// values are what pointers point at; nil is the zero value.
func values[T any](in []*T) []T {
	var out []T
	for _, p := range in {
		out = append(out, value(p))
	}
	return out
}

func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

func pointers(in ...string) []*string {
	var out []*string
	for _, s := range in {
		out = append(out, &s)
	}
	return out
}

func valuesOf(m map[string]*string) map[string]string {
	out := map[string]string{}
	for k, v := range m {
		out[k] = value(v)
	}
	return out
}
