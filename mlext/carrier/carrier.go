package carrier

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/sallyport/sallyport/bucket/signed"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

// Config is what New needs. All fields without "default" are required.
type Config struct {
	Gateway   string // "host:port" of the extension's gateway
	Trust     string // PEM: who signs its certificate
	TokenFile string // the pod's token, which is renewed in place
	Mounts    []wire.Mount
	Log       *slog.Logger

	Pause time.Duration // before something is tried again; default: 2 s
	Every time.Duration // between two looks at what a running program wrote; default: 30 s
}

// Carrier moves the bytes of one pod.
type Carrier struct {
	Config
	gateway *http.Client
	stores  map[string]*http.Client // by whom to believe
}

// New checks the configuration.
func New(c Config) (*Carrier, error) {
	pool := x509.NewCertPool()
	if c.Gateway == "" || c.TokenFile == "" || c.Log == nil || len(c.Mounts) == 0 || !pool.AppendCertsFromPEM([]byte(c.Trust)) {
		return nil, errors.New("a carrier needs a gateway, whom to believe there, a token and mounts")
	}
	if c.Pause == 0 {
		c.Pause = 2 * time.Second
	}
	if c.Every == 0 {
		c.Every = 30 * time.Second
	}
	conf := &tls.Config{RootCAs: pool, ServerName: wire.Service + "." + wire.Namespace + ".svc", MinVersion: tls.VersionTLS12}
	return &Carrier{Config: c, gateway: client(conf), stores: map[string]*http.Client{}}, nil
}

func client(conf *tls.Config) *http.Client {
	t := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: time.Minute, IdleConnTimeout: 90 * time.Second}
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// call asks the gateway once.
func (c *Carrier) call(ctx context.Context, method, path string, in, out any) error {
	token, err := os.ReadFile(c.TokenFile)
	if err != nil {
		return fmt.Errorf("read the pod's token: %w", err)
	}
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+c.Gateway+wire.Prefix+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", "application/json")
	res, err := c.gateway.Do(req)
	if err != nil {
		return trust.Errorf(trust.Unavailable, "the ML extension's gateway does not answer").Because(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, 2*wire.MaxTransfer))
	if err != nil {
		return trust.Errorf(trust.Unavailable, "the gateway's answer was cut off").Because(err)
	}
	if res.StatusCode != http.StatusOK {
		kind := trust.Unavailable
		if res.StatusCode == http.StatusBadRequest || res.StatusCode == http.StatusForbidden {
			kind = trust.Forbidden
		}
		var e wire.Error
		if json.Unmarshal(data, &e) != nil || e.Message == "" {
			e.Message = res.Status
		}
		return trust.Errorf(kind, "%s", e.Message)
	}
	return json.Unmarshal(data, out)
}

// ask asks for URLs until there is an answer: a workspace without a binding gets
// none now, and may get one later. It says so once a minute.
func (c *Carrier) ask(ctx context.Context, ask wire.Ask) (*wire.Answer, error) {
	var said time.Time
	for {
		var answer wire.Answer
		err := c.call(ctx, http.MethodPost, "/pods/asks", ask, &answer)
		switch {
		case err == nil && answer.Error != nil:
			return nil, trust.Errorf(trust.Forbidden, "%s", answer.Error.Message)
		case err == nil:
			return &answer, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case trust.KindOf(err) == trust.Forbidden:
			return nil, err
		}
		if time.Since(said) > time.Minute {
			c.Log.WarnContext(ctx, "waiting for the workspace's store", "mount", ask.Mount, "reason", err)
			said = time.Now()
		}
		pause(ctx, c.Pause)
	}
}

// store is a client for a store that is believed by ca, or by the usual CAs.
func (c *Carrier) store(ca string) *http.Client {
	if c.stores[ca] == nil {
		c.stores[ca] = signed.Client(ca)
	}
	return c.stores[ca]
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// tries of one file, before the whole fails.
const tries = 5
