package ml

import (
	"strings"
	"testing"
)

func TestFilledCommands(t *testing.T) {
	values := map[string]string{"inputs.x": "1", "outputs.o": "/mnt/o"}
	for command, want := range map[string]string{
		"run ${{inputs.x}} ${{ outputs.o }}":                "run 1 /mnt/o",
		"run $[[--x ${{inputs.x}}]] $[[--y ${{inputs.y}}]]": "run --x 1 ",
		"run $[[a[1] ]]":      "run a[1] ",
		"echo ${HOME} $(pwd)": "echo ${HOME} $(pwd)",
	} {
		if got, err := filled(command, values); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", command, got, err, want)
		}
	}
	for _, command := range []string{"run ${{inputs.y}}", "run ${{search_space.lr}}", "run ${{outputs.x}}"} {
		if got, err := filled(command, values); err == nil || !strings.Contains(err.Error(), "does not have") {
			t.Errorf("%q: %q, %v", command, got, err)
		}
	}
}

// Whatever a command is, no reference is left in it.
func FuzzFilled(f *testing.F) {
	f.Add("run ${{inputs.x}} $[[--y ${{inputs.y}}]] ]]")
	f.Fuzz(func(t *testing.T, command string) {
		got, err := filled(command, map[string]string{"inputs.x": "1"})
		if err == nil && anyReference.MatchString(got) {
			t.Errorf("%q became %q", command, got)
		}
	})
}
