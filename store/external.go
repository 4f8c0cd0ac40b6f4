package store

import (
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/trust"
)

// How an unresponsive etcd server is noticed and left: a ping after 5 s of
// silence (etcd refuses more frequent ones), answered within 2 s.
const (
	pingAfter   = 5 * time.Second
	pingTimeout = 2 * time.Second
)

// dial makes the client of an external etcd. It does not wait for it.
func dial(cfg Config) (*clientv3.Client, error) {
	c, err := clientv3.New(clientv3.Config{
		Endpoints:            cfg.Endpoints,
		TLS:                  cfg.TLS,
		Username:             cfg.Username,
		Password:             cfg.Password,
		DialTimeout:          cfg.Timeout,
		DialKeepAliveTime:    pingAfter,
		DialKeepAliveTimeout: pingTimeout,
		PermitWithoutStream:  false,
		Logger:               etcdLogger(cfg.Log, nil),
	})
	if err != nil {
		t := translate(err)
		if trust.KindOf(t) == trust.Internal {
			return nil, trust.Errorf(trust.Invalid, "the etcd endpoints cannot be used").Because(err)
		}
		return nil, t
	}
	return c, nil
}
