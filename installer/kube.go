package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"helm.sh/helm/v4/pkg/action"
)

// kubeAPI is the cluster's API server, as Helm and as we see it.
type kubeAPI struct {
	config    *rest.Config
	typed     kubernetes.Interface
	dynamic   dynamic.Interface
	discovery discovery.CachedDiscoveryInterface
	log       *slog.Logger
}

func newKube(config *rest.Config, log *slog.Logger) (*kubeAPI, error) {
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = 50, 100
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return bounded{next} })
	typed, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	untyped, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	return &kubeAPI{config: config, typed: typed, dynamic: untyped, discovery: memory.NewMemCacheClient(typed.Discovery()), log: log}, nil
}

// helm is Helm's view of one namespace, where its records are.
func (k *kubeAPI) helm(namespace string) (*action.Configuration, error) {
	// What Helm says is for those who debug it, and may quote values.
	c := action.NewConfiguration(action.ConfigurationSetLogger(slog.DiscardHandler))
	if err := c.Init(&getter{k, namespace}, namespace, "secret"); err != nil {
		return nil, fmt.Errorf("prepare Helm: %w", err)
	}
	return c, nil
}

// getter is a kubeAPI in the form that Helm asks for.
type getter struct {
	*kubeAPI
	namespace string
}

func (g *getter) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(g.config), nil }

func (g *getter) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	return g.discovery, nil
}

func (g *getter) ToRESTMapper() (meta.RESTMapper, error) {
	return restmapper.NewDeferredDiscoveryRESTMapper(g.discovery), nil
}

func (g *getter) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	return clientcmd.NewDefaultClientConfig(*clientcmdapi.NewConfig(), &clientcmd.ConfigOverrides{Context: clientcmdapi.Context{Namespace: g.namespace}})
}

// requestBound is how long the API server may take for one answer. Helm passes no
// context to most of its requests, so nothing else would end them.
const requestBound = time.Minute

// bounded ends requests that take too long, but for watches.
type bounded struct{ http.RoundTripper }

// slow is the error of such a request.
type slow struct{}

func (slow) Error() string {
	return fmt.Sprintf("the API server did not answer within %s", requestBound)
}
func (slow) Timeout() bool   { return true }
func (slow) Temporary() bool { return true }

func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Query().Get("watch") != "" {
		return b.RoundTripper.RoundTrip(req)
	}
	ctx, cancel := context.WithTimeoutCause(req.Context(), requestBound, slow{})
	res, err := b.RoundTripper.RoundTrip(req.WithContext(ctx))
	if err != nil {
		if errors.Is(context.Cause(ctx), slow{}) {
			err = slow{}
		}
		cancel()
		return nil, err
	}
	res.Body = &boundedBody{res.Body, ctx, cancel}
	return res, nil
}

// boundedBody ends its request when it is closed.
type boundedBody struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelFunc
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && errors.Is(context.Cause(b.ctx), slow{}) {
		err = slow{}
	}
	return n, err
}

func (b *boundedBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}

// passing tells whether an error says nothing of what was asked for, so that it
// is worth asking again, for as long as patience is.
func passing(err error) bool {
	var network net.Error
	return errors.As(err, &network) && !errors.Is(err, context.DeadlineExceeded) || apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) || apierrors.IsServiceUnavailable(err) ||
		apierrors.IsInternalError(err) || apierrors.IsUnauthorized(err)
}
