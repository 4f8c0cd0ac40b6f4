package mandate

import (
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/trust"
)

const (
	ours   trust.ClusterUID = "0b9f4b52-4a0c-4c0e-9a35-3c1f6a3f0001"
	theirs trust.ClusterUID = "0b9f4b52-4a0c-4c0e-9a35-3c1f6a3f0002"
	uidA   trust.BindingUID = "7d3a1c6e-0000-4000-8000-00000000000a"
	uidB   trust.BindingUID = "7d3a1c6e-0000-4000-8000-00000000000b"
)

// key is fixed so that failures can be repeated.
func key(seed byte) (ed25519.PublicKey, ed25519.PrivateKey) {
	k := ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(seed), ed25519.SeedSize)))
	return k.Public().(ed25519.PublicKey), k
}

func grant(i int, namespaces ...string) trust.Grant {
	r := trust.Published()[i]
	return trust.Grant{Role: r.FullName(), Revision: r.Revision(), Namespaces: namespaces, Rules: r.Rules}
}

func sample() State {
	return State{Cluster: ours, Epoch: 1, Revision: 41, Bindings: []trust.Binding{
		{ID: "/subscriptions/S/b/a", UID: uidA, Cluster: ours, SourceID: "/subscriptions/S/w", Source: trust.Principal{Issuer: "https://i", Tenant: "t", Object: "o"}, Grants: []trust.Grant{grant(1), grant(2, "blue", "green")}},
		{ID: "/subscriptions/S/b/b", UID: uidB, Cluster: ours, SourceID: "/subscriptions/S/v", Source: trust.Principal{Issuer: "https://i", Tenant: "t", Object: "p"}, Grants: []trust.Grant{grant(1)}},
	}}
}

func TestSignOpen(t *testing.T) {
	pub, priv := key('k')
	data, err := Sign(priv, sample())
	if err != nil {
		t.Fatal(err)
	}
	got, err := Open(pub, ours, Floor{1, 41}, data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(), got); diff != "" {
		t.Errorf("state changed on its way (-sent +got):\n%s", diff)
	}
	again, err := Sign(priv, State{Cluster: ours, Epoch: 1, Revision: 41, Bindings: []trust.Binding{sample().Bindings[1], sample().Bindings[0]}})
	if err != nil {
		t.Fatal(err)
	}
	if string(again) != string(data) {
		t.Error("the order of bindings changes the bytes")
	}
	if n := strings.Count(string(payload(t, data)), `"persistentvolumeclaims/status"`); n != 1 {
		t.Errorf("the rules of one revision are listed %d times, want once", n)
	}
}

func payload(t *testing.T, data []byte) []byte {
	t.Helper()
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		t.Fatal(err)
	}
	return e.Payload
}

// forge signs a payload of a thief's choice with the right key, to reach the
// checks behind the signature.
func forge(t *testing.T, change func(*wireState)) []byte {
	t.Helper()
	_, priv := key('k')
	good, err := Sign(priv, sample())
	if err != nil {
		t.Fatal(err)
	}
	var w wireState
	if err := json.Unmarshal(payload(t, good), &w); err != nil {
		t.Fatal(err)
	}
	change(&w)
	data, err := seal(priv, stateContext, w)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestOpenRefuses(t *testing.T) {
	pub, priv := key('k')
	_, other := key('x')
	sign := func(k ed25519.PrivateKey, s State) []byte {
		data, err := Sign(k, s)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	foreign := sample()
	foreign.Cluster = theirs
	for i := range foreign.Bindings {
		foreign.Bindings[i].Cluster = theirs
	}
	good := sign(priv, sample())
	flipped := []byte(strings.Replace(string(good), `"payload":"e`, `"payload":"f`, 1))
	answer, err := SignAnswer(priv, Answer{Cluster: ours, Epoch: 9, Revision: 9, Nonce: NewNonce()})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		floor Floor
		data  []byte
		kind  trust.Kind
	}{
		{"old revision", Floor{1, 42}, good, trust.Conflict},
		{"old epoch", Floor{2, 1}, good, trust.Conflict},
		{"another cluster's", Floor{}, sign(priv, foreign), trust.Forbidden},
		{"another key", Floor{}, sign(other, sample()), trust.Forbidden},
		{"changed payload", Floor{}, flipped, trust.Forbidden},
		{"a signed answer in place of a state", Floor{}, answer, trust.Forbidden},
		{"no signature", Floor{}, []byte(`{"version":1,"payload":"e30="}`), trust.Forbidden},
		{"another version", Floor{}, []byte(strings.Replace(string(good), `"version":1`, `"version":2`, 1)), trust.Unsupported},
		{"two values", Floor{}, append(good[:len(good):len(good)], good...), trust.Invalid},
		{"unknown field", Floor{}, []byte(strings.Replace(string(good), `{"version"`, `{"x":1,"version"`, 1)), trust.Invalid},
		{"nothing", Floor{}, nil, trust.Invalid},
		{"too large", Floor{}, make([]byte, MaxSize+1), trust.TooLarge},
		{"rules of another hash", Floor{}, forge(t, func(w *wireState) {
			for r := range w.Rules {
				w.Rules[r] = []wireRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}}
			}
		}), trust.Invalid},
		{"grant without rules", Floor{}, forge(t, func(w *wireState) { w.Bindings[0].Grants[0].Revision = "no" }), trust.Invalid},
		{"uid that is no uid", Floor{}, forge(t, func(w *wireState) { w.Bindings[0].UID = "../x" }), trust.Invalid},
		{"uid twice", Floor{}, forge(t, func(w *wireState) { w.Bindings[0].UID = w.Bindings[1].UID }), trust.Invalid},
		{"no revision", Floor{}, forge(t, func(w *wireState) { w.Revision = 0 }), trust.Invalid},
	}
	for _, tt := range tests {
		s, err := Open(pub, ours, tt.floor, tt.data)
		if err == nil || trust.KindOf(err) != tt.kind || len(s.Bindings) > 0 {
			t.Errorf("%s: %v (kind %v), want kind %v", tt.name, err, trust.KindOf(err), tt.kind)
		}
	}
	if _, err := Open(nil, ours, Floor{}, good); err == nil {
		t.Error("an agent without a key accepted a state")
	}
}

