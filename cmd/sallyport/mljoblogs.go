package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/bucket/signed"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

type logFiles struct {
	Files  []wire.LogFile
	Status string
	Trust  string // PEM: of the store that their URLs are of
}

type logPart struct {
	Content string
	Next    int64
	Done    bool
}

func (a *app) logs(ctx context.Context, id string, ask, into any) error {
	return a.post(ctx, id+"/getLogs", ask, into)
}

// stream prints a job's logs as they come, each line with its node where there
// are several. A job that did not complete is an error.
func (a *app) stream(ctx context.Context, id string) error {
	at, open, done := map[string]int64{}, map[string]bool{}, map[string]bool{}
	printer := &lines{a: a, rest: map[string]string{}}
	for {
		job, err := a.get(ctx, id, mlVersion)
		if err != nil {
			return err
		}
		m, _ := job.(map[string]any)
		status, _ := m["status"].(string)
		more, _ := m["properties"].(map[string]any)
		reason, _ := more["statusReason"].(string)
		if status == "NotResponding" {
			return trust.Errorf(trust.Unavailable, "nothing is known of the job now: %s", reason)
		}
		var files logFiles
		if err := a.logs(ctx, id, map[string]any{}, &files); err != nil {
			return err
		}
		for _, f := range files.Files {
			switch {
			case done[f.Name]:
			case f.URL != "" && at[f.Name] == 0:
				text, err := keptLog(ctx, files.Trust, f)
				if err != nil {
					return err
				}
				printer.several = len(files.Files) > 1
				printer.add(f.Name, text)
				printer.end(f.Name)
				done[f.Name] = true
				delete(open, f.Name)
			default:
				open[f.Name] = true
			}
		}
		printer.several = len(files.Files) > 1
		got := false
		for _, name := range slices.Sorted(maps.Keys(open)) {
			wait := 0
			if len(open) == 1 && !ended(status) {
				wait = 10
			}
			var part logPart
			if err := a.logs(ctx, id, map[string]any{"file": name, "offset": at[name], "wait": wait}, &part); err != nil {
				return err
			}
			got = got || part.Content != "" || wait > 0
			printer.add(name, part.Content)
			if at[name] = part.Next; part.Done {
				printer.end(name)
				delete(open, name)
				done[name] = true
			}
		}
		if ended(status) && len(open) == 0 {
			return verdict(status, more)
		}
		if len(files.Files) == 0 {
			a.busy.doing("Waiting for the job, "+status, reason)
		}
		if !got {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(500 * time.Millisecond):
			}
		}
	}
}

// keptLog reads a whole log from the workspace's store.
func keptLog(ctx context.Context, ca string, f wire.LogFile) (string, error) {
	hc := signed.Client(ca)
	defer hc.CloseIdleConnections()
	body, err := signed.Get(ctx, hc, f.URL)
	if err != nil {
		return "", ofStore(err)
	}
	defer body.Close()
	text, err := io.ReadAll(body)
	return strings.ToValidUTF8(string(text), "\uFFFD"), err
}

func ended(status string) bool {
	return status == "Completed" || status == "Failed" || status == "Canceled"
}

func verdict(status string, more map[string]any) error {
	if status == "Completed" {
		return nil
	}
	code, _ := more["statusCode"].(string)
	reason, _ := more["statusReason"].(string)
	return trust.Errorf(trust.Conflict, "the job ended as %s (%s): %s", status, code, reason)
}

// lines prints whole lines of several files.
type lines struct {
	a       *app
	several bool
	rest    map[string]string
}

func (l *lines) add(file, text string) {
	if text == "" {
		return
	}
	text = l.rest[file] + text
	i := strings.LastIndexByte(text, '\n') + 1
	l.rest[file] = text[i:]
	l.print(file, text[:i])
}

func (l *lines) end(file string) {
	if rest := l.rest[file]; rest != "" {
		l.print(file, rest+"\n")
	}
	delete(l.rest, file)
}

func (l *lines) print(file, text string) {
	if text == "" {
		return
	}
	l.a.busy.pause(func() {
		for line := range strings.Lines(text) {
			if l.several {
				line = "[" + file + "] " + line
			}
			fmt.Fprint(l.a.out, line)
		}
	})
}
