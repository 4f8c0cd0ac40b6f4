package router

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"sync"
	"syscall"
	"time"
)

// Times of the ways between routers.
const (
	settleWithin = 3 * time.Second        // a new coordinator waits for those it does not reach
	lostAfter    = 5 * time.Second        // and counts them as gone
	beatEvery    = time.Second            // it says that it is there
	silence      = 5 * time.Second        // without a word, a way counts as broken
	redial       = 200 * time.Millisecond // between two tries
	maxLine      = 1 << 20
)

// preside serves as coordinator: it links every router of the roster, and this
// one, until ctx ends or a newer coordinator has taken over.
func (r *Router) preside(ctx context.Context, c *coordinator) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer cancel()
		for r.local(ctx, c) {
			// Somebody's coordinator is newer: this one goes above it, or ends.
			if !c.outranked(r.seat.newest(), r.leads.Load()) {
				return
			}
		}
	})
	members := map[string]*membership{}
	defer func() {
		for _, m := range members {
			m.cancel()
		}
	}()
	deadline, tick := time.Now().Add(settleWithin), time.NewTicker(redial)
	defer tick.Stop()
	beat := time.Now()
	for {
		names := []string{r.Name}
		now := r.roster.others()
		for name, m := range members {
			if p, there := now[name]; !there || p != m.peer {
				m.cancel()
				delete(members, name)
				c.leave(name)
			}
		}
		for name, p := range now {
			names = append(names, name)
			if members[name] == nil {
				life, end := context.WithCancel(ctx)
				members[name] = &membership{peer: p, cancel: end}
				wg.Go(func() { r.member(life, c, name, p) })
			}
		}
		if len(c.missing(names)) == 0 || time.Now().After(deadline) {
			c.settle()
			r.reached.Store(true)
		}
		if time.Since(beat) > beatEvery {
			beat = time.Now()
			c.beat()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-r.roster.changes():
		}
	}
}

type membership struct {
	peer   peer
	cancel context.CancelFunc
}

// member keeps the way to one router: dialled again and again until ctx ends.
// Its slots are free again when its process is gone.
func (r *Router) member(ctx context.Context, c *coordinator, name string, p peer) {
	seen, freed := time.Now(), false
	for ctx.Err() == nil {
		began := time.Now()
		joined, err := r.linkTo(ctx, c, name, p)
		if joined {
			seen, freed = time.Now(), false
		}
		gone := errors.Is(err, syscall.ECONNREFUSED) || time.Since(seen) > lostAfter
		if gone && !freed && ctx.Err() == nil {
			r.Log.InfoContext(ctx, "router lost", "router", name, "error", err)
			c.leave(name)
			freed = true
		}
		if freed && time.Since(seen) > forgetAfter {
			r.roster.forget(ctx, name, p)
		}
		if time.Since(began) < redial && !wait(ctx, redial) {
			return
		}
	}
}

// forgetAfter a router that cannot be reached is taken off the roster. One that
// lives puts itself there again.
const forgetAfter = time.Minute

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// linkTo is one connection to a router, until it breaks.
func (r *Router) linkTo(ctx context.Context, c *coordinator, name string, p peer) (joined bool, err error) {
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 2 * time.Second}, Config: r.roster.client(p.Key)}
	conn, err := dialer.DialContext(ctx, "tcp", p.Address)
	if err != nil {
		return false, fmt.Errorf("dial router: %w", err)
	}
	l := c.connect(name)
	defer c.disconnect(l)
	l.down.put(message{Kind: hello, Name: r.Name, Epoch: c.current()})
	return true, carry(ctx, conn, l.down, func(m message) error {
		if m.Kind == stale {
			if !c.outranked(m.Epoch, r.leads.Load()) {
				c.vacates(&r.seat, m.Epoch)
			}
			return errStale
		}
		c.hear(l, m)
		return nil
	})
}

var errStale = errors.New("the router follows a newer coordinator")

// accept takes coordinators on the listener until ctx ends.
func (r *Router) accept(ctx context.Context, wg *sync.WaitGroup, listener net.Listener) {
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			if !wait(ctx, redial) {
				return
			}
			continue
		}
		wg.Go(func() {
			if err := r.follow(ctx, tls.Server(conn, r.roster.server())); err != nil && ctx.Err() == nil {
				r.Log.InfoContext(ctx, "coordinator left", "error", err)
			}
		})
	}
}

// follow serves one coordinator's connection.
func (r *Router) follow(ctx context.Context, conn net.Conn) error {
	up := newMailbox()
	defer r.seat.detach(up)
	following := false
	return carry(ctx, conn, up, func(m message) error {
		switch {
		case following:
			if !r.seat.hear(up, m) {
				return errStale
			}
			if m.Kind == settled {
				r.reached.Store(true)
			}
		case m.Kind != hello:
			return errors.New("no greeting")
		default:
			if newer := r.seat.attach(m.Epoch, up); newer != 0 {
				up.put(message{Kind: stale, Epoch: newer})
				return nil // it hangs up, or is silent for too long
			}
			following = true
			r.Log.InfoContext(ctx, "following", "coordinator", m.Name, "epoch", m.Epoch)
		}
		return nil
	})
}

// carry writes what is in the box and reads what comes, a line each, until either
// ends.
func carry(ctx context.Context, conn net.Conn, box *mailbox, hear func(message) error) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	wg.Go(func() { cancel(write(ctx, conn, box)) })
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, 4<<10), maxLine)
	for {
		if err := conn.SetReadDeadline(time.Now().Add(silence)); err != nil {
			return err
		}
		if !lines.Scan() {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			if lines.Err() != nil {
				return lines.Err()
			}
			return errors.New("the connection was closed")
		}
		var m message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return fmt.Errorf("read message: %w", err)
		}
		if err := hear(m); err != nil {
			return err
		}
	}
}

func write(ctx context.Context, conn net.Conn, box *mailbox) error {
	out := bufio.NewWriterSize(conn, 16<<10)
	encoder := json.NewEncoder(out)
	var buf []message
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-box.signal:
		}
		buf = box.take(buf[:0])
		if err := conn.SetWriteDeadline(time.Now().Add(silence)); err != nil {
			return err
		}
		for i := range buf {
			if err := encoder.Encode(&buf[i]); err != nil {
				return err
			}
		}
		if err := out.Flush(); err != nil {
			return err
		}
	}
}

// identity is the certificate by which routers know each other: made by the
// process for itself, known by its key, which the roster holds.
func identity(name string, now time.Time) (tls.Certificate, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, "", fmt.Errorf("make key: %w", err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, form, form, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, "", fmt.Errorf("make certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, "", fmt.Errorf("make certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pinOf(leaf), nil
}

func pinOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// known checks that a connection's other end has one of the keys.
func known(s tls.ConnectionState, keys ...string) error {
	if len(s.PeerCertificates) != 1 {
		return errors.New("the other router shows no certificate")
	}
	pin, match := pinOf(s.PeerCertificates[0]), 0
	for _, k := range keys {
		match |= subtle.ConstantTimeCompare([]byte(pin), []byte(k))
	}
	if match != 1 {
		return errors.New("the other end is no router of the roster")
	}
	return nil
}
