package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestTheListIsClosed(t *testing.T) {
	got, err := ParseTargets([]string{"A.blob.core.windows.net", "kubernetes.default.svc:6443", "a.blob.core.windows.net.", "a.blob.core.windows.net:443"})
	if err != nil || len(got) != 2 || got[0].String() != "a.blob.core.windows.net:443" || got[1].String() != "kubernetes.default.svc:6443" {
		t.Fatalf("%v %v", got, err)
	}
	for _, bad := range []string{"", "10.0.0.1", "10.0.0.1:443", "10.1", "0x0a000001", "::1", "[::1]:443", "10.0.0.0/8", "*.blob.core.windows.net", "a..b", "-a.b", "a b", "a/b", "a:0", "a:65536", "a:443:1", "a:*", "a:80-90",
		"a:+443", "a:", "http://a", "user@a", strings.Repeat("a", 64) + ".b", "ä.example"} {
		if got, err := ParseTargets([]string{bad}); err == nil {
			t.Errorf("%q was taken as %v", bad, got)
		}
	}
	var many []string
	for i := range MaxTargets + 1 {
		many = append(many, fmt.Sprintf("n%d.example", i))
	}
	if _, err := ParseTargets(many); err == nil {
		t.Error("an endless list was taken")
	}
}

func TestItLooksAtItsListOnlyAndReportsAgain(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	tick := make(chan time.Time, 1)
	tick <- time.Time{}
	var reports []Report
	r := Repeater{Cluster: "u", Every: time.Minute, Log: slog.New(slog.DiscardHandler), Targets: []Target{{"does-not-exist.invalid", 443}},
		Prober:     Prober{Timeout: time.Second},
		ResolvConf: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("nameserver 10.0.0.10")), nil },
		After:      func(time.Duration) <-chan time.Time { return tick },
		Send: func(_ context.Context, r Report) error {
			if reports = append(reports, r); len(reports) == 2 {
				stop()
			}
			return errors.New("the control plane is away, and what it answers is nobody's order")
		}}
	if err := r.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	if len(reports) != 2 {
		t.Fatalf("%d reports", len(reports))
	}
	for _, rep := range reports {
		if len(rep.Names) != 1 || rep.Names[0].Name != "does-not-exist.invalid" || rep.Names[0].Error == "" || len(rep.DNSServers) != 1 {
			t.Errorf("%+v", rep)
		}
		data, err := json.Marshal(rep)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseReport(data); err != nil {
			t.Errorf("its own report is refused: %v", err)
		}
	}
}

func TestForeignReportsAreRefused(t *testing.T) {
	good := Report{Kind: Kind, Names: []Name{{Name: "a.b", Addresses: []string{"10.0.0.1"}}}, Connections: []Connection{{Host: "a.b", Port: 443}}}
	for name, change := range map[string]func(*Report){
		"kind": func(r *Report) { r.Kind = "x" }, "address": func(r *Report) { r.Names[0].Addresses = []string{"<script>"} },
		"name": func(r *Report) { r.Names[0].Name = "$(reboot)" }, "host": func(r *Report) { r.Connections[0].Host = "" },
		"many": func(r *Report) { r.Names = make([]Name, MaxTargets+1) }, "text": func(r *Report) { r.Names[0].Error = strings.Repeat("x", 501) },
	} {
		r := good
		r.Names, r.Connections = append([]Name{}, good.Names...), append([]Connection{}, good.Connections...)
		change(&r)
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseReport(data); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for _, text := range []string{"", "null", "[]", `{"kind":"` + Kind + `","more":1}`, `{"kind":"` + Kind + `"}{}`, string(bytes.Repeat([]byte(" "), MaxReport+1))} {
		if _, err := ParseReport([]byte(text)); err == nil {
			t.Errorf("%.40q: taken", text)
		}
	}
}

func FuzzParseReport(f *testing.F) {
	f.Add([]byte(`{"kind":"` + Kind + `","cluster":"/c","names":[{"name":"a.b","addresses":["10.0.0.1"]}],"connections":[{"host":"a.b","port":443,"tcpMs":1.5}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseReport(data)
		if err != nil {
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseReport(again); err != nil && len(again) <= MaxReport {
			t.Errorf("%s: %v", again, err)
		}
	})
}

func FuzzParseTargets(f *testing.F) {
	f.Add("a.b:443")
	f.Fuzz(func(t *testing.T, s string) {
		list, err := ParseTargets([]string{s})
		if err != nil {
			return
		}
		again, err := ParseTargets([]string{list[0].String()})
		if err != nil || again[0] != list[0] {
			t.Errorf("%q: %v, %v", s, again, err)
		}
	})
}
