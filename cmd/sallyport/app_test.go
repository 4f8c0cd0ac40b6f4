package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/trust"
)

func TestSpreadGivesEachValueItsFlag(t *testing.T) {
	a := &app{}
	root := a.tree()
	create := "aks trustedaccess rolebinding create "
	tests := []struct{ in, want string }{
		{create + "--roles A B -n x", create + "--roles A --roles B -n x"},
		{create + "-r A B C", create + "-r A --role-names B --role-names C"},
		{create + "--roles=A B", create + "--roles=A --roles B"},
		{create + "-rA B", create + "-rA --role-names B"},
		{create + "-n x y", create + "-n x y"},
		{create + "--roles A --only-show-errors B", create + "--roles A --only-show-errors B"},
		{create + "--roles A B -- C D", create + "--roles A --roles B -- C D"},
		{"group create --tags a=b c=d -n --tags", "group create --tags a=b --tags c=d -n --tags"},
		{"group list", "group list"},
		{"nothing --roles A B", "nothing --roles A B"},
		{"", ""},
	}
	for _, tt := range tests {
		got, err := spread(root, strings.Fields(tt.in))
		if err != nil || strings.Join(got, " ") != tt.want {
			t.Errorf("%q: %q, %v; want %q", tt.in, strings.Join(got, " "), err, tt.want)
		}
	}
}

func FuzzSpread(f *testing.F) {
	for _, s := range []string{"aks trustedaccess rolebinding create --roles A B", "group create --tags", "- -- =", "rest -u", "-r"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Fields(line)
		a := &app{}
		got, err := spread(a.tree(), args)
		if err != nil {
			t.Fatal(err)
		}
		// Nothing is lost, and only flags that were there are added.
		rest := got
		for _, arg := range args {
			i := slices.Index(rest, arg)
			if i < 0 {
				t.Fatalf("%q became %q: %q is lost", args, got, arg)
			}
			rest = slices.Delete(slices.Clone(rest), i, i+1)
		}
		for _, added := range rest {
			if !strings.HasPrefix(added, "--") {
				t.Fatalf("%q became %q: %q is new", args, got, added)
			}
		}
	})
}

