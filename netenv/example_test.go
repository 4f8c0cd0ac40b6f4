package netenv_test

import (
	"fmt"

	"github.com/sallyport/sallyport/netenv"
)

// A check as a library: facts from any mix of files, and what fails.
func Example() {
	g, err := netenv.Read("testdata/private")
	if err != nil {
		fmt.Println(err)
		return
	}
	r := netenv.Check(g, netenv.Options{Profile: netenv.Private})
	for _, f := range r.Findings {
		if f.Verdict == netenv.Fail {
			fmt.Println(f.Code, f.Reason, f.Path(), f.Fix.Az)
		}
	}
	fmt.Println(r.Line())
	// Output:
	// private: 119 pass, 0 fail, 1 unknown: proven
}
