package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// The answer of an upgraded request is a sequence of chunks: four bytes of
// length, big-endian, then that many bytes. Length 0 says that this direction
// has ended; an answer that ends without it was cut.
const (
	chunkHeader = 4
	bufferSize  = 16 << 10
	maxChunk    = bufferSize - chunkHeader // one chunk with its header fills one buffer and one frame
)

// buffers holds the copy buffers of both ends.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// BufferPool lends the tunnel's 16 KiB buffers.
type BufferPool struct{}

// Get returns a buffer of 16 KiB.
func (BufferPool) Get() []byte { return buffers.Get().(*[bufferSize]byte)[:] }

// Put takes a buffer back that Get returned.
func (BufferPool) Put(b []byte) {
	if cap(b) >= bufferSize {
		buffers.Put((*[bufferSize]byte)(b[:bufferSize]))
	}
}

// chunkReader turns chunks back into bytes.
type chunkReader struct {
	r      io.Reader
	header [chunkHeader]byte
	left   int
	err    error
}

func (c *chunkReader) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if c.left == 0 {
		if c.err = c.next(); c.err != nil {
			return 0, c.err
		}
	}
	n, err := c.r.Read(p[:min(len(p), c.left)])
	c.left -= n
	if err != nil {
		if err == io.EOF { // more bytes or the end chunk had to follow
			err = io.ErrUnexpectedEOF
		}
		c.err = err
	}
	return n, err
}

func (c *chunkReader) next() error {
	if _, err := io.ReadFull(c.r, c.header[:]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	n := binary.BigEndian.Uint32(c.header[:])
	if n == 0 {
		return io.EOF
	}
	if n > maxChunk {
		return fmt.Errorf("chunk of %d bytes, at most %d", n, maxChunk)
	}
	c.left = int(n)
	return nil
}

var errWriteClosed = errors.New("write after CloseWrite")

// chunkWriter writes chunks and flushes each, so that a keystroke does not
// wait. One goroutine may write and another one close.
type chunkWriter struct {
	w     io.Writer
	flush func() error

	mu     sync.Mutex // orders chunks, the end chunk after them; held while a write blocks
	closed atomic.Bool
}

func (c *chunkWriter) Write(p []byte) (written int, err error) {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for len(p) > 0 && err == nil {
		n := copy(buf[chunkHeader:], p)
		if err = c.send(buf, n); err == nil {
			written += n
			p = p[n:]
		}
	}
	return written, err
}

// ReadFrom copies from r without a second buffer.
func (c *chunkWriter) ReadFrom(r io.Reader) (copied int64, err error) {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for {
		n, rerr := r.Read(buf[chunkHeader:])
		if n > 0 {
			if err := c.send(buf, n); err != nil {
				return copied, err
			}
			copied += int64(n)
		}
		if rerr == io.EOF {
			return copied, nil
		}
		if rerr != nil {
			return copied, rerr
		}
	}
}

func (c *chunkWriter) send(buf *[bufferSize]byte, n int) error {
	binary.BigEndian.PutUint32(buf[:chunkHeader], uint32(n))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return errWriteClosed
	}
	if _, err := c.w.Write(buf[:chunkHeader+n]); err != nil {
		return err
	}
	return c.flush()
}

// CloseWrite writes the end chunk; a second call does nothing.
func (c *chunkWriter) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Swap(true) {
		return nil
	}
	var end [chunkHeader]byte
	if _, err := c.w.Write(end[:]); err != nil {
		return err
	}
	return c.flush()
}
