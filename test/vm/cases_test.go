//go:build vm

package vm

import "testing"

// cases in the order in which they run. Each stands for itself: it can be run
// alone with -run.
var cases = []struct {
	name string
	run  func(*testing.T, *guest)
}{
	{"system", testSystem},
}

func TestE2E(t *testing.T) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if err := vm.alive(); err != nil {
				t.Fatal(err)
			}
			vm.keepJournal(t)
			c.run(t, vm)
		})
	}
}
