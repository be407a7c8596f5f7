//go:build linux && !ppc64 && !ppc64le

package serial

import "golang.org/x/sys/unix"

// Requests with a termios that has room for any speed (asm-generic/ioctls.h,
// asm/ioctls.h).
const (
	getTermios = unix.TCGETS2
	setTermios = unix.TCSETS2
)
