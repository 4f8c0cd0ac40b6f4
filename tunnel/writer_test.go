package tunnel

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// slowConn lets one write through each time it is told how to end it.
type slowConn struct {
	net.Conn
	begun chan []byte // a copy of what each write was given
	next  chan outcome
}

// outcome is how a write ends: all taken, unless it says how many.
type outcome struct {
	n   int
	err error
}

func newSlowConn() *slowConn {
	return &slowConn{begun: make(chan []byte), next: make(chan outcome)}
}

func (c *slowConn) Write(p []byte) (int, error) {
	c.begun <- bytes.Clone(p)
	o := <-c.next
	if o.err == nil {
		o.n = len(p)
	}
	return o.n, o.err
}

func (c *slowConn) SetWriteDeadline(time.Time) error { return nil }

// running is a writer whose run the test waits for.
func running(t *testing.T, c net.Conn) (w *writer, ended <-chan error) {
	t.Helper()
	w = newWriter(c, time.Minute)
	done := make(chan error, 1)
	go func() { done <- w.run() }()
	return w, done
}

func TestWriterSendsTogetherWhatIsWrittenMeanwhile(t *testing.T) {
	c := newSlowConn()
	w, ended := running(t, c)
	write := func(s string, atOnce bool) {
		t.Helper()
		if n, err := w.write([]byte(s), atOnce); n != len(s) || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	write("one ", false)
	if got := string(<-c.begun); got != "one " {
		t.Errorf("%q", got)
	}
	write("two ", false)
	write("three ", true) // something is being sent: this waits its turn behind "two"
	write("four", false)
	c.next <- outcome{}
	if got := string(<-c.begun); got != "two three four" {
		t.Errorf("%q", got)
	}
	c.next <- outcome{}
	var direct sync.WaitGroup
	direct.Go(func() {
		eventually(t, "nothing is being sent", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return !w.sending })
		write("five", true)
	})
	if got := string(<-c.begun); got != "five" {
		t.Errorf("%q", got)
	}
	write(" six", false) // behind it, and not forgotten
	c.next <- outcome{}
	direct.Wait()
	if got := string(<-c.begun); got != " six" {
		t.Errorf("%q", got)
	}
	c.next <- outcome{}
	w.stop(net.ErrClosed)
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("run: %v", err)
	}
	if _, err := w.write([]byte("x"), true); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after stop: %v", err)
	}
}

// frame is an HTTP/2 frame of a type, on a stream.
func frame(kind byte, stream byte, payload int) []byte {
	return append([]byte{0, 0, byte(payload), kind, 0, 0, 0, 0, stream}, make([]byte, payload)...)
}

// What opens the connection's window again is no reason to wake anyone: it goes
// with what is written next, or when much of it has gathered. What opens a
// stream's is sent at once.
func TestWindowUpdatesOfTheConnectionWaitForCompany(t *testing.T) {
	const data, windowUpdate = 0, 8
	for name, p := range map[string][]byte{
		"data": frame(data, 0, 4), "a stream's": frame(windowUpdate, 1, 4), "both": append(frame(windowUpdate, 0, 4), frame(windowUpdate, 1, 4)...),
		"cut": frame(windowUpdate, 0, 4)[:12], "": nil,
	} {
		if refreshesConnection(p) {
			t.Errorf("%s: taken for the connection's", name)
		}
	}
	update := frame(windowUpdate, 0, 4)
	if !refreshesConnection(update) {
		t.Fatal("not seen")
	}
	c := newSlowConn()
	w, ended := running(t, c)
	for _, atOnce := range []bool{true, false} {
		for range 3 {
			if _, err := w.hold(update); err != nil {
				t.Fatal(err)
			}
		}
		var writing sync.WaitGroup
		writing.Go(func() {
			if n, err := w.write([]byte("next"), atOnce); n != 4 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
		})
		if got, want := string(<-c.begun), strings.Repeat(string(update), 3)+"next"; got != want {
			t.Errorf("%q", got)
		}
		c.next <- outcome{}
		writing.Wait()
		eventually(t, "all was sent", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return !w.sending })
	}
	for range maxHeld/len(update) + 1 {
		if _, err := w.hold(update); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-c.begun; len(got) <= maxHeld {
		t.Errorf("%d bytes", len(got))
	}
	c.next <- outcome{}
	w.stop(net.ErrClosed)
	<-ended
	if _, err := w.hold(update); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// A peer that takes nothing holds up who writes to it, and no more than so much
// waits. Stopping frees them.
func TestWriterWaitsForASlowPeer(t *testing.T) {
	c := newSlowConn()
	w, ended := running(t, c)
	if _, err := w.write([]byte("x"), false); err != nil {
		t.Fatal(err)
	}
	<-c.begun
	much := strings.Repeat("y", 3*maxGathered)
	blocked := make(chan error, 1)
	wrote := 0
	go func() {
		n, err := w.write([]byte(much), false)
		wrote = n
		blocked <- err
	}()
	eventually(t, "as much waits as may", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.gathered) == maxGathered })
	c.next <- outcome{}
	if got := <-c.begun; len(got) != maxGathered {
		t.Errorf("%d bytes at once", len(got))
	}
	eventually(t, "the next are gathered", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.gathered) == maxGathered })
	w.stop(net.ErrClosed)
	if err := <-blocked; !errors.Is(err, net.ErrClosed) || wrote != 2*maxGathered {
		t.Errorf("%d of %d bytes, %v", wrote, len(much), err)
	}
	c.next <- outcome{}
	<-ended
}

// The bound is on progress: a write that was not done in time goes on as long
// as some of it was, and breaks the connection when nothing was.
func TestWriterBoundsProgress(t *testing.T) {
	for _, atOnce := range []bool{false, true} {
		c := newSlowConn()
		w, ended := running(t, c)
		var writing sync.WaitGroup
		writing.Go(func() { _, _ = w.write([]byte("0123456789"), atOnce) })
		<-c.begun
		c.next <- outcome{4, os.ErrDeadlineExceeded}
		if got := string(<-c.begun); got != "456789" {
			t.Errorf("%q", got)
		}
		c.next <- outcome{0, os.ErrDeadlineExceeded}
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("run: %v", err)
		}
		writing.Wait()
		if _, err := w.write([]byte("x"), atOnce); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("afterwards: %v", err)
		}
	}
}

// A write fails after it was taken, so the connection must be closed by itself.
func TestABrokenWriterClosesTheConnection(t *testing.T) {
	near, far := net.Pipe()
	_ = far.Close()
	c := watch(near, time.Minute)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Errorf("the write was not taken: %v", err)
	}
	<-c.closed
	<-c.idle
	if err := c.reason(); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("reason: %v", err)
	}
}
