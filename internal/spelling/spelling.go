// Package spelling finds what somebody may have meant by a name that is not known.
// What the names are, and what is said of it, is the caller's.
package spelling

import "strings"

// Nearest is the first of the names that fewest letters tell apart from word, case
// aside, and at most that many; "" if there is none.
func Nearest(word string, names []string, most int) string {
	best, least := "", most+1
	for _, n := range names {
		if d := Distance(strings.ToLower(word), strings.ToLower(n)); d < least {
			best, least = n, d
		}
	}
	return best
}

// Distance is Levenshtein's: how many bytes to add, drop or change to make a of b.
func Distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := corner
			if a[i] != b[j] {
				change++
			}
			corner = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
