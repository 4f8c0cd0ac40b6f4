package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sallyport/sallyport/mlext/wire"
)

const (
	// keepEvery is how long to wait before a log is tried again, while nobody
	// answers: the workspace may have no binding now, or the server no store.
	keepEvery = 10 * time.Second
	// keepWithin is after how long without an answer it stays on the volume.
	keepWithin = time.Hour
)

// keepLog puts the log of a job's container into the workspace's store.
func (g *Gateway) keepLog(ctx context.Context, pod *corev1.Pod, file string) error {
	p, err := g.whose(ctx, pod, errors.New("its job is gone"))
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(filepath.Join(g.Logs.Dir, p.job), file)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, keepWithin)
	defer cancel()
	for ctx.Err() == nil {
		err := g.putLog(ctx, p, pod, file, filepath.ToSlash(rel))
		if err == nil {
			return nil
		}
		var final *keptNowhere
		if errors.As(err, &final) {
			g.Log.WarnContext(ctx, "log stays on this volume", "job", p.job, "file", rel, "reason", err)
			return err
		}
		g.Log.DebugContext(ctx, "log not kept yet", "job", p.job, "file", rel, "reason", err)
		pause(ctx, keepEvery)
	}
	return ctx.Err()
}

// keptNowhere is the ML service's refusal, for good.
type keptNowhere struct{ why string }

func (k *keptNowhere) Error() string { return k.why }

func (g *Gateway) putLog(ctx context.Context, p *podCaller, pod *corev1.Pod, file, name string) error {
	in, err := os.Open(file)
	if err != nil {
		return &keptNowhere{err.Error()}
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, wire.MaxWait*time.Second)
	defer cancel()
	answer, err := g.asks.ask(asking, p.owner, wire.Ask{Job: p.job, Resource: p.resource, Node: p.node, Pod: string(pod.UID), Mount: wire.LogsMount,
		Files: []wire.File{{Path: name, Size: info.Size()}}})
	if err != nil {
		return err
	}
	if answer.Error != nil || len(answer.Files) != 1 {
		return &keptNowhere{fmt.Sprintf("the ML service refuses: %+v", answer.Error)}
	}
	f := answer.Files[0]
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, f.URL, in)
	if err != nil {
		return errors.New("the signed URL cannot be read")
	}
	if req.ContentLength = info.Size(); req.ContentLength == 0 {
		req.Body = http.NoBody
	}
	for name, value := range f.Header {
		req.Header.Set(name, value)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if answer.Trust != "" {
		conf.RootCAs = x509.NewCertPool()
		conf.RootCAs.AppendCertsFromPEM([]byte(answer.Trust)) // none: nobody is believed
	}
	transport := &http.Transport{TLSClientConfig: conf, Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: time.Minute}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		var with interface{ Unwrap() error }
		if errors.As(err, &with) { // the URL is a secret
			err = with.Unwrap()
		}
		return fmt.Errorf("the store is not reachable: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the store answers %s", res.Status)
	}
	return nil
}
