package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/sallyport/sallyport/bucket"
	"github.com/sallyport/sallyport/bucket/folder"
	"github.com/sallyport/sallyport/internal/pki"
)

// StorageConfig is where workspaces keep code, data, outputs, models and logs: a
// bucket of an S3-compatible service, or a folder that this server serves as
// one, for development. Without either, jobs have volume claims only.
type StorageConfig struct {
	// Endpoint of the service, "https://host[:port]", as this server, people and
	// the pods of bound clusters reach it.
	Endpoint string `json:"endpoint"`
	Region   string `json:"region"` // default: us-east-1
	Bucket   string `json:"bucket"`
	Prefix   string `json:"prefix"` // of all keys
	// PathStyle puts the bucket's name into the path, as most services but AWS
	// want it.
	PathStyle     bool   `json:"pathStyle"`
	AccessKeyID   string `json:"accessKeyID"`
	SecretKeyFile string `json:"secretKeyFile"`
	CAFile        string `json:"caFile"` // believed for the endpoint instead of the usual CAs

	// Folder is served instead, at Listen, and reached at URL.
	Folder string `json:"folder"`
	Listen string `json:"listen"`
	URL    string `json:"url"` // default: externalURL's host, at Listen's port

	// Retention is how long after a job's end its outputs and logs are kept.
	// Default: for ever.
	Retention duration `json:"retention"`
}

// complete fills in defaults and refuses what does not fit together.
func (c *StorageConfig) complete(all *Config) error {
	switch {
	case c.Folder == "" && (c.Listen != "" || c.URL != ""):
		return fmt.Errorf("storage.listen and storage.url are for storage.folder, which is not set")
	case c.Folder != "" && (c.Endpoint != "" || c.Bucket != ""):
		return fmt.Errorf("storage.folder is a store of this server's own: leave storage.endpoint and storage.bucket out, or the folder")
	case c.Endpoint == "" && (c.Bucket != "" || c.SecretKeyFile != "" || c.AccessKeyID != ""):
		return fmt.Errorf("storage.endpoint is missing: https://host[:port] of the S3-compatible service")
	case c.Endpoint != "" && (c.Bucket == "" || c.AccessKeyID == "" || c.SecretKeyFile == ""):
		return fmt.Errorf("storage.endpoint needs storage.bucket, storage.accessKeyID and storage.secretKeyFile")
	case c.Endpoint == "" && c.Folder == "" && c.Retention != 0:
		return fmt.Errorf("storage.retention is set and there is no store")
	case c.Folder == "":
		return nil
	}
	_, port, err := net.SplitHostPort(c.Listen)
	if err != nil || port == "" || port == "0" {
		return fmt.Errorf("storage.listen %q must read [host]:port", c.Listen)
	}
	if c.URL == "" {
		external, err := url.Parse(all.ExternalURL)
		if err != nil {
			return err
		}
		c.URL = "https://" + net.JoinHostPort(external.Hostname(), port)
	}
	_, err = baseURL("storage.url", c.URL)
	return err
}

// The development store's bucket. Its key is made at first start.
const (
	folderBucket = "workspaces"
	folderRegion = "local"
	folderKeyID  = "sallyport"
)

// composeStorage opens the store of workspaces; nothing without one.
func (s *server) composeStorage(ctx context.Context, keys sharedKeys) (err error) {
	c := bucket.Config{Endpoint: s.Storage.Endpoint, Region: s.Storage.Region, Bucket: s.Storage.Bucket, Prefix: s.Storage.Prefix, PathStyle: s.Storage.PathStyle,
		AccessKeyID: s.Storage.AccessKeyID, Now: time.Now}
	switch {
	case s.Storage.Endpoint != "":
		secret, err := os.ReadFile(s.Storage.SecretKeyFile)
		if err != nil {
			return fmt.Errorf("storage.secretKeyFile: %w", err)
		}
		c.SecretKey = strings.TrimSpace(string(secret))
		if s.Storage.CAFile != "" {
			ca, err := os.ReadFile(s.Storage.CAFile)
			if err != nil {
				return fmt.Errorf("storage.caFile: %w", err)
			}
			c.CA = string(ca)
		}
	case s.Storage.Folder != "":
		if c.SecretKey, err = keys.storage(ctx); err != nil {
			return err
		}
		c.Endpoint, c.Region, c.Bucket, c.PathStyle, c.AccessKeyID, c.CA = s.Storage.URL, folderRegion, folderBucket, true, folderKeyID, string(s.serverCA)
		if s.folder, err = folder.New(folder.Config{Dir: s.Storage.Folder, Bucket: c.Bucket, Region: c.Region, AccessKeyID: c.AccessKeyID, SecretKey: c.SecretKey, Now: time.Now, Log: s.log}); err != nil {
			return fmt.Errorf("storage.folder: %w", err)
		}
	default:
		return nil
	}
	if s.bucket, err = bucket.Open(c); err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	return nil
}

// storage is the development store's secret key.
func (k sharedKeys) storage(ctx context.Context) (string, error) {
	_, private, err := k.pair(ctx, keyStorage, func() ([]byte, []byte, error) {
		key := make([]byte, 32)
		_, err := rand.Read(key)
		return []byte(folderKeyID), key, err
	})
	return hex.EncodeToString(private), err
}

// serveStorage opens the development store's port.
func (s *server) serveStorage(ctx, opened context.Context, doors *crew) error {
	if s.folder == nil {
		return nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.Storage.Listen)
	if err != nil {
		return fmt.Errorf("storage.listen: %w", err)
	}
	srv := &http.Server{Handler: s.folder, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, BaseContext: func(net.Listener) context.Context { return opened }}
	doors.start(opened, "storage", serving(srv, tls.NewListener(l, pki.Server(s.certificate, []string{"h2", "http/1.1"}, nil))))
	s.log.InfoContext(ctx, "listening for workspaces' bytes", "url", s.Storage.URL, "address", l.Addr().String())
	return nil
}

// checkStorage says early what is wrong with a store elsewhere. It keeps nobody
// from starting: what needs no store works.
func (s *server) checkStorage(ctx context.Context) {
	if s.bucket == nil || s.folder != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := s.bucket.Check(ctx); err != nil && !errors.Is(err, context.Canceled) {
		s.log.ErrorContext(ctx, "the store of workspaces cannot be used", "store", s.bucket.String(), "error", err)
	}
}
