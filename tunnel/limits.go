package tunnel

import (
	"net/http"
	"time"
)

// ALPN is the protocol name of the tunnel. A listener that shares its port
// with an API selects by it.
const ALPN = "sallyport-tunnel/1"

// The flow-control numbers of both ends. One stalled stream must never take
// window from another one: the connection's window is larger than everything
// that the streams with a body may hold together. Go documents a maximum of
// 4 MiB for it and defaults to one stream's window, with which eight stalled
// uploads freeze the whole connection; larger values work, and
// TestStalledUploads guards that at every change of Go's version.
const (
	streamWindow     = 256 << 10 // receive window of one stream, both ends
	connectionWindow = 64 << 20  // receive window of the agent's connection
	maxStreams       = 2000      // concurrent requests per connection
	maxBodies        = 200       // of them with a request body, raw ones included
	agentFrame       = 16 << 10  // largest frame the agent reads; also the gateway's buffer per open body
	gatewayFrame     = 64 << 10  // largest frame the gateway reads
	maxHeaderBytes   = 1 << 20   // as net/http's server
)

// Limits are the times of one tunnel connection. A zero field takes the
// default.
type Limits struct {
	PingAfter    time.Duration // ping when no frame came for this long; 10 s
	PingTimeout  time.Duration // close when the answer takes longer; 10 s
	WriteTimeout time.Duration // close when not one byte could be written for this long; 15 s
	Hello        time.Duration // from the accepted connection to the first answer; 10 s
}

func (l Limits) withDefaults() Limits {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&l.PingAfter, 10*time.Second)
	set(&l.PingTimeout, 10*time.Second)
	set(&l.WriteTimeout, 15*time.Second)
	set(&l.Hello, 10*time.Second)
	return l
}

// Neither end sets WriteByteTimeout: writer bounds its own writes.

// gatewayHTTP2 is for the HTTP/2 client, which only reads answers: its
// connection window is far above what all answers may hold, because Go's
// transport sets it to 1 GiB by itself.
func (l Limits) gatewayHTTP2() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxReadFrameSize:          gatewayFrame,
		MaxReceiveBufferPerStream: streamWindow,
		SendPingTimeout:           l.PingAfter,
		PingTimeout:               l.PingTimeout,
	}
}

func (l Limits) agentHTTP2() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          maxStreams,
		MaxReadFrameSize:              agentFrame,
		MaxReceiveBufferPerConnection: connectionWindow,
		MaxReceiveBufferPerStream:     streamWindow,
		SendPingTimeout:               l.PingAfter,
		PingTimeout:                   l.PingTimeout,
	}
}
