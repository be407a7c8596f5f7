//go:build linux && (ppc64 || ppc64le)

package serial

import "golang.org/x/sys/unix"

// PowerPC's one termios has room for any speed (asm/termbits.h).
const (
	getTermios = unix.TCGETS
	setTermios = unix.TCSETS
)
