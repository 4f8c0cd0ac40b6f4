package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func keyFile(t *testing.T) string {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "mandate.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestFlags(t *testing.T) {
	key := keyFile(t)
	good := []string{"--server", "https://sallyport.example.com", "--cluster", "u", "--mandate-key", key}
	var stderr bytes.Buffer
	c, err := parseFlags("proxy", good, &stderr)
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	if len(c.gateways) != 1 || c.gateways[0] != "sallyport.example.com:443" || c.tunnels != 2 {
		t.Errorf("defaults: %+v", c)
	}
	tests := []struct {
		name, want string
		args       []string
	}{
		{"http", "https", append([]string{"--server", "http://x"}, good[2:]...)},
		{"no cluster", "--cluster", []string{good[0], good[1], good[4], good[5]}},
		{"no key", "--mandate-key", good[:4]},
		{"not a key", "not PEM", append(good[:4:4], "--mandate-key", os.Args[0])},
		{"bad gateway", "host:port", append(good[:6:6], "--gateways", "nowhere")},
		{"probe of an address", "addresses and wildcards", append(good[:6:6], "--probes", "10.0.0.1:22")},
		{"probe of a range of ports", "no port", append(good[:6:6], "--probes", "a.example:1-1024")},
		{"too many tunnels", "--tunnels", append(good[:6:6], "--tunnels", "9")},
		{"leftover", "unexpected", append(good[:6:6], "x")},
		{"unknown flag", "not defined", append(good[:6:6], "--nope")},
	}
	for _, tt := range tests {
		var stderr bytes.Buffer
		if _, err := parseFlags("proxy", tt.args, &stderr); err == nil || !strings.Contains(stderr.String(), tt.want) {
			t.Errorf("%s: %v, said %q, want %q", tt.name, err, &stderr, tt.want)
		}
	}
}

func TestWrongCallsExitWith2(t *testing.T) {
	for _, args := range [][]string{nil, {"both"}, {"proxy"}, {"reconcile", "--tunnels", "2"}} {
		var stderr bytes.Buffer
		if code := run(t.Context(), args, &stderr); code != 2 || stderr.Len() == 0 {
			t.Errorf("%q: exit %d, said %q", args, code, &stderr)
		}
	}
}