func TestSignRefusesWhatDoesNotHoldTogether(t *testing.T) {
	_, priv := key('k')
	for name, change := range map[string]func(*State){
		"binding of another cluster": func(s *State) { s.Bindings[0].Cluster = theirs },
		"rules of another revision":  func(s *State) { s.Bindings[1].Grants[0].Rules = nil; s.Bindings = s.Bindings[1:] },
		"bad uid":                    func(s *State) { s.Bindings[0].UID = "UPPER" },
		"bad cluster":                func(s *State) { s.Cluster, s.Bindings = "x", nil },
	} {
		s := sample()
		change(&s)
		if _, err := Sign(priv, s); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	if _, err := Sign(nil, sample()); err == nil {
		t.Error("signed without a key")
	}
}

func TestAnswer(t *testing.T) {
	pub, priv := key('k')
	nonce := NewNonce()
	if nonce == NewNonce() || !ValidNonce(nonce) || ValidNonce("") || ValidNonce(nonce[1:]) || ValidNonce(nonce+"=") {
		t.Error("nonces repeat, or their form is not checked")
	}
	want := Answer{Cluster: ours, Epoch: 1, Revision: 7, Nonce: nonce}
	data, err := SignAnswer(priv, want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenAnswer(pub, ours, nonce, data); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := OpenAnswer(pub, ours, NewNonce(), data); trust.KindOf(err) != trust.Conflict {
		t.Errorf("another nonce: %v", err)
	}
	if _, err := OpenAnswer(pub, theirs, nonce, data); trust.KindOf(err) != trust.Forbidden {
		t.Errorf("another cluster: %v", err)
	}
	state, err := Sign(priv, sample())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAnswer(pub, ours, nonce, state); trust.KindOf(err) != trust.Forbidden {
		t.Errorf("a state in place of an answer: %v", err)
	}
	want.Nonce = "sallyport mandate state v1"
	if _, err := SignAnswer(priv, want); err == nil {
		t.Error("signed a caller's text as a nonce")
	}
}

func TestReport(t *testing.T) {
	g := grant(1)
	want := Report{Epoch: 1, Revision: 4, KubernetesVersion: "v1.36.3", Nodes: 3,
		Accepted: []Accepted{{Role: g.Role, Revision: g.Revision, Rules: g.Rules}},
		Bindings: []BindingReport{{UID: uidA, Applied: true}, {UID: uidB, Problem: &Problem{Code: RoleNotAccepted, Message: "m", Uncovered: g.Rules, Command: "c"}}}}
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseReport(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, bad := range []string{"", "[]", `{"epoch":-1}`, `{"bindings":[{"uid":"x"}]}`, `{"accepted":[{"revision":"00"}]}`} {
		if _, err := ParseReport([]byte(bad)); trust.KindOf(err) != trust.Invalid {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	pub, priv := key('k')
	good, err := Sign(priv, sample())
	if err != nil {
		f.Fatal(err)
	}
	var e envelope
	if err := json.Unmarshal(good, &e); err != nil {
		f.Fatal(err)
	}
	f.Add(good, []byte("{}"))
	f.Add([]byte(`{"version":1,"payload":"e30=","signature":""}`), []byte(e.Payload))
	f.Add([]byte("{"), []byte(`{"cluster":"`+string(ours)+`","revision":1,"bindings":[{"uid":"`+string(uidA)+`","grants":[{"revision":""}]}]}`))
	f.Add([]byte(nil), []byte(`{"rules":{"":[{"verbs":null}]}}`))
	f.Fuzz(func(t *testing.T, data, signed []byte) {
		// Outside bytes: nothing but what was signed opens.
		if s, err := Open(pub, ours, Floor{}, data); err == nil && string(payload(t, data)) != string(e.Payload) {
			t.Fatalf("opened what was not signed: %+v", s)
		}
		// Signed bytes of a control plane gone wrong: what opens holds together.
		env, err := json.Marshal(envelope{Version: 1, Payload: signed, Signature: ed25519.Sign(priv, append([]byte(stateContext), signed...))})
		if err != nil {
			t.Fatal(err)
		}
		s, err := Open(pub, ours, Floor{1, 2}, env)
		if err != nil {
			if trust.KindOf(err) == trust.Internal {
				t.Fatalf("no kind: %v", err)
			}
			return
		}
		if s.Cluster != ours || s.Floor().Before(Floor{1, 2}) {
			t.Fatalf("opened %+v", s)
		}
		if _, err := Sign(priv, s); err != nil {
			t.Fatalf("what was opened cannot be signed: %v", err)
		}
	})
}
