package netenv

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// broken is the private environment with one peering gone and hostile names.
func broken(t *testing.T) *Report {
	w := load(t, "private")
	w.set("vnets.json net-hub virtualNetworkPeerings", []any{})
	w.set("datastores.json lake account_name", `fraud<script>alert(1)</script>`)
	w.forget("roles.json")
	return w.check(Private)
}

func TestReportsInEveryFormat(t *testing.T) {
	r := broken(t)
	for _, format := range Formats {
		t.Run(format, func(t *testing.T) {
			var b bytes.Buffer
			if err := r.Write(&b, format); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(b.String(), "VN-05") {
				t.Error("the failure is not named")
			}
			switch format {
			case "json", "sarif":
				var v map[string]any
				if err := json.Unmarshal(b.Bytes(), &v); err != nil {
					t.Fatal(err)
				}
				if format == "json" && (v["profile"] != "private" || v["findings"] == nil) {
					t.Errorf("no profile or findings: %v", v["profile"])
				}
				if format == "sarif" {
					sarifShape(t, v)
				}
			case "junit":
				for d := xml.NewDecoder(&b); ; {
					if _, err := d.Token(); errors.Is(err, io.EOF) {
						break
					} else if err != nil {
						t.Fatal(err)
					}
				}
			case "html":
				if strings.Contains(b.String(), "<script>alert") {
					t.Error("a name of the input became markup")
				}
				for _, outside := range []string{"src=\"http", "href=\"http", "@import", "url(http"} {
					if strings.Contains(b.String(), outside) {
						t.Errorf("the page asks outside: %s", outside)
					}
				}
			}
		})
	}
}

// sarifProperties are what SARIF 2.1.0 (OASIS, section 3) lets the objects have
// that we write; the first of each list are required.
var sarifProperties = map[string]string{
	"log": "version runs ; $schema inlineExternalProperties properties", "run": "tool ; results artifacts invocations properties originalUriBaseIds columnKind",
	"tool": "driver ; extensions", "driver": "name ; informationUri rules version semanticVersion organization", "rule": "id ; name shortDescription fullDescription help helpUri defaultConfiguration properties messageStrings",
	"result":   "message ; ruleId ruleIndex kind level locations partialFingerprints fingerprints suppressions relatedLocations codeFlows properties baselineState",
	"location": "; physicalLocation logicalLocations message properties id", "physical": "artifactLocation ; region", "artifact": "uri ; uriBaseId index", "logical": "; name fullyQualifiedName decoratedName kind index parentIndex",
	"suppression": "kind ; justification status location guid", "message": "text ; markdown id arguments",
}

func sarifShape(t *testing.T, log map[string]any) {
	t.Helper()
	check := func(kind string, v any) map[string]any {
		o, ok := v.(map[string]any)
		if !ok {
			t.Fatalf("%s is a %T", kind, v)
		}
		need, may, _ := strings.Cut(sarifProperties[kind], ";")
		for _, k := range strings.Fields(need) {
			if o[k] == nil {
				t.Errorf("%s has no %s: %v", kind, k, o)
			}
		}
		for k := range o {
			if !slices.Contains(strings.Fields(need+" "+may), k) {
				t.Errorf("%s has a %s, which SARIF does not know", kind, k)
			}
		}
		return o
	}
	items := func(v any) []any { list, _ := v.([]any); return list }
	known := map[any]bool{}
	if check("log", log)["version"] != "2.1.0" || len(items(log["runs"])) != 1 {
		t.Errorf("version %v, %d runs", log["version"], len(items(log["runs"])))
	}
	run := check("run", items(log["runs"])[0])
	for _, r := range items(check("driver", check("tool", run["tool"])["driver"])["rules"]) {
		o := check("rule", r)
		known[o["id"]] = true
		for _, k := range []string{"shortDescription", "fullDescription", "help"} {
			check("message", o[k])
		}
	}
	for _, r := range items(run["results"]) {
		o := check("result", r)
		check("message", o["message"])
		kind, level := o["kind"].(string), o["level"].(string)
		if !known[o["ruleId"]] || !slices.Contains([]string{"pass", "fail", "open"}, kind) || !slices.Contains([]string{"none", "note", "warning", "error"}, level) || kind != "fail" && level != "none" {
			t.Errorf("rule %v, kind %s, level %s", o["ruleId"], kind, level)
		}
		for _, l := range items(o["locations"]) {
			loc := check("location", l)
			if p := loc["physicalLocation"]; p != nil {
				uri := check("artifact", check("physical", p)["artifactLocation"])["uri"].(string)
				if u, err := url.Parse(uri); err != nil || u.Path == "" {
					t.Errorf("uri %q: %v", uri, err)
				}
			}
			for _, g := range items(loc["logicalLocations"]) {
				check("logical", g)
			}
		}
		for _, x := range items(o["suppressions"]) {
			if k := check("suppression", x)["kind"]; k != "external" && k != "inSource" {
				t.Errorf("suppression of kind %v", k)
			}
		}
	}
}

