package tunnel

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
)

func FuzzHello(f *testing.F) {
	f.Add("POST", "/hello", "1", "replica-1")
	f.Add("POST", "/hello", "2", "")
	f.Add("GET", "/api", "1", "a b")
	f.Fuzz(func(t *testing.T, method, path, version, replica string) {
		r := &http.Request{Method: method, URL: &url.URL{Path: path}, Header: http.Header{
			headerVersion: {version}, headerReplica: {replica},
		}}
		got, err := parseHello(r)
		if err != nil {
			return
		}
		if method != "POST" || path != helloPath || version != "1" || got != replica {
			t.Errorf("%s %s %q %q is a hello, replica %q", method, path, version, replica, got)
		}
		if len(got) > maxReplica || strings.ContainsFunc(got, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Errorf("replica %q", got)
		}
	})
}

func FuzzUpgrade(f *testing.F) {
	f.Add("POST", "GET", "SPDY/3.1")
	f.Add("POST", "POST", "websocket, h2c")
	f.Add("GET", "GET", "websocket")
	f.Add("POST", "G\r\nX", "a\x00")
	f.Add("POST", "", "")
	f.Fuzz(func(t *testing.T, method, original, proto string) {
		r := &http.Request{Method: method, Header: http.Header{headerMethod: {original}, headerUpgrade: {proto}}}
		gotMethod, gotProto, upgrade, err := parseUpgrade(r)
		if !upgrade {
			t.Error("headers ignored")
		}
		if err != nil {
			return
		}
		if method != "POST" || gotMethod != original || gotProto != proto {
			t.Errorf("%q: %q %q became %q %q", method, original, proto, gotMethod, gotProto)
		}
		// What passes may be written as an HTTP/1.1 request.
		for _, s := range []string{gotMethod, gotProto} {
			if s == "" || strings.ContainsAny(s, "\":;()<>@\\[]{}") || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("%q passes", s)
			}
		}
		if strings.ContainsAny(gotMethod, " /,") {
			t.Errorf("method %q passes", gotMethod)
		}
	})
}

// FuzzUpgraded is what an agent, perhaps a stolen one, answers to an upgrade.
func FuzzUpgraded(f *testing.F) {
	f.Add(200, "101", "SPDY/3.1", "Set-Cookie", "a=b")
	f.Add(200, "101", "a\r\nX: y", "sallyport-tunnel-x", "1")
	f.Add(101, "101", "websocket", "Connection", "close")
	f.Add(200, "", "", "", "")
	f.Fuzz(func(t *testing.T, code int, status, proto, name, value string) {
		resp := &http.Response{StatusCode: code, Header: http.Header{headerStatus: {status}, headerUpgrade: {proto}}, Body: http.NoBody}
		if _, ours := resp.Header[name]; !ours {
			resp.Header[name] = []string{value}
		}
		up, ok := upgraded(resp)
		if !ok {
			return
		}
		if code != 200 || status != "101" || up.StatusCode != http.StatusSwitchingProtocols || up.Body != http.NoBody {
			t.Errorf("%d %q became %d", code, status, up.StatusCode)
		}
		if hasReserved(up.Header) {
			t.Errorf("the tunnel's own headers are left: %v", up.Header)
		}
		if got := up.Header.Get("Upgrade"); got != proto || strings.ContainsAny(got, "\r\n\x00") || up.Header.Get("Connection") != "Upgrade" {
			t.Errorf("upgraded to %q, Connection %q", got, up.Header.Get("Connection"))
		}
	})
}

func TestReserved(t *testing.T) {
	for name, want := range map[string]bool{
		"Sallyport-Tunnel-Method": true, "sallyport-tunnel-x": true, "SALLYPORT-TUNNEL-": true,
		"Sallyport-Tunnel": false, "X-Sallyport-Tunnel-Method": false, "Sallyport-Binding": false,
	} {
		h := http.Header{name: {"1"}, "Other": {"2"}}
		if got := hasReserved(h); got != want {
			t.Errorf("hasReserved(%s) = %v", name, got)
		}
		dropReserved(h)
		if _, left := h[name]; left == want || h["Other"] == nil {
			t.Errorf("dropReserved(%s) left %v", name, h)
		}
	}
}

func FuzzNotices(f *testing.F) {
	f.Add("drain\n")
	f.Add("drained\nunknown\n\n")
	f.Add("ended 33333333-3333-4333-8333-333333333333\nended \nended a b\n")
	f.Add(strings.Repeat("x", 200) + "\n")
	f.Add("no end")
	f.Fuzz(func(t *testing.T, in string) {
		var words []string
		err := readNotices(iotest.OneByteReader(strings.NewReader(in)), func(w string) { words = append(words, w) })
		total := 0
		for _, w := range words {
			total += len(w) + 1
			if len(w) >= maxNotice || strings.Contains(w, "\n") {
				t.Errorf("notice %q", w)
			}
			if name, ok := parseEnded(w); ok && ("ended "+name != w || name == "" || len(name) > maxName || strings.ContainsAny(name, " \r\n\x00\x7f") || strings.Contains(name, "\xff")) {
				t.Errorf("%q names %q", w, name)
			}
		}
		if err == nil && total != len(in) {
			t.Errorf("%q: read %d of %d bytes without an error", in, total, len(in))
		}
	})
}

func FuzzChunks(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x05hello\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x05hell"))
	f.Add([]byte("\xff\xff\xff\xffx"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := io.ReadAll(iotest.HalfReader(&chunkReader{r: bytes.NewReader(in)}))
		want, ok := chunks(in)
		if ok != (err == nil) {
			t.Fatalf("%q: %v, want success %v", in, err, ok)
		}
		if !bytes.HasPrefix(got, want) && ok {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	})
}

// chunks is the plainest reading of the format.
func chunks(in []byte) (out []byte, ok bool) {
	for len(in) >= 4 {
		n := binary.BigEndian.Uint32(in)
		in = in[4:]
		if n == 0 {
			return out, true
		}
		if n > maxChunk || int(n) > len(in) {
			return out, false
		}
		out = append(out, in[:n]...)
		in = in[n:]
	}
	return out, false
}

func TestChunkWriter(t *testing.T) {
	var wire bytes.Buffer
	flushes := 0
	w := &chunkWriter{w: &wire, flush: func() error { flushes++; return nil }}
	data := bytes.Repeat([]byte("abcdefg"), 10000)
	if n, err := w.Write(data); n != len(data) || err != nil {
		t.Fatal(n, err)
	}
	if n, err := w.ReadFrom(iotest.DataErrReader(bytes.NewReader(data))); n != int64(len(data)) || err != nil {
		t.Fatal(n, err)
	}
	if err := w.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := w.CloseWrite(); err != nil {
		t.Error("second CloseWrite:", err)
	}
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("write after CloseWrite")
	}
	got, err := io.ReadAll(&chunkReader{r: &wire})
	if err != nil || !bytes.Equal(got, append(bytes.Clone(data), data...)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if flushes < 10 {
		t.Errorf("%d flushes", flushes)
	}
}

func TestBufferPool(t *testing.T) {
	var p BufferPool
	b := p.Get()
	if len(b) != bufferSize {
		t.Errorf("%d bytes", len(b))
	}
	p.Put(b[:10])
	p.Put(make([]byte, 10)) // not one of ours
	if got := p.Get(); len(got) != bufferSize {
		t.Errorf("%d bytes", len(got))
	}
}
