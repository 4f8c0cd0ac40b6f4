package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTheDocumentedExampleIsReadAndNamesEveryKey(t *testing.T) {
	example := filepath.Join("..", "..", "docs", "sallyportd.yaml")
	c, err := readConfig(example)
	if err != nil {
		t.Fatal(err)
	}
	if c.ExternalURL != "https://sallyport.example.com" || !c.plays("gateway") || time.Duration(c.DrainTimeout) != 30*time.Second {
		t.Errorf("example read as %+v", c)
	}
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"externalURL", "gatewayURL", "peers", "address", "listen", "listenFile", "location", "locations", "roles", "dataDir", "sealKeyFile", "adminFile",
		"tls", "certFile", "keyFile", "store", "endpoints", "caFile", "user", "passwordFile", "audit", "file", "readsWithoutAudit",
		"metrics", "log", "level", "format", "issuersFile", "privateIssuers", "trustedProxies",
		"drainTimeout", "maxBindingsPerCluster", "sameSubscription", "demandRegistration"} {
		if !strings.Contains(string(text), key+":") {
			t.Errorf("docs/sallyportd.yaml does not name %s", key)
		}
	}
}

func TestConfigRefuses(t *testing.T) {
	good := "externalURL: https://h:8443\ndataDir: /d\nsealKeyFile: /k/seal.key\n"
	tests := []struct{ name, yaml, want string }{
		{"nothing", "", "externalURL"},
		{"http", strings.Replace(good, "https", "http", 1), "externalURL"},
		{"a path", strings.Replace(good, ":8443", ":8443/x", 1), "externalURL"},
		{"no data", "externalURL: https://h\n", "dataDir"},
		{"no seal key", "externalURL: https://h\ndataDir: /d\n", "sealKeyFile"},
		{"seal key in the data", strings.Replace(good, "/k/", "/d/x/", 1), "lies in dataDir"},
		{"unknown key", good + "sealkey: x\n", "sealkey"},
		{"unknown role", good + "roles: [proxy]\n", "proxy"},
		{"ml without control", good + "roles: [ml, gateway, authority]\n", "behind control"},
		{"apart on an embedded store", good + "roles: [gateway]\n", "external store"},
		{"half a certificate", good + "tls: {certFile: a}\n", "go together"},
		{"a gateway's URL with a path", good + "gatewayURL: https://g/x\n", "gatewayURL"},
		{"peers on an embedded store", good + "peers: {listen: ':8444'}\n", "external store"},
		{"peers' address and no listener", good + "peers: {address: 'h:1'}\n", "peers.listen"},
		{"peers' address without a port", good + "store: {endpoints: [a]}\npeers: {listen: ':8444', address: h}\n", "peers.address"},
		{"peers' listener without a port", good + "store: {endpoints: [a]}\npeers: {listen: h}\n", "peers.listen"},
		{"foreign location", good + "location: mars\nlocations: [earth]\n", "mars"},
		{"bad duration", good + "drainTimeout: soon\n", "duration"},
		{"bad proxy", good + "trustedProxies: [10.0.0.1]\n", "trustedProxies"},
	}
	for _, tt := range tests {
		file := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(file, []byte(tt.yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readConfig(file); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want an error naming %q", tt.name, err, tt.want)
		}
	}
}

// The configurations of docs/production.md are taken as they stand there.
func TestTheConfigurationsForProductionAreGood(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "production.md"))
	if err != nil {
		t.Fatal(err)
	}
	read := map[string]*Config{}
	for _, block := range strings.Split(string(text), "```yaml\n# /etc/sallyport/")[1:] {
		name, rest, _ := strings.Cut(block, "\n")
		body, _, _ := strings.Cut(rest, "```")
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		if read[name], err = readConfig(file); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	control, gateway := read["control.yaml"], read["gateway.yaml"]
	if control == nil || gateway == nil {
		t.Fatalf("%v", read)
	}
	if gateway.seals() || gateway.Listen != ":443" || gateway.Peers.Listen == "" || !control.seals() || control.plays("gateway") || control.GatewayURL != gateway.GatewayURL {
		t.Errorf("control %+v, gateway %+v", control, gateway)
	}
}
