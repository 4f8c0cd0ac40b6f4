// Package logs sets up the log of a process: text on a terminal, JSON lines
// elsewhere, and a last line of defence that takes out tokens, keys and secrets
// which should never have come that far.
//
// It owns format and redaction. It does not decide what is logged: rooms take a
// *slog.Logger and log constant messages with pairs. Foreign log packages are
// led in by its sub-packages, each because of what it links.
//
// The levels mean:
//
//	Error  somebody must act, or something acknowledged did not happen
//	Warn   it works, but will not for ever: retries, old keys, a full queue
//	Info   what an operator would ask for later: starts, stops, changes, one event per control request
//	Debug  for whoever looks for a fault in the program
package logs

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/term"
)

// Options choose the form of the log.
type Options struct {
	Level  slog.Leveler // nil: Info
	Format string       // "text", "json", or "": text if the writer is a terminal, else JSON
}

// New makes the log of a process, written to w (os.Stderr). Every line is
// written in one call.
func New(w io.Writer, o Options) (*slog.Logger, error) {
	h := &slog.HandlerOptions{Level: o.Level, ReplaceAttr: redactAttr}
	if o.Level == nil {
		h.Level = slog.LevelInfo
	}
	format := o.Format
	if format == "" {
		format = "json"
		if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			format = "text"
		}
	}
	w = &redactor{to: w}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, h)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, h)), nil
	}
	return nil, fmt.Errorf("log format %q: text and json are known", o.Format)
}

// ParseLevel reads a level's name: debug, info, warn, error.
func ParseLevel(name string) (slog.Level, error) {
	switch strings.ToLower(name) {
	case "debug":
		return slog.LevelDebug, nil
	case "", "info":
		return slog.LevelInfo, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("log level %q: debug, info, warn and error are known", name)
}

// Std is a standard logger whose lines go into l as the attribute "line" of one
// constant message: for http.Server.ErrorLog, whose lines are mostly about
// strangers' connections, at level Debug.
func Std(l *slog.Logger, level slog.Level, message string) *log.Logger {
	return log.New(&lines{l: l, level: level, message: message}, "", 0)
}

type lines struct {
	l       *slog.Logger
	level   slog.Level
	message string
}

func (s *lines) Write(p []byte) (int, error) {
	//nolint:forbidigo // a standard logger has no context
	s.l.Log(context.Background(), s.level, s.message, "line", strings.TrimRight(string(p), "\n"))
	return len(p), nil
}