func TestSplitRoles(t *testing.T) {
	want := []string{"A/b/c", "A/b/d"}
	for _, in := range [][]string{{"A/b/c,A/b/d"}, {"A/b/c, A/b/d"}, {"A/b/c", "A/b/d"}, {" A/b/c ,", ",A/b/d,"}, {"A/b/c,", "A/b/d"}} {
		if got, err := splitRoles(in); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range [][]string{nil, {""}, {","}, {"A/b/c,a/B/C"}, {"c"}, {"A/c"}} {
		var usage usageError
		if got, err := splitRoles(in); !errors.As(err, &usage) {
			t.Errorf("%q: %q, %v; want a usage error", in, got, err)
		}
	}
}

func TestFlatShowsAResourceAsAzDoes(t *testing.T) {
	got, err := flat([]byte(`{"id":"/subscriptions/00000000-0000-0000-0000-000000000000/resourcegroups/G/providers/A.B/c/d","name":"d","properties":{"x":1,"name":"inner"}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"id": "/subscriptions/00000000-0000-0000-0000-000000000000/resourcegroups/G/providers/A.B/c/d", "name": "d", "x": 1.0, "resourceGroup": "G", "systemData": nil}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// screen is what a person sees.
type screen struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestProgressSpeaksLateAndOncePerReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s screen
		p := newProgress(&s, false, false, 0)
		p.doing("Creating b", "nobody is there")
		time.Sleep(4900 * time.Millisecond)
		if s.String() != "" {
			t.Errorf("after 4.9 s: %q", s.String())
		}
		time.Sleep(3 * time.Second)
		p.doing("Creating b", "nobody is there")
		time.Sleep(time.Second)
		p.doing("Creating b", "almost")
		time.Sleep(time.Second)
		p.stop()
		p.stop()
		if want := "Creating b: nobody is there\nCreating b: almost\n"; s.String() != want {
			t.Errorf("got %q, want %q", s.String(), want)
		}
	})
}

func TestProgressMovesOnATerminalAndClearsItsLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s screen
		p := newProgress(&s, true, false, 40)
		p.doing("Waiting", "")
		time.Sleep(900 * time.Millisecond)
		if s.String() != "" {
			t.Errorf("after 0.9 s: %q", s.String())
		}
		time.Sleep(time.Second)
		p.pause(func() { io.WriteString(&s, "said\n") })
		p.stop()
		if got := s.String(); !strings.Contains(got, "Waiting ... 1s") || !strings.Contains(got, "\rsaid\n") || !strings.HasSuffix(got, "\r") && !strings.HasSuffix(got, "said\n") {
			t.Errorf("screen %q", got)
		}
		var narrow screen
		p = newProgress(&narrow, true, false, 40)
		p.doing("Waiting for /subscriptions/0b1f6471-1bf0-4dda-aec3-111122223333/résumé", "")
		time.Sleep(1500 * time.Millisecond)
		p.stop()
		for line := range strings.SplitSeq(narrow.String(), "\r") {
			if n := utf8.RuneCountInString(line); n > 39 {
				t.Errorf("%d columns: %q", n, line)
			}
		}
		if !strings.Contains(narrow.String(), "… ... 1s") {
			t.Errorf("screen %q", narrow.String())
		}
		var quiet screen
		p = newProgress(&quiet, false, true, 0)
		p.doing("x", "y")
		time.Sleep(10 * time.Second)
		p.stop()
		if quiet.String() != "" {
			t.Errorf("--only-show-errors: %q", quiet.String())
		}
		var none *progress
		none.doing("x", "y")
		none.stop()
	})
}

func TestConfirm(t *testing.T) {
	tests := []struct {
		name, typed   string
		terminal, yes bool
		ok            bool
	}{
		{"--yes", "", false, true, true},
		{"yes", "y\n", true, false, true},
		{"no", "n\n", true, false, false},
		{"nonsense, then yes", "perhaps\n\nYES\n", true, false, true},
		{"end of input", "", true, false, false},
		{"no terminal", "y\n", false, false, false},
	}
	for _, tt := range tests {
		var s screen
		a := &app{streams: streams{in: strings.NewReader(tt.typed), err: &s, inTerminal: tt.terminal}}
		err := a.confirm(tt.yes, sure)
		a.busy.stop()
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
		if !tt.yes && tt.terminal && !strings.Contains(s.String(), sure+" (y/n): ") {
			t.Errorf("%s: asked %q", tt.name, s.String())
		}
	}
}

func TestFailSaysWhatWhyAndWhatNext(t *testing.T) {
	hinted := trust.Errorf(trust.Unavailable, "the cluster is away")
	hinted.Hint = "look at it"
	tests := []struct {
		err  error
		code int
		want string
	}{
		{nil, 0, ""},
		{usagef("which?"), 2, "ERROR: which?\n"},
		{&client.Error{Status: 404, Code: "ResourceNotFound", Message: "gone"}, 3, "ERROR: (ResourceNotFound) gone\n"},
		{&client.Error{Status: 403, Code: "AuthorizationFailed", Message: "no", Hint: "ask"}, 1, "ERROR: (AuthorizationFailed) no\nNext: ask\n"},
		{&client.Error{Status: 500, Code: "InternalServerError", Message: "oh", RequestID: "r"}, 1, "ERROR: (InternalServerError) oh\nRequest id: r\n"},
		{hinted.Because(io.ErrUnexpectedEOF), 1, "ERROR: the cluster is away: unexpected EOF\nNext: look at it\n"},
		{quietError{1}, 1, ""},
	}
	for _, tt := range tests {
		var s screen
		a := &app{streams: streams{err: &s}}
		if code := a.fail(t.Context(), tt.err); code != tt.code || s.String() != tt.want {
			t.Errorf("%v: code %d, %q; want %d, %q", tt.err, code, s.String(), tt.code, tt.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var s screen
	if code := (&app{streams: streams{err: &s}}).fail(ctx, context.Canceled); code != 130 {
		t.Errorf("stopped: %d", code)
	}
}

// Every command that people type has help with an example, and no argument
// hides another.
func TestEveryCommandIsDocumented(t *testing.T) {
	a := &app{}
	var walk func(path string)
	root := a.tree()
	walk = func(path string) {
		cmd, _, err := root.Find(strings.Fields(path))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cmd.Commands() {
			name := strings.TrimSpace(path + " " + c.Name())
			if c.Short == "" || !strings.HasSuffix(c.Short, ".") {
				t.Errorf("%s: short help %q is no sentence", name, c.Short)
			}
			if len(c.Commands()) > 0 {
				walk(name)
				continue
			}
			switch c.Name() {
			case "up", "down", "demo":
				continue
			}
			if !strings.Contains(c.Example, "sallyport "+name) {
				t.Errorf("%s: no example of it in %q", name, c.Example)
			}
		}
	}
	walk("")
}

// What is wrong in a file is said in the words of whoever wrote it.
func TestReadYAML(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"type: foo":            "",
		"tags: {a: 1}":         "",
		"inference_count: 1":   "f: 'inference_count' is not of it",
		"instancecount: 1":     "f: 'instancecount' is not of it; did you mean instance_count?",
		"instance_cuont: 1":    "f: 'instance_cuont' is not of it; did you mean instance_count?",
		"instance_count: many": "f: instance_count must be a whole number, and is text",
		"instance_count: 1.5":  "f: instance_count must be a whole number, and is number 1.5",
		"tags: [a]":            "f: tags must be members with values, and is a list",
		"name: {a: b}":         "f: name must be text, and is members with values",
		"- a":                  "f: it must be members with values, and is a list",
		"name: a\nname: b":     "f does not read as it: yaml: ",
		"name: [":              "f does not read as it: yaml: ",
		"request_settings: {request_timeout_ms: soon}": "f: request_settings.request_timeout_ms must be a whole number, and is text",
	} {
		err := readYAML([]byte(text), new(deploymentFile), "f", "it")
		got := ""
		if err != nil {
			got = err.Error()
			if hint := hintOf(err); strings.HasPrefix(hint, "did you mean") {
				got += "; " + hint
			}
		}
		if (want == "") != (got == "") || !strings.HasPrefix(got, want) || strings.Contains(got, "json") || strings.Contains(got, "Go ") {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// A type or kind that the server does not know reaches it, so that it can say so.
func TestServedKindsReachTheServer(t *testing.T) {
	t.Parallel()
	d := deploymentFile{Type: "foo", Environment: []byte(`"azureml:e:1"`)}
	body, err := (&app{sub: "0b1f6471-1bf0-4dda-aec3-111122223333", arm: new(client.Client)}).deploymentBody(t.Context(), &onEndpoint{inWorkspace: inWorkspace{group: "g", workspace: "w"}}, &d, true)
	if err != nil || body["properties"].(map[string]any)["endpointComputeType"] != "foo" {
		t.Errorf("%v, %v", body, err)
	}
	if body := (&endpointFile{Kind: "odd"}).body("w"); body["kind"] != "odd" {
		t.Errorf("%v", body)
	}
}
