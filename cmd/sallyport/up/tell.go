package up

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// teller prints the story: one line per step with the command it stands for,
// its real result, and how long it took.
type teller struct {
	out   io.Writer
	color bool
	now   func() time.Time
	n     int
	live  bool // out is a terminal that only steps write to while they run

	mu    sync.Mutex // guards doing
	doing string     // what a long step is at
}

const (
	bold  = "\x1b[1m"
	green = "\x1b[32m"
	red   = "\x1b[31m"
	dim   = "\x1b[2m"
	reset = "\x1b[0m"
)

func (t *teller) paint(code, s string) string {
	if !t.color || s == "" {
		return s
	}
	return code + s + reset
}

// heading prints a line that is no step.
func (t *teller) heading(format string, args ...any) {
	fmt.Fprintf(t.out, "\n%s\n", t.paint(bold, fmt.Sprintf(format, args...)))
}

func (t *teller) line(format string, args ...any) { fmt.Fprintf(t.out, format+"\n", args...) }

// verdict is what a step came to.
type verdict struct {
	ok     bool
	result string // the last line that says it all
}

// step runs f and prints: number, what it does, the command, the result, the
// time. It returns f's error.
func (t *teller) step(title, command string, f func() (verdict, error)) error {
	t.n++
	fmt.Fprintf(t.out, "\n%s %s\n", t.paint(bold, fmt.Sprintf("%2d.", t.n)), t.paint(bold, title))
	if command != "" {
		fmt.Fprintf(t.out, "    %s\n", t.paint(dim, "$ "+command))
	}
	began := t.now()
	stop := t.waiting()
	v, err := f()
	stop()
	took := t.now().Sub(began)
	if err != nil {
		fmt.Fprintf(t.out, "    %s %s\n", t.paint(red, "failed:"), indent(err.Error()))
		return err
	}
	mark := t.paint(green, "ok")
	if !v.ok {
		mark = t.paint(red, "refused")
	}
	if v.result != "" {
		mark += " " + indent(v.result)
	}
	fmt.Fprintf(t.out, "    %s %s\n", mark, t.paint(dim, "("+short(took)+")"))
	return nil
}

// waiting shows that a step still goes on, from its third second, in a line that
// is gone when the function that it returns has returned.
func (t *teller) waiting() (stop func()) {
	if !t.live {
		return func() {}
	}
	done := make(chan struct{})
	var shown sync.WaitGroup
	shown.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for n := 1; ; n++ {
			select {
			case <-done:
				if n > 3 {
					fmt.Fprintf(t.out, "\r%79s\r", "")
				}
				return
			case <-tick.C:
			}
			if n >= 3 {
				t.mu.Lock()
				fmt.Fprintf(t.out, "\r    %-75.75s", fmt.Sprintf("… %d s  %s", n, t.doing))
				t.mu.Unlock()
			}
		}
	})
	return func() {
		close(done)
		shown.Wait()
		t.doing = ""
	}
}

// indent keeps a result of several lines below its step.
func indent(s string) string {
	return strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n    ")
}

func short(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%d min %02d s", int(d.Minutes()), int(d.Seconds())%60)
}
