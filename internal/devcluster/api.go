package devcluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// transport trusts only this cluster and uses no proxy.
func (c *Cluster) transport() *http.Transport {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.ca)
	return &http.Transport{
		DialContext:         c.Dial,
		TLSClientConfig:     &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 5 * time.Second,
		ForceAttemptHTTP2:   true,
	}
}

// get reads one object as the administrator into v; v may be nil.
func (c *Cluster) get(ctx context.Context, path string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL()+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.AdminToken())
	req.Header.Set("Accept", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s: %.300s", path, resp.Status, body)
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(body, v)
}

// wait polls ready until it returns nil. It gives up when a process of the
// cluster ends or ctx does, and then says what was still missing.
func (c *Cluster) wait(ctx context.Context, what string, ready func(context.Context) error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := ready(try)
		cancel()
		if err == nil {
			return nil
		}
		if failed := c.sup.failure(); failed != nil {
			return fmt.Errorf("wait for %s: %w", what, failed)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; last answer: %w", what, ctx.Err(), err)
		case <-tick.C:
		}
	}
}

func (c *Cluster) apiReady(ctx context.Context) error { return c.get(ctx, "/readyz", nil) }

// defaultServiceAccount is what a pod needs before it can be created.
func (c *Cluster) defaultServiceAccount(ctx context.Context) error {
	return c.get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil)
}

// nodesReady checks that every node reports the condition Ready.
func (c *Cluster) nodesReady(ctx context.Context) error {
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
				Conditions []struct{ Type, Status, Message string }
			}
		}
	}
	if err := c.get(ctx, "/api/v1/nodes", &list); err != nil {
		return err
	}
	var missing []error
	ready := 0
	for _, n := range list.Items {
		for _, cond := range n.Status.Conditions {
			switch {
			case cond.Type != "Ready":
			case cond.Status == "True":
				ready++
			default:
				missing = append(missing, fmt.Errorf("%s: %s", n.Metadata.Name, cond.Message))
			}
		}
	}
	if ready < c.cfg.Nodes {
		return errors.Join(append(missing, fmt.Errorf("%d of %d nodes are ready", ready, c.cfg.Nodes))...)
	}
	return nil
}

// nodeReadySince checks that a node itself has reported Ready since a time: what
// was reported before it was lost may still stand there.
func (c *Cluster) nodeReadySince(ctx context.Context, name string, since time.Time) error {
	var n struct {
		Status struct {
			Conditions []struct {
				Type, Status, Message string
				LastHeartbeatTime     time.Time
			}
		}
	}
	if err := c.get(ctx, "/api/v1/nodes/"+name, &n); err != nil {
		return err
	}
	for _, cond := range n.Status.Conditions {
		if cond.Type == "Ready" && (cond.Status != "True" || cond.LastHeartbeatTime.Before(since)) {
			return fmt.Errorf("%s: Ready is %s since %s: %s", name, cond.Status, cond.LastHeartbeatTime, cond.Message)
		}
	}
	return nil
}
