package store

import (
	"context"
	"errors"
	"log/slog"
	"runtime"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// etcdLogger leads etcd's log into ours, one level down: what etcd calls
// information is detail here. fatal is called where etcd would exit the
// process; the calling goroutine then ends instead. nil keeps the exit, which
// the client never asks for.
func etcdLogger(log *slog.Logger, fatal func(error)) *zap.Logger {
	opts := []zap.Option{}
	if fatal != nil {
		opts = append(opts, zap.WithFatalHook(fatalHook(fatal)))
	}
	return zap.New(&zapCore{log: log}, opts...)
}

// fatalHook ends the goroutine, not the process.
type fatalHook func(error)

func (h fatalHook) OnWrite(ce *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := errors.New(ce.Message)
	for _, f := range fields {
		if cause, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			err = &etcdError{message: ce.Message, cause: cause}
		}
	}
	h(err)
	runtime.Goexit()
}

// etcdError is an error that etcd cannot continue after.
type etcdError struct {
	message string
	cause   error
}

func (e *etcdError) Error() string { return e.message + ": " + e.cause.Error() }
func (e *etcdError) Unwrap() error { return e.cause }

// zapCore writes zap entries to a slog logger.
type zapCore struct {
	log    *slog.Logger
	fields []zapcore.Field
}

func level(l zapcore.Level) slog.Level {
	switch {
	case l < zapcore.InfoLevel:
		// etcd's own debugging writes every record as it is stored. No level of ours
		// asks for that.
		return slog.LevelDebug - 8
	case l == zapcore.InfoLevel:
		return slog.LevelDebug
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	}
	return slog.LevelError
}

func (c *zapCore) Enabled(l zapcore.Level) bool {
	// The hook of a fatal entry runs whether or not the entry is written.
	return c.log.Enabled(context.TODO(), level(l))
}

func (c *zapCore) With(fields []zapcore.Field) zapcore.Core {
	return &zapCore{log: c.log, fields: append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

func (c *zapCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c *zapCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	m := zapcore.NewMapObjectEncoder()
	for _, f := range c.fields {
		f.AddTo(m)
	}
	for _, f := range fields {
		f.AddTo(m)
	}
	attrs := make([]slog.Attr, 0, len(m.Fields)+1)
	attrs = append(attrs, slog.String("event", e.Message))
	for k, v := range m.Fields {
		attrs = append(attrs, slog.Any(k, v))
	}
	c.log.LogAttrs(context.TODO(), level(e.Level), "etcd", attrs...)
	return nil
}

func (c *zapCore) Sync() error { return nil }
