package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"sync"
)

// halfCloser is a connection whose sending direction ends by itself.
type halfCloser interface{ CloseWrite() error }

// Stream is one upgraded connection through the tunnel: raw bytes both ways,
// each direction closed by itself. One reader, one writer and any number of
// closers may use it at once.
type Stream struct {
	r          io.Reader
	w          io.Writer
	closeWrite func() error
	abort      func(cause error)

	once  sync.Once
	ended chan struct{}
	cause error // why it ended; read after ended is closed
}

// Read returns io.EOF when the far side has closed its sending direction, and
// an error that wraps the cause after End.
func (s *Stream) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	return n, s.explain(err)
}

// Write blocks while the far side does not read.
func (s *Stream) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	return n, s.explain(err)
}

// CloseWrite ends the sending direction: the far side reads io.EOF after all
// bytes written before.
func (s *Stream) CloseWrite() error { return s.explain(s.closeWrite()) }

// Close ends both directions.
func (s *Stream) Close() error {
	s.End(io.ErrClosedPipe)
	return nil
}

// End ends both directions at once, blocked reads and writes included; they
// return an error that wraps cause. Only the first call counts.
func (s *Stream) End(cause error) {
	if cause == nil {
		cause = io.ErrClosedPipe
	}
	s.once.Do(func() {
		s.cause = cause
		close(s.ended)
		s.abort(cause)
	})
}

func (s *Stream) explain(err error) error {
	if err == nil || err == io.EOF { //nolint:errorlint // io.Reader gives io.EOF itself; a wrapped one is a stream that broke
		return err
	}
	select {
	case <-s.ended:
		return fmt.Errorf("stream ended: %w", s.cause)
	default:
		return err
	}
}

// rawRequest is the agent's side of an upgrade before it is answered.
type rawRequest struct {
	w     http.ResponseWriter
	body  io.ReadCloser
	proto string
}

type rawKey struct{}

// newRaw gives an upgrade that came through the tunnel its original shape
// back: method, Upgrade and Connection header, no body (what follows is not
// one). The handler's writer drops the tunnel's own headers, so that a server
// behind the agent cannot pretend to have been upgraded.
func newRaw(w http.ResponseWriter, r *http.Request, method, proto string) (http.ResponseWriter, *http.Request) {
	raw := &rawRequest{w: w, body: r.Body, proto: proto}
	out := r.WithContext(context.WithValue(r.Context(), rawKey{}, raw))
	out.Method = method
	out.Header = r.Header.Clone()
	dropReserved(out.Header)
	out.Header.Set("Connection", "Upgrade")
	out.Header.Set("Upgrade", proto)
	out.Body = http.NoBody
	out.ContentLength = 0
	return &rawWriter{ResponseWriter: w}, out
}

func (raw *rawRequest) accept(header http.Header) (*Stream, error) {
	out := raw.w.Header()
	for k, vs := range header {
		switch textproto.CanonicalMIMEHeaderKey(k) {
		case "Connection", "Upgrade", "Content-Length", "Transfer-Encoding":
		default:
			out[k] = vs
		}
	}
	dropReserved(out)
	proto := header.Get("Upgrade")
	if proto == "" {
		proto = raw.proto
	}
	if err := checkUpgrade(http.MethodPost, proto); err != nil {
		return nil, err
	}
	out.Set(headerStatus, "101")
	out.Set(headerUpgrade, proto)
	raw.w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(raw.w)
	cw := &chunkWriter{w: raw.w, flush: rc.Flush}
	if err := cw.flush(); err != nil {
		return nil, err
	}
	return &Stream{
		r:          raw.body,
		w:          cw,
		closeWrite: cw.CloseWrite,
		abort: func(error) {
			_ = raw.body.Close()
			if !cw.closed.Load() { // a writer may be blocked; an ended answer must not become a reset
				_ = rc.SetWriteDeadline(longAgo)
			}
		},
		ended: make(chan struct{}),
	}, nil
}

// rawWriter is the writer of an upgrade that is answered without one.
type rawWriter struct {
	http.ResponseWriter
	wrote bool
}

// WriteHeader implements http.ResponseWriter.
func (w *rawWriter) WriteHeader(code int) {
	dropReserved(w.Header())
	w.wrote = w.wrote || code >= 200
	w.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (w *rawWriter) Write(p []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap serves http.ResponseController.
func (w *rawWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Join copies both ways between a and b until both directions have ended, and
// returns the bytes of each. The end of one direction is passed on by
// CloseWrite (by Close where there is none); an error closes both. The first
// error is returned.
func Join(a, b io.ReadWriteCloser) (aToB, bToA int64, err error) {
	back := make(chan error, 1)
	go func() {
		var err error
		bToA, err = pass(a, b)
		back <- err
	}()
	aToB, err = pass(b, a)
	if berr := <-back; err == nil || isClosed(err) && berr != nil {
		err = berr
	}
	return aToB, bToA, err
}

// isClosed says that an error only reports that the other direction closed
// the connection.
func isClosed(err error) bool {
	return errors.Is(err, io.ErrClosedPipe) || errors.Is(err, errWriteClosed)
}

// pass copies one direction and ends it.
func pass(dst, src io.ReadWriteCloser) (int64, error) {
	n, err := copyAll(dst, src)
	if err == nil {
		half, ok := dst.(halfCloser)
		if ok {
			err = half.CloseWrite()
			ok = !errors.Is(err, errors.ErrUnsupported)
		}
		if !ok {
			err = dst.Close()
		}
	}
	if err != nil {
		_ = src.Close()
		_ = dst.Close()
	}
	return n, err
}

func copyAll(dst io.Writer, src io.Reader) (copied int64, err error) {
	if s, ok := dst.(*Stream); ok {
		if rf, ok := s.w.(io.ReaderFrom); ok {
			n, err := rf.ReadFrom(src)
			return n, s.explain(err)
		}
	}
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for {
		n, rerr := src.Read(buf[:])
		if n > 0 {
			w, err := dst.Write(buf[:n])
			copied += int64(w)
			if err != nil {
				return copied, err
			}
		}
		if rerr == io.EOF {
			return copied, nil
		}
		if rerr != nil {
			return copied, rerr
		}
	}
}
