package readerunit

import (
	"fmt"
	"os"
	"strings"

	"openct/internal/machine"
	"openct/internal/notify"
)

// OfProcess is the unit of one handler that a process belongs to, as the kernel
// tells; empty: it is no such unit's. A handler that "openct-control init" has started
// itself is in the unit of init, which has others in it as well.
func OfProcess(root machine.Root, pid int) string {
	b, err := os.ReadFile(root.Path(fmt.Sprintf("proc/%d/cgroup", pid)))
	if err != nil || !root.SystemdRuns() {
		return ""
	}
	if unit := notify.UnitOf(string(b)); IsHandler(unit) {
		return unit
	}
	return ""
}

// The characters of a unit's name besides letters and digits (systemd.unit(5)).
const unitPunctuation = `:-_.\@`

// IsHandler says whether a unit is one of a handler, by its name: one of OpenCT's own
// or, where an administrator has made others, openct@ with an instance.
func IsHandler(name string) bool {
	return strings.HasPrefix(name, "openct") && strings.Contains(name, "@") && strings.HasSuffix(name, suffix) && len(name) <= maxName &&
		!strings.ContainsFunc(name, func(r rune) bool {
			return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && !strings.ContainsRune(unitPunctuation, r)
		})
}
