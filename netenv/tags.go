package netenv

import (
	"net/netip"
	"strings"
)

// ServiceTags is Azure's published file of address ranges by service tag
// ("Azure IP Ranges and Service Tags").
type ServiceTags struct {
	Cloud    string
	prefixes map[string][]netip.Prefix // lower-case tag, AzureMachineLearning or AzureMachineLearning.WestEurope
}

func serviceTags(o object) (*ServiceTags, bool) {
	list, ok := o["values"].val.([]any)
	if _, numbered := o["changenumber"]; !ok || !numbered {
		return nil, false
	}
	t := &ServiceTags{prefixes: map[string][]netip.Prefix{}}
	t.Cloud, _ = o["cloud"].val.(string)
	for _, e := range list {
		tag := Value{state: Known, raw: e}
		texts, _ := tag.Get("addressPrefixes").Texts()
		for _, s := range texts {
			if p, err := netip.ParsePrefix(s); err == nil {
				name := strings.ToLower(tag.Get("name").Text())
				t.prefixes[name] = append(t.prefixes[name], p)
			}
		}
	}
	return t, true
}

// Ranges of a tag; nil when the file does not name it.
func (t *ServiceTags) Ranges(tag string) []netip.Prefix {
	if t == nil {
		return nil
	}
	return t.prefixes[strings.ToLower(tag)]
}

// covered says whether every wanted IPv4 range lies in one of the given ones.
func covered(wanted, given []netip.Prefix) (missing []netip.Prefix) {
	for _, w := range wanted {
		if !w.Addr().Is4() {
			continue
		}
		in := false
		for _, g := range given {
			if g.Bits() <= w.Bits() && g.Contains(w.Addr()) {
				in = true
				break
			}
		}
		if !in {
			missing = append(missing, w)
		}
	}
	return missing
}