func TestWhatCannotBeReadIsNotProven(t *testing.T) {
	w := load(t, "private")
	r := NewReader()
	for name, v := range w.files {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		r.Add(name, data, w.manifest[name])
	}
	r.Add("broken.json", []byte("{"), Export{})
	report := Check(r.Graph(), Options{Profile: Private, Now: testNow, Deployer: deployer})
	if report.Proven(false) || !report.Proven(true) || !strings.HasSuffix(report.Line(), "0 unknown, 1 not read: not proven") {
		t.Error(report.Line())
	}
}

func TestTheDrawings(t *testing.T) {
	r := broken(t)
	var term, svg bytes.Buffer
	if err := r.Draw(&term); err != nil {
		t.Fatal(err)
	}
	if err := r.DrawSVG(&svg); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"VNet net-aks", "cluster prod", "✗ VN-05", "─▶ workspace fraud (amlworkspace)", "privatelink.azurecr.io,"} {
		if !strings.Contains(term.String(), want) {
			t.Errorf("the terminal drawing lacks %q:\n%s", want, &term)
		}
	}
	for d := xml.NewDecoder(&svg); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("no XML: %v", err)
		}
	}
}

func TestTheVerdictLine(t *testing.T) {
	r := broken(t)
	if line := r.Line(); !strings.HasPrefix(line, "private: ") || !strings.Contains(line, " 1 fail, ") || !strings.Contains(line, "answered by th") || !strings.HasSuffix(line, ": not proven") {
		t.Error(line)
	}
	if r.Proven(true) {
		t.Error("a failure was proven away")
	}
}

func TestFollowersHideBehindTheirCauseOnly(t *testing.T) {
	w := load(t, "private")
	w.set("vnets.json net-hub virtualNetworkPeerings", []any{})
	w.drop("endpoints.json", named("fraudstore-file"))
	w.set("storage.json fraudstore privateEndpointConnections", []any{})
	shown := map[string]int{}
	for _, f := range w.check(Private).shown(Fail) {
		shown[f.Code+" "+f.Reason]++
	}
	if len(shown) != 2 || shown["VN-05 the peering exists one way only"] != 1 || shown["ST-01 storage account fraudstore has no private endpoint for group file"] != 1 {
		t.Errorf("shown: %v", shown)
	}
}

func TestSkipsAndBaselines(t *testing.T) {
	w := load(t, "private")
	w.set("vnets.json net-hub addressSpace.addressPrefixes", []any{"10.20.0.0/16", "172.17.0.0/16"})
	g := w.graph()
	count := func(o Options) int {
		o.Profile, o.Now = Private, testNow
		return Check(g, o).Count(Fail)
	}
	vnet := testGroup + "/providers/Microsoft.Network/virtualNetworks/net-hub"
	if n := count(Options{}); n != 1 {
		t.Fatalf("%d failures", n)
	}
	if n := count(Options{Skips: []Skip{{Code: "VN-01", Resource: vnet, Reason: "no Docker here", Until: testNow.AddDate(0, 1, 0)}}}); n != 0 {
		t.Error("the skip does not count")
	}
	if n := count(Options{Skips: []Skip{{Code: "VN-01", Reason: "no Docker here", Until: testNow.AddDate(0, -1, 0)}}}); n != 1 {
		t.Error("an expired skip counts")
	}
	if n := count(Options{Skips: []Skip{{Code: "VN-01"}}}); n != 1 {
		t.Error("a skip without reason counts")
	}
	before := Check(g, Options{Profile: Private, Now: testNow})
	keys := map[string]bool{}
	for _, f := range before.shown(Fail) {
		keys[f.Key()] = true
	}
	if n := count(Options{Baseline: keys}); n != 0 {
		t.Error("the baseline does not count")
	}
}
