package netenv

import "strings"

// tfName makes a name of Terraform from a resource's: letters, digits and
// underscores, not beginning with a digit.
func tfName(s string) string {
	var b strings.Builder
	for _, c := range strings.ToLower(s) {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			b.WriteRune(c)
		} else {
			b.WriteByte('_')
		}
	}
	out := strings.Trim(b.String(), "_")
	if out == "" || out[0] >= '0' && out[0] <= '9' {
		return "r_" + out
	}
	return out
}
