package ml

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// duration reads a positive ISO 8601 duration of whole seconds.
func duration(s string) (time.Duration, error) {
	d, err := fraction(s)
	if err != nil || d <= 0 || d%time.Second != 0 {
		return 0, fmt.Errorf("duration %q", s)
	}
	return d, nil
}

// fraction reads the part of ISO 8601 that clients send: PnDTnHnMn.nS, to the
// millisecond; zero is one.
func fraction(s string) (time.Duration, error) {
	m := isoDuration.FindStringSubmatch(s)
	if m == nil || s == "P" || strings.HasSuffix(s, "T") {
		return 0, fmt.Errorf("duration %q", s)
	}
	var d time.Duration
	for i, unit := range []time.Duration{24 * time.Hour, time.Hour, time.Minute, time.Second} {
		if m[i+1] == "" {
			continue
		}
		n, err := strconv.Atoi(m[i+1])
		if err != nil {
			return 0, err
		}
		d += time.Duration(n) * unit
	}
	if m[5] != "" {
		n, err := strconv.Atoi((m[5] + "000")[:3])
		if err != nil {
			return 0, err
		}
		d += time.Duration(n) * time.Millisecond
	}
	if d > 365*24*time.Hour {
		return 0, fmt.Errorf("duration %q", s)
	}
	return d, nil
}

var isoDuration = regexp.MustCompile(`^P(?:(\d{1,4})D)?(?:T(?:(\d{1,6})H)?(?:(\d{1,6})M)?(?:(\d{1,8})(?:\.(\d{1,9}))?S)?)?$`)
