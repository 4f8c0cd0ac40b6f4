package main

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// Anybody may begin a request and never send its body.
func TestABodyThatDoesNotComeIsNotWaitedForForEver(t *testing.T) {
	read := make(chan error, 1)
	s := httptest.NewTLSServer(inTime(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/reads" {
			_, err := io.ReadAll(r.Body)
			read <- err
		}
	}), 100*time.Millisecond))
	defer s.Close()
	for _, path := range []string{"/reads", "/refuses"} {
		conn, err := tls.Dial("tcp", s.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true}) // the test's own server
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nx"); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, bufio.NewReader(conn)); err != nil {
			t.Errorf("%s: the connection is still open: %v", path, err)
		}
	}
	select {
	case err := <-read:
		if err == nil {
			t.Error("half a body was read as a whole one")
		}
	default:
		t.Error("the handler still reads")
	}
}
