package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
	"github.com/sallyport/sallyport/trust"
)

// Exit codes, as az's.
const (
	exitOK       = 0
	exitError    = 1
	exitUsage    = 2
	exitNotFound = 3
	exitStopped  = 130
)

// streams are where a command reads and writes; the flags say which of them a
// person sits at.
type streams struct {
	in                                   io.Reader
	out, err                             io.Writer
	inTerminal, outTerminal, errTerminal bool
	outWidth, errWidth                   int // of terminals, in columns; 0: not known
}

// app is one invocation.
type app struct {
	streams
	root *cobra.Command
	ran  *cobra.Command // the command that was run, nil before that

	// Global arguments.
	print                 output.Printer
	contextName, sub      string
	onlyErrors, debugging bool

	file    *client.File
	context *client.Context
	arm     *client.Client
	busy    *progress
}

// usageError is a wrong call: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run is main without the process.
func run(ctx context.Context, args []string, s streams) int {
	a := &app{streams: s}
	a.root = a.tree()
	defer a.close()
	args, err := spread(a.root, args)
	if err == nil {
		a.root.SetArgs(args)
		a.ran, err = a.root.ExecuteContextC(ctx)
	}
	a.busy.stop()
	return a.fail(ctx, err)
}

func (a *app) close() {
	if a.arm != nil {
		a.arm.Close()
	}
}

// fail is the one place where an error becomes text and an exit code.
func (a *app) fail(ctx context.Context, err error) int {
	var usage usageError
	var quiet quietError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &quiet):
		return quiet.code
	case ctx.Err() != nil:
		fmt.Fprintln(a.err, "Stopped. What was begun on the server goes on there.")
		return exitStopped
	case errors.As(err, &usage):
		fmt.Fprintln(a.err, a.color(red, "ERROR: ")+sentence(err.Error()))
		a.next(err)
		return exitUsage
	}
	fmt.Fprintln(a.err, a.color(red, "ERROR: ")+sentence(message(err)))
	var e *client.Error
	if errors.As(err, &e) {
		for _, d := range e.Details {
			switch {
			case !strings.HasPrefix(d.Message, "sallyport "):
				fmt.Fprintln(a.err, "  "+d.Message)
			case e.Hint == "":
				e.Hint = d.Message
			}
		}
		if e.Hint == "" {
			e.Hint = a.whereToLook(e)
		}
	}
	a.next(err)
	if e != nil && e.Status >= 500 && e.RequestID != "" {
		fmt.Fprintln(a.err, "Request id: "+e.RequestID)
	}
	var coded codedError
	if errors.As(err, &coded) {
		return coded.code
	}
	if trust.KindOf(err) == trust.NotFound {
		return exitNotFound
	}
	return exitError
}

// quietError ends a command with a code after it has said all there is to say.
type quietError struct{ code int }

func (quietError) Error() string { return "" }

// next says what to type next, if an error knows.
func (a *app) next(err error) {
	if hint := hintOf(err); hint != "" {
		fmt.Fprintln(a.err, "Next: "+hint)
	}
}

// whereToLook is the command that lists what there is, where what was named is
// not among it; "" where no command does.
func (a *app) whereToLook(e *client.Error) string {
	if e.Code == "ResourceGroupNotFound" {
		return "sallyport group list"
	}
	if e.Status != http.StatusNotFound || a.ran == nil || a.ran.Parent() == nil {
		return ""
	}
	named := a.ran.Flags().Lookup("name")
	list, rest, err := a.ran.Parent().Find([]string{"list"})
	if named == nil || named.Value.String() == "" || err != nil || len(rest) > 0 || list == a.ran {
		return ""
	}
	text := list.CommandPath()
	lost, name := trust.Fold(e.Message), trust.Fold(named.Value.String())
	switch versions := list.Flags().Lookup("name"); {
	case strings.Contains(lost, "/"+name+"'"):
	case strings.Contains(lost, "/"+name+"/versions/") && versions != nil:
		text += " -n " + named.Value.String()
	default:
		return "" // it is something else that is missing
	}
	list.Flags().VisitAll(func(f *pflag.Flag) {
		given := a.ran.Flags().Lookup(f.Name)
		switch {
		case len(f.Annotations[requiredBy]) == 0 && f.Name != "resource-group":
		case given != nil && given.Changed && f.Shorthand != "":
			text += " -" + f.Shorthand + " " + given.Value.String()
		case given != nil && given.Changed:
			text += " --" + f.Name + " " + given.Value.String()
		}
	})
	return text
}

// message is what a person reads: the server's words as az shows them, ours with
// their cause, since here the reader and the one who can mend it are one.
func message(err error) string {
	var e *client.Error
	if errors.As(err, &e) {
		return e.Error()
	}
	return err.Error()
}

func hintOf(err error) string {
	var e *trust.Error
	if errors.As(err, &e) && e.Hint != "" {
		return e.Hint
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return "make room on the disk, and type the same command again"
	}
	return ""
}

func sentence(s string) string { return strings.TrimRight(s, "\n") }

const (
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
	reset  = "\x1b[0m"
)

// color paints what goes to stderr, if a person reads it there.
func (a *app) color(code, s string) string {
	if !a.errTerminal || os.Getenv("NO_COLOR") != "" {
		return s
	}
	return code + s + reset
}

// progress starts to say on stderr that something goes on.
func (a *app) progress() *progress {
	return newProgress(a.err, a.errTerminal && !a.onlyErrors, a.onlyErrors, a.errWidth)
}

// say tells a person something that is not the result.
func (a *app) say(format string, args ...any) {
	if a.onlyErrors {
		return
	}
	a.busy.pause(func() { fmt.Fprintf(a.err, format+"\n", args...) })
}

func (a *app) warn(format string, args ...any) {
	if a.onlyErrors {
		return
	}
	a.busy.pause(func() { fmt.Fprintln(a.err, a.color(yellow, "WARNING: ")+fmt.Sprintf(format, args...)) })
}

// confirm asks before something is destroyed.
func (a *app) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	if !a.inTerminal {
		e := trust.Errorf(trust.Precondition, "Unable to prompt for confirmation as no tty available. Use --yes.")
		return e
	}
	a.busy.stop()
	defer func() { a.busy = a.progress() }()
	for {
		fmt.Fprint(a.err, question+" (y/n): ")
		var answer string
		if _, err := fmt.Fscanln(a.in, &answer); err != nil && answer == "" {
			if errors.Is(err, io.EOF) {
				return quietError{exitError}
			}
			continue
		}
		switch strings.ToLower(answer) {
		case "y", "yes":
			return nil
		case "n", "no":
			fmt.Fprintln(a.err, "Operation cancelled.")
			return quietError{exitError}
		}
	}
}

const sure = "Are you sure you want to perform this operation?"
