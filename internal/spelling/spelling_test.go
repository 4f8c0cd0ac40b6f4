package spelling

import "testing"

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"domain", "doamin", 2}, {"same", "same", 0}} {
		if got := Distance(c.a, c.b); got != c.want {
			t.Errorf("%q, %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"enableTraining", "enableInference", "domain"}
	for word, want := range map[string]string{"enabletraning": "enableTraining", "DOMAIN": "domain", "something": "", "": ""} {
		if got := Nearest(word, names, len(word)/3+1); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}
