package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/gateway"
	"github.com/sallyport/sallyport/mlext/operator"
	"github.com/sallyport/sallyport/mlext/wire"
)

// runGateway is where the gateway's rooms meet.
func runGateway(ctx context.Context, c *config, kube *clients, stderr io.Writer) error {
	log, err := c.logger(stderr)
	if err != nil {
		return err
	}
	key, err := readKey(c.keyFile)
	if err != nil {
		return fmt.Errorf("--ml-key: %w", err)
	}
	g, err := gateway.New(ctx, gateway.Config{
		Issuer: c.issuer, Tenant: c.tenant, Audience: c.audience, RefreshKey: key, Namespaces: c.namespaces, NoTraining: !c.training, Version: version(),
		Kube: kube.kube, Dynamic: kube.dynamic, Logs: gateway.LogConfig{Dir: c.logDir}, Now: time.Now, Log: log,
	})
	if err != nil {
		return err
	}
	listener, err := listen(ctx, c.listen, kube.kube, log)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: withProbe(g.Handler()), ReadHeaderTimeout: 20 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 3 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var failed error
	wg.Go(func() {
		defer cancel()
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			failed = err
		}
	})
	log.InfoContext(ctx, "listening", "address", listener.Addr().String(), "namespaces", c.namespaces)
	err = g.Run(ctx)
	last, done := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer done()
	if server.Shutdown(last) != nil {
		_ = server.Close() // a long poll that is still open
	}
	wg.Wait()
	return errors.Join(failed, err)
}

// withProbe answers the kubelet, which has no token.
func withProbe(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			_, _ = io.WriteString(w, "ok\n")
			return
		}
		h.ServeHTTP(w, r)
	})
}

// listen opens the port with a certificate of the extension's own CA. The API
// server does not check it; the pods that ask for their workspace's bytes do.
func listen(ctx context.Context, address string, kube kubernetes.Interface, log *slog.Logger) (net.Listener, error) {
	ca, err := authority(ctx, kube, time.Now)
	if err != nil {
		return nil, err
	}
	name := wire.Service + "." + wire.Namespace + ".svc"
	keeper, err := pki.FromCA(ca, pki.Leaf{CommonName: name, DNS: []string{name}, Life: 30 * 24 * time.Hour}, log)
	if err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return tls.NewListener(l, &tls.Config{GetCertificate: keeper.GetCertificate, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}), nil
}

const caKey = "ca.key" // in the Secret, beside the certificate

// authority is the CA of the extension's gateway: made at first start, its key
// in a Secret that the gateway alone reads, its certificate where the operator
// finds it.
func authority(ctx context.Context, kube kubernetes.Interface, now func() time.Time) (*pki.CA, error) {
	secrets, maps := kube.CoreV1().Secrets(wire.Namespace), kube.CoreV1().ConfigMaps(wire.Namespace)
	kept, err := secrets.Get(ctx, mlext.TrustSecret, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read Secret %s, which the extension's manifest makes: %w", mlext.TrustSecret, err)
	}
	if len(kept.Data[caKey]) == 0 {
		made, err := pki.NewCA(pki.ServerTLS, now)
		if err != nil {
			return nil, err
		}
		cert, key, err := made.Marshal()
		if err != nil {
			return nil, err
		}
		kept.Data = map[string][]byte{mlext.TrustEntry: cert, caKey: key}
		if kept, err = secrets.Update(ctx, kept, metav1.UpdateOptions{}); err != nil {
			return nil, fmt.Errorf("keep the gateway's CA: %w", err)
		}
	}
	ca, err := pki.ParseCA(pki.ServerTLS, kept.Data[mlext.TrustEntry], kept.Data[caKey], now)
	if err != nil {
		return nil, fmt.Errorf("read Secret %s: %w", mlext.TrustSecret, err)
	}
	published, err := maps.Get(ctx, mlext.TrustConfigMap, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read ConfigMap %s: %w", mlext.TrustConfigMap, err)
	}
	if published.Data[mlext.TrustEntry] == string(ca.PEM()) {
		return ca, nil
	}
	published.Data = map[string]string{mlext.TrustEntry: string(ca.PEM())}
	if _, err := maps.Update(ctx, published, metav1.UpdateOptions{}); err != nil {
		return nil, fmt.Errorf("publish the gateway's CA: %w", err)
	}
	return ca, nil
}

func readKey(file string) (crypto.PublicKey, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s is not PEM", file)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if _, ok := key.(*ecdsa.PublicKey); !ok {
		return nil, fmt.Errorf("%s holds a %T, want an ECDSA public key", file, key)
	}
	return key, nil
}

// runOperator is where the operator's rooms meet.
func runOperator(ctx context.Context, c *config, kube *clients, stderr io.Writer) error {
	log, err := c.logger(stderr)
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	return operator.Run(ctx, operator.Config{Kube: kube.kube, Dynamic: kube.dynamic, Namespaces: c.namespaces, Image: c.image, NodeSelector: c.nodeSelector,
		Identity: fmt.Sprintf("%s-%d", host, os.Getpid()), Now: time.Now, Log: log})
}
