package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/store"
)

// asked is a certificate that this process asks control for, through the store.
// Its key stays in memory.
type asked struct {
	store   *store.Store
	record  store.CertificateRequest
	keeper  *pki.Keeper
	put     func(*tls.Certificate)
	log     *slog.Logger
	once    sync.Once
	first   chan struct{} // closed when there is a certificate
	refused chan error    // capacity 1
}

func newAsked(s *server, use string) *asked {
	a := &asked{store: s.store, record: store.CertificateRequest{Replica: s.replica, Use: use}, log: s.log.With("use", use),
		first: make(chan struct{}), refused: make(chan error, 1)}
	a.keeper, a.put = pki.Handed(time.Now, s.log)
	return a
}

const (
	askTTL   = time.Minute      // a process that died asks for nothing any more
	askAgain = time.Second      // after a failure
	remind   = 15 * time.Second // say that an answer is still waited for
)

// refusal is why control gives no certificate.
type refusal struct{ reason string }

func (e *refusal) Error() string { return e.reason }

// wait returns when there is a certificate, or none will be given.
func (a *asked) wait(ctx context.Context) error {
	ticker := time.NewTicker(remind)
	defer ticker.Stop()
	for {
		select {
		case <-a.first:
			return nil
		case err := <-a.refused:
			return fmt.Errorf("this gateway gets no certificate: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			a.log.WarnContext(ctx, "waiting for a certificate: start a server that plays control on the same store, or set tls.certFile and tls.keyFile")
		}
	}
}

// run asks for a certificate, and for the next one when two thirds of its life
// have passed, until ctx ends. Without an answer the old one stays in use until
// its end; nobody accepts it after that.
func (a *asked) run(ctx context.Context) error {
	for ctx.Err() == nil {
		again := askAgain
		cert, err := a.ask(ctx)
		var no *refusal
		switch {
		case err == nil:
			a.put(cert)
			a.once.Do(func() { close(a.first) })
			a.log.InfoContext(ctx, "certificate issued by control", "expires", cert.Leaf.NotAfter)
			again = time.Until(cert.Leaf.NotBefore.Add(cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore) * 2 / 3))
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &no):
			a.log.WarnContext(ctx, "control refuses a certificate", "reason", no.reason)
			again = remind
			select {
			case a.refused <- err:
			default:
			}
		default:
			a.log.WarnContext(ctx, "asking for a certificate again", "error", err)
		}
		pause(ctx, max(again, askAgain))
	}
	return nil
}

// ask puts the question and waits for its answer, as long as the question's
// lease is held.
func (a *asked) ask(parent context.Context) (*tls.Certificate, error) {
	csr, key, err := pki.NewRequest()
	if err != nil {
		return nil, err
	}
	lease, err := a.store.Lease(parent, askTTL)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(parent)
	var held sync.WaitGroup
	held.Go(func() {
		defer cancel()
		select {
		case <-lease.Lost():
		case <-ctx.Done():
		}
	})
	defer held.Wait()
	defer cancel()
	defer func() { _ = lease.Close() }() // or it ends by itself
	question := a.record
	question.CSR = csr
	revision, err := a.store.Commit(ctx, store.Under(lease, store.Put(question)))
	if err != nil {
		return nil, err
	}
	answer, err := a.answer(ctx, revision)
	if err != nil {
		return nil, err
	}
	if answer.Refused != "" {
		return nil, &refusal{answer.Refused}
	}
	return pki.Certificate(answer.Chain, key)
}

// answer waits for control's answer to the question of that revision.
func (a *asked) answer(ctx context.Context, revision int64) (*store.GatewayCertificate, error) {
	place := store.GatewayCertificate{Replica: a.record.Replica, Use: a.record.Use}.Key()
	var answer *store.GatewayCertificate
	done := errors.New("answered")
	read := func(value []byte) error {
		c, err := store.Decode[store.GatewayCertificate](value)
		if err != nil || c.Request != revision {
			return err
		}
		answer = &c
		return done
	}
	err := store.Follow(ctx, a.store, place,
		func(all []store.KV, _ int64) error {
			for _, kv := range all {
				if err := read(kv.Value); err != nil {
					return err
				}
			}
			return nil
		},
		func(b store.Batch) error {
			for _, e := range b.Events {
				if e.Type != store.EventPut {
					continue
				}
				if err := read(e.Value); err != nil {
					return err
				}
			}
			return nil
		})
	if answer != nil {
		return answer, nil
	}
	return nil, fmt.Errorf("wait for control's answer: %w", err)
}
