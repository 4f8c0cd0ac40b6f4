package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

const (
	showAfter   = time.Second     // a person begins to wonder
	reasonAfter = 5 * time.Second // and wants to know what it waits for
	frame       = 120 * time.Millisecond
)

// progress says on stderr that something goes on: to a person as a line that
// moves, after 1 s; to anybody, after 5 s, what is waited for, once per reason.
// A nil progress is silent.
type progress struct {
	w      io.Writer
	moving bool // a terminal: draw
	width  int  // its columns
	quiet  bool
	done   chan struct{}
	gone   sync.WaitGroup
	once   sync.Once

	mu     sync.Mutex // guards what follows, and w while drawing
	text   string
	reason string
	told   string
	drawn  int // columns of the moving line on the screen
}

// newProgress starts it; stop must be called. A moving line has at most width
// columns: one that is wrapped cannot be taken back.
func newProgress(w io.Writer, moving, quiet bool, width int) *progress {
	if width <= 0 {
		width = 80
	}
	p := &progress{w: w, moving: moving, quiet: quiet, width: width, done: make(chan struct{}), text: "Running"}
	p.gone.Go(p.run)
	return p
}

func (p *progress) run() {
	began := time.Now()
	tick := time.NewTicker(frame)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-p.done:
			return
		case <-tick.C:
		}
		if took := time.Since(began); took >= showAfter && !p.quiet {
			p.draw(n, took)
		}
	}
}

func (p *progress) draw(n int, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if took >= reasonAfter && p.reason != "" && p.reason != p.told {
		p.erase()
		fmt.Fprintf(p.w, "%s: %s\n", p.text, p.reason)
		p.told = p.reason
	}
	if p.moving {
		p.erase()
		end := fmt.Sprintf(" ... %ds", int(took.Seconds()))
		line := []rune(fmt.Sprintf("%c %s", `|/-\`[n%4], p.text))
		if room := max(p.width-1-len(end), 1); len(line) > room {
			line = append(line[:room-1], '…')
		}
		fmt.Fprint(p.w, string(line)+end)
		p.drawn = len(line) + len(end)
	}
}

// erase takes the moving line off the screen.
func (p *progress) erase() {
	if p.drawn > 0 {
		fmt.Fprint(p.w, "\r"+strings.Repeat(" ", p.drawn)+"\r")
		p.drawn = 0
	}
}

// doing says what goes on now, and why it takes long.
func (p *progress) doing(text, reason string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text, p.reason = text, reason
}

// pause lets f write without the moving line in its way.
func (p *progress) pause(f func()) {
	if p == nil {
		f()
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	f()
}

// stop ends it and clears its line. It may be called more than once.
func (p *progress) stop() {
	if p == nil {
		return
	}
	p.once.Do(func() {
		close(p.done)
		p.gone.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.erase()
	})
}
