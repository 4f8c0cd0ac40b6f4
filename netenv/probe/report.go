package probe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
)

// MaxReport is the size of a report in bytes.
const MaxReport = 64 << 10

// ParseReport reads a report that came from elsewhere, and refuses what Run does
// not write: more than MaxTargets names, addresses that are none, unknown
// members, endless texts.
func ParseReport(data []byte) (Report, error) {
	var r Report
	if len(data) > MaxReport {
		return r, fmt.Errorf("probe report: larger than %d bytes", MaxReport)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return r, fmt.Errorf("probe report: %w", err)
	}
	if d.More() {
		return r, errors.New("probe report: more than one document")
	}
	if r.Kind != Kind {
		return r, fmt.Errorf("probe report: no report of kind %s", Kind)
	}
	if len(r.Names) > MaxTargets || len(r.Connections) > MaxTargets || len(r.DNSServers) > MaxTargets {
		return r, errors.New("probe report: too many names")
	}
	for _, n := range r.Names {
		if !hostName(n.Name) || len(n.Error) > maxText || len(n.Addresses) > MaxTargets {
			return r, fmt.Errorf("probe report: %.80q is no name with addresses", n.Name)
		}
		for _, a := range n.Addresses {
			if _, err := netip.ParseAddr(a); err != nil {
				return r, fmt.Errorf("probe report: %.80q is no address", a)
			}
		}
	}
	for _, c := range r.Connections {
		if !hostName(c.Host) || c.Port < 1 || c.Port > 65535 || len(c.Error) > maxText || c.TCP < 0 || c.TLS < 0 {
			return r, fmt.Errorf("probe report: %.80q is no attempt at a connection", c.Host)
		}
	}
	return r, nil
}

// maxText bounds a reason.
const maxText = 500
