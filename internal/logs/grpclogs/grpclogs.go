// Package grpclogs leads the log of gRPC, which etcd's client speaks, into a
// slog logger. It is apart from package logs so that programs without gRPC do
// not link it.
package grpclogs

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"google.golang.org/grpc/grpclog"
)

// Install makes l the log of gRPC, one level down: what gRPC warns of (a
// connection that broke, and is made again) is for whoever looks for a fault.
// gRPC keeps its logger in a global variable: only main calls this, once, at
// the start, before anything uses gRPC.
func Install(l *slog.Logger) { grpclog.SetLoggerV2(&logger{l: l.With("from", "grpc")}) }

type logger struct{ l *slog.Logger }

func (g *logger) log(level slog.Level, text string) {
	//nolint:forbidigo // gRPC's logger has no context
	g.l.Log(context.Background(), level, "grpc", "line", strings.TrimSpace(text))
}

func (g *logger) Info(...any)                 {}
func (g *logger) Infoln(...any)               {}
func (g *logger) Infof(string, ...any)        {}
func (g *logger) Warning(a ...any)            { g.log(slog.LevelDebug, fmt.Sprint(a...)) }
func (g *logger) Warningln(a ...any)          { g.log(slog.LevelDebug, fmt.Sprintln(a...)) }
func (g *logger) Error(a ...any)              { g.log(slog.LevelWarn, fmt.Sprint(a...)) }
func (g *logger) Errorln(a ...any)            { g.log(slog.LevelWarn, fmt.Sprintln(a...)) }
func (g *logger) Fatalln(a ...any)            { g.Fatal(fmt.Sprintln(a...)) }
func (g *logger) V(int) bool                  { return false }
func (g *logger) Warningf(f string, a ...any) { g.Warning(fmt.Sprintf(f, a...)) }
func (g *logger) Errorf(f string, a ...any)   { g.Error(fmt.Sprintf(f, a...)) }
func (g *logger) Fatalf(f string, a ...any)   { g.Fatal(fmt.Sprintf(f, a...)) }

// Fatal ends the process, as gRPC relies on.
func (g *logger) Fatal(a ...any) {
	g.log(slog.LevelError, fmt.Sprint(a...))
	os.Exit(1)
}
